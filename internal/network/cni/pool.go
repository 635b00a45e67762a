package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pool gives out a node's addresses. Each given one is an empty file
// dir/addresses/ADDRESS@CONTAINER@INTERFACE: one directory listing is the
// whole state, and there is no content that a crash could tear.
type pool struct {
	dir    string
	prefix netip.Prefix
}

// owner of an address.
type owner struct{ container, ifName string }

// settle is how old a record must be before the missing link of its pod means
// that the pod is gone, not that its ADD is still running.
const settle = time.Minute

func (p pool) addresses() string { return filepath.Join(p.dir, "addresses") }

// lock serialises everything that changes the pool, across processes.
func (p pool) lock() (unlock func(), err error) {
	if err := os.MkdirAll(p.addresses(), 0o700); err != nil {
		return nil, ioError(err)
	}
	f, err := os.OpenFile(filepath.Join(p.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, ioError(err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, ioError(err)
	}
	return func() { _ = f.Close() }, nil
}

func ioError(err error) error {
	return types.NewError(types.ErrIOFailure, "cannot use the address records", err.Error())
}

// list reads who has which address.
func (p pool) list() (map[netip.Addr]owner, error) {
	entries, err := os.ReadDir(p.addresses())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ioError(err)
	}
	given := make(map[netip.Addr]owner, len(entries))
	for _, e := range entries {
		parts := strings.Split(e.Name(), "@")
		if len(parts) != 3 {
			continue
		}
		if a, err := netip.ParseAddr(parts[0]); err == nil {
			given[a] = owner{parts[1], parts[2]}
		}
	}
	return given, nil
}

func (p pool) file(a netip.Addr, o owner) string {
	return filepath.Join(p.addresses(), a.String()+"@"+o.container+"@"+o.ifName)
}

// allocate gives the container an address; the same one if it has one. The
// search goes on from the last one given, so that an address rests as long as
// possible before somebody else has it.
func (p pool) allocate(container, ifName string) (netip.Addr, error) {
	unlock, err := p.lock()
	if err != nil {
		return netip.Addr{}, err
	}
	defer unlock()
	given, err := p.list()
	if err != nil {
		return netip.Addr{}, err
	}
	me := owner{container, ifName}
	for a, o := range given {
		if o == me && p.prefix.Contains(a) {
			return a, nil
		}
	}
	a := p.next(given)
	if !a.IsValid() {
		if err := p.sweep(given, p.gone); err != nil {
			return netip.Addr{}, err
		}
		if a = p.next(given); !a.IsValid() {
			return a, types.NewError(types.ErrTryAgainLater, "no address is free", p.prefix.String())
		}
	}
	f, err := os.OpenFile(p.file(a, me), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return netip.Addr{}, ioError(err)
	}
	if err := f.Close(); err != nil {
		return netip.Addr{}, ioError(err)
	}
	_ = os.WriteFile(filepath.Join(p.dir, "last"), []byte(a.String()), 0o600) // only an optimisation
	return a, nil
}

// next free address after the last given one, or none. The first and the last
// of the range stay unused, since many programs take them for special.
func (p pool) next(given map[netip.Addr]owner) netip.Addr {
	first, last := p.prefix.Addr().Next(), lastAddr(p.prefix)
	start := first
	if data, err := os.ReadFile(filepath.Join(p.dir, "last")); err == nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(data))); err == nil && p.prefix.Contains(a) && a.Next().Less(last) {
			start = a.Next()
		}
	}
	for a := start; ; {
		if _, taken := given[a]; !taken {
			return a
		}
		if a = a.Next(); !a.Less(last) {
			a = first
		}
		if a == start {
			return netip.Addr{}
		}
	}
}

// lastAddr of an IPv4 prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// find returns the container's address, or the zero Addr.
func (p pool) find(container, ifName string) (netip.Addr, error) {
	given, err := p.list()
	if err != nil {
		return netip.Addr{}, err
	}
	for a, o := range given {
		if o == (owner{container, ifName}) {
			return a, nil
		}
	}
	return netip.Addr{}, nil
}

func (p pool) release(container, ifName string) error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	given, err := p.list()
	if err != nil {
		return err
	}
	for a, o := range given {
		if o == (owner{container, ifName}) {
			if err := os.Remove(p.file(a, o)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return ioError(err)
			}
		}
	}
	return nil
}

// free counts the addresses that can be given.
func (p pool) free() (int, error) {
	given, err := p.list()
	if err != nil {
		return 0, err
	}
	n := 1<<(32-p.prefix.Bits()) - 2
	for a := range given {
		if p.prefix.Contains(a) {
			n--
		}
	}
	return n, nil
}

// gone reports whether an address's pod no longer exists: its network
// namespace took its end of the link along, and with it ours.
func (p pool) gone(a netip.Addr, o owner) bool {
	st, err := os.Stat(p.file(a, o))
	if err != nil || time.Since(st.ModTime()) < settle {
		return false
	}
	_, err = netlink.LinkByName(hostName(o.container, o.ifName))
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

// collect frees what valid does not vouch for.
func (p pool) collect(valid func(owner) bool) error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	given, err := p.list()
	if err != nil {
		return err
	}
	return p.sweep(given, func(_ netip.Addr, o owner) bool { return !valid(o) })
}

// sweep frees every address of which stale is true, and takes it out of given.
func (p pool) sweep(given map[netip.Addr]owner, stale func(netip.Addr, owner) bool) error {
	var errs []error
	for a, o := range given {
		if !stale(a, o) {
			continue
		}
		err := errors.Join(wire{container: o.container, ifName: o.ifName}.down(), unmapPorts(a))
		if err == nil {
			err = os.Remove(p.file(a, o))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("cannot free %s: %w", a, err))
			continue
		}
		delete(given, a)
	}
	return errors.Join(errs...)
}

// Sweep frees addresses whose pods are gone, as after a reboot. It is called
// when a node starts; the plugin itself does so when addresses run out.
func Sweep(dataDir string) error {
	p := pool{dir: dataDir}
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	given, err := p.list()
	if err != nil {
		return err
	}
	return p.sweep(given, p.gone)
}

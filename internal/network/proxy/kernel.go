package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/network/nft"
)

const family = nftables.TableFamilyIPv4

// perMessage bounds the elements of one netlink message: the attribute that
// holds them is limited to 64 KiB.
const perMessage = 400

func secondsOf(n int) time.Duration { return time.Duration(n) * time.Second }

// ranges that rules compare addresses with.
type ranges struct {
	pods     []netip.Prefix // this node's
	cluster  netip.Prefix
	services []netip.Prefix // none inside of another
}

// kernel applies tables. It remembers what it wrote; nobody else may write
// into the table.
type kernel struct {
	conn  *nftables.Conn
	rules *rules // nil until replace succeeded
}

func openKernel() (*kernel, error) {
	c, err := nft.Open()
	if err != nil {
		return nil, err
	}
	return &kernel{conn: c}, nil
}

func (k *kernel) close() { _ = k.conn.CloseLasting() }

// replace puts a new table in the place of whatever is there, in one
// transaction: every packet meets the old or the new one. Remembered clients
// are carried over as far as their endpoint is still there.
func (k *kernel) replace(t *Table, rg ranges) error {
	k.rules = nil
	remembered, err := k.remembered(t)
	if err != nil {
		return err
	}
	exists, err := nft.TableExists(k.conn, family, TableName)
	if err != nil {
		return err
	}
	r := newRules(k.conn, family)
	if exists {
		k.conn.DelTable(r.t)
	}
	if err := r.fixed(); err != nil {
		return err
	}
	if err := r.ranges(rg); err != nil {
		return err
	}
	var all []Element
	for e := range t.All() {
		all = append(all, e)
	}
	if err := r.add(all); err != nil {
		return err
	}
	if err := inChunks(remembered, func(part []nftables.SetElement) error { return k.conn.SetAddElements(r.aff, part) }); err != nil {
		return err
	}
	if err := k.conn.Flush(); err != nil {
		return fmt.Errorf("cannot replace table %s: %w", TableName, err)
	}
	k.rules = r
	return nil
}

// update changes elements in one transaction.
func (k *kernel) update(d Delta) error {
	if k.rules == nil {
		return errors.New("no table yet")
	}
	if err := k.rules.del(d.Del); err != nil {
		return err
	}
	if err := k.rules.add(d.Add); err != nil {
		return err
	}
	if err := k.conn.Flush(); err != nil {
		return fmt.Errorf("cannot change table %s: %w", TableName, err)
	}
	return nil
}

func (r *rules) ranges(rg ranges) error {
	for _, s := range []struct {
		set *nftables.Set
		of  []netip.Prefix
	}{{r.pods, rg.pods}, {r.all, []netip.Prefix{rg.cluster}}, {r.vips, rg.services}} {
		for _, p := range s.of {
			if err := r.conn.SetAddElements(s.set, nft.PrefixElements(p)); err != nil {
				return err
			}
		}
	}
	return nil
}

// add writes elements, and before them the chains that they lead to.
func (r *rules) add(list []Element) error {
	var bySet [numSets][]nftables.SetElement
	for _, e := range list {
		if e.Class != (Class{}) {
			r.class(e.Class)
		}
		bySet[e.Set] = append(bySet[e.Set], e.kernel())
	}
	for s, elems := range bySet {
		if err := inChunks(elems, func(part []nftables.SetElement) error { return r.conn.SetAddElements(r.sets[s], part) }); err != nil {
			return err
		}
	}
	return nil
}

func (r *rules) del(list []Element) error {
	var bySet [numSets][]nftables.SetElement
	for _, e := range list {
		bySet[e.Set] = append(bySet[e.Set], e.kernel())
	}
	for s, elems := range bySet {
		if err := inChunks(elems, func(part []nftables.SetElement) error { return r.conn.SetDeleteElements(r.sets[s], part) }); err != nil {
			return err
		}
	}
	return nil
}

func (e Element) kernel() nftables.SetElement {
	out := nftables.SetElement{Key: []byte(e.Key), Val: []byte(e.Val)}
	if e.KeyEnd != "" {
		out.KeyEnd = []byte(e.KeyEnd)
	}
	if e.Class != (Class{}) {
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.Class.Chain()}
	}
	return out
}

func inChunks(list []nftables.SetElement, fn func([]nftables.SetElement) error) error {
	for len(list) > 0 {
		n := min(len(list), perMessage)
		if err := fn(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// remembered reads the affinity map of the present table, if there is one,
// without what t does not lead to.
func (k *kernel) remembered(t *Table) ([]nftables.SetElement, error) {
	exists, err := nft.TableExists(k.conn, family, TableName)
	if err != nil || !exists {
		return nil, err
	}
	elems, err := k.conn.GetSetElements(newRules(k.conn, family).aff)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // a table of another version
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read affinities: %w", err)
	}
	var keep []nftables.SetElement
	for _, e := range elems {
		if stale, left := judge(t, e); !stale && left > 0 {
			keep = append(keep, nftables.SetElement{Key: e.Key, Val: e.Val, Timeout: left})
		}
	}
	return keep, nil
}

// judge reports whether an affinity leads to what is no longer an endpoint of
// its frontend, and how long it lasts.
func judge(t *Table, e nftables.SetElement) (stale bool, left time.Duration) {
	n := nft.AddrLen(family)
	if len(e.Key) < 2*n+8 {
		return true, 0
	}
	front := string(e.Key[n:])
	node := false
	if _, ok := t.get(elementID{set: services, key: front}); !ok {
		front, node = string(e.Key[2*n:]), true
	}
	left = e.Expires
	if left == 0 {
		left = e.Timeout
	}
	return !t.leads(front, node, string(e.Val)), left
}

// forget removes affinities that lead nowhere. A client that was sent there
// in the meantime may write one again, so it looks twice.
func (k *kernel) forget(t *Table) error {
	for range 3 {
		elems, err := k.conn.GetSetElements(k.rules.aff)
		if err != nil {
			return fmt.Errorf("cannot read affinities: %w", err)
		}
		var gone []nftables.SetElement
		for _, e := range elems {
			if stale, _ := judge(t, e); stale {
				gone = append(gone, nftables.SetElement{Key: e.Key, Val: e.Val})
			}
		}
		if len(gone) == 0 {
			return nil
		}
		if err := inChunks(gone, func(part []nftables.SetElement) error { return k.conn.SetDeleteElements(k.rules.aff, part) }); err != nil {
			return err
		}
		// One that expired meanwhile fails the transaction: look again.
		if err := k.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot forget affinities: %w", err)
		}
	}
	return nil
}

// Clean removes the table.
func Clean() error { return nft.Delete(family, TableName) }

// Package nft is the little that the proxy and the CNI plugin share about
// nftables: a connection with large buffers, key types and the expressions
// that their rules are made of.
//
// Keys of several fields occupy one 32-bit register per field, padded at the
// end, so a rule loads field by field into neighbouring registers and looks
// up from the first. Every rule stays within what nft(8) can print: a rule
// that it cannot express makes `nft list ruleset` abort for the whole machine
// (seen with nft 1.0.6 on a dynset whose data came from a map).
package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// bufferSize of the socket. A batch is one message to the kernel, and 10,000
// services make one of several megabytes.
const bufferSize = 64 << 20

// Open connects to nftables of the current network namespace. Close it with
// CloseLasting.
func Open() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(bufferSize), c.SetReadBuffer(bufferSize))
	}))
	if err != nil {
		return nil, fmt.Errorf("cannot reach nftables: %w", err)
	}
	return c, nil
}

// TableExists reports whether the kernel has a table of that name and family.
func TableExists(c *nftables.Conn, family nftables.TableFamily, name string) (bool, error) {
	tables, err := c.ListTablesOfFamily(family)
	if err != nil {
		return false, fmt.Errorf("cannot list nftables' tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == name {
			return true, nil
		}
	}
	return false, nil
}

// Delete removes a table if it exists.
func Delete(family nftables.TableFamily, name string) error {
	c, err := Open()
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseLasting() }()
	ok, err := TableExists(c, family, name)
	if err != nil || !ok {
		return err
	}
	c.DelTable(&nftables.Table{Family: family, Name: name})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot delete table %s: %w", name, err)
	}
	return nil
}

// R is the n-th 32-bit register, of 16.
func R(n int) uint32 { return unix.NFT_REG32_00 + uint32(n) }

// AddrLen of a family's addresses in bytes.
func AddrLen(f nftables.TableFamily) int {
	if f == nftables.TableFamilyIPv6 {
		return 16
	}
	return 4
}

// AddrType of a family's addresses.
func AddrType(f nftables.TableFamily) nftables.SetDatatype {
	if f == nftables.TableFamilyIPv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// SourceAddr loads the packet's source into register n and following.
func SourceAddr(f nftables.TableFamily, n int) expr.Any {
	offset := uint32(12) // RFC 791
	if f == nftables.TableFamilyIPv6 {
		offset = 8 // RFC 8200
	}
	return &expr.Payload{DestRegister: R(n), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(AddrLen(f))}
}

// DestAddr loads the packet's destination.
func DestAddr(f nftables.TableFamily, n int) expr.Any {
	offset := uint32(16)
	if f == nftables.TableFamilyIPv6 {
		offset = 24
	}
	return &expr.Payload{DestRegister: R(n), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(AddrLen(f))}
}

// Proto loads the transport protocol.
func Proto(n int) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: R(n)} }

// DestPort loads the transport's destination port: the same place in TCP, UDP
// and SCTP.
func DestPort(n int) expr.Any {
	return &expr.Payload{DestRegister: R(n), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// Equal goes on with the rule if register n holds data, NotEqual if it does not.
func Equal(n int, data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: R(n), Data: data}
}

// NotEqual is Equal's opposite.
func NotEqual(n int, data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: R(n), Data: data}
}

// In goes on if the key that starts in register n is in the set.
func In(n int, s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: R(n), SetName: s.Name, SetID: s.ID}
}

// NotIn is In's opposite.
func NotIn(n int, s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: R(n), SetName: s.Name, SetID: s.ID, Invert: true}
}

// Map loads what the map holds for the key from register n into register to;
// the rule ends if there is nothing.
func Map(n int, s *nftables.Set, to int) expr.Any {
	return &expr.Lookup{SourceRegister: R(n), DestRegister: R(to), IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

// Verdict executes the verdict that the map holds for the key from register n.
func Verdict(n int, s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: R(n), DestRegister: 0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

// Jump, Goto and Return move between chains.
func Jump(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: chain} }

// Goto does not come back.
func Goto(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }

// Return ends a chain.
func Return() expr.Any { return &expr.Verdict{Kind: expr.VerdictReturn} }

// DNAT rewrites the destination to the address in register addr and the port
// in register port.
func DNAT(f nftables.TableFamily, addr, port int) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f), RegAddrMin: R(addr), RegProtoMin: R(port), Specified: true}
}

// Local goes on if the destination is an address of this machine.
func Local() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: R(0), ResultADDRTYPE: true, FlagDADDR: true},
		Equal(0, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

// LocalDest goes on if it is one that is not a loopback address (CVE-2020-8558:
// those never reach the wire, nor services).
func LocalDest(f nftables.TableFamily) []expr.Any {
	exprs := Local()
	if f == nftables.TableFamilyIPv6 {
		return append(exprs, DestAddr(f, 0), NotEqual(0, netip.IPv6Loopback().AsSlice()))
	}
	return append(exprs, DestAddr(f, 0),
		&expr.Bitwise{SourceRegister: R(0), DestRegister: R(0), Len: 4, Mask: []byte{255, 0, 0, 0}, Xor: []byte{0, 0, 0, 0}},
		NotEqual(0, []byte{127, 0, 0, 0}))
}

// NewConnection goes on for the first packets of a connection.
func NewConnection(n int) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: R(n)},
		&expr.Bitwise{SourceRegister: R(n), DestRegister: R(n), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		NotEqual(n, make([]byte, 4)),
	}
}

// Concat is a key or value type of several fields.
func Concat(types ...nftables.SetDatatype) nftables.SetDatatype {
	return nftables.MustConcatSetType(types...)
}

// Field pads b to whole registers.
func Field(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// AppendAddr, AppendProto, AppendPort and AppendMark build keys.
func AppendAddr(b []byte, a netip.Addr) []byte { return append(b, a.AsSlice()...) }

// AppendProto appends a protocol number.
func AppendProto(b []byte, p uint8) []byte { return append(b, p, 0, 0, 0) }

// AppendPort appends a port.
func AppendPort(b []byte, p uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, p), 0, 0)
}

// AppendMark appends a number in the machine's byte order.
func AppendMark(b []byte, m uint32) []byte { return binary.NativeEndian.AppendUint32(b, m) }

// PrefixElements are the two ends by which an interval set holds a prefix.
func PrefixElements(p netip.Prefix) []nftables.SetElement {
	first := p.Masked().Addr()
	end := first.AsSlice()
	for i := p.Bits() - 1; i >= 0; i-- { // add one at the prefix's last bit
		bit := byte(0x80) >> (i % 8)
		if end[i/8]&bit == 0 {
			end[i/8] |= bit
			return []nftables.SetElement{{Key: first.AsSlice()}, {Key: end, IntervalEnd: true}}
		}
		end[i/8] &^= bit
	}
	return []nftables.SetElement{{Key: first.AsSlice()}} // up to the last address
}

package proxy

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/network/nft"
)

// TableName is the one table that the proxy owns.
const TableName = "knarr"

// masqMark on a packet asks the postrouting chain to masquerade it. It is the
// bit that kube-proxy uses, with the same meaning.
const masqMark = 0x4000

// maxAffinity bounds the clients that are remembered.
const maxAffinity = 1 << 20

// The priorities, around those of destination NAT (-100) and source NAT.
const (
	beforeNAT = -110
	afterNAT  = -98 // after hostPorts, too
)

// rules builds the table of one address family: sets, base chains and the
// chains of classes. A packet to a service takes this way:
//
//	prerouting or output, before NAT:  refused? → reject or drop
//	                      at NAT:      services or nodeports → chain of its class:
//	                                   affinity, or endpoints by a random slot → DNAT
//	                      after NAT:   sticky? → remember which endpoint it was
//	forward or output:                 still to a service address → reject
//	postrouting:                       marked, hairpin or leaving the cluster → masquerade
//
// Everything is looked up in maps, so the work per packet does not depend on
// the number of services, and a change of one touches its elements only.
type rules struct {
	f     nftables.TableFamily
	t     *nftables.Table
	sets  [numSets]*nftables.Set
	aff   *nftables.Set
	pods  *nftables.Set // this node's
	all   *nftables.Set // the cluster's
	vips  *nftables.Set // the service range
	conn  *nftables.Conn
	known map[Class]bool // chains that exist
}

func newRules(c *nftables.Conn, f nftables.TableFamily) *rules {
	r := &rules{f: f, conn: c, known: map[Class]bool{}, t: &nftables.Table{Family: f, Name: TableName}}
	addr, proto, port, slot := nft.AddrType(f), nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark
	target := nft.Concat(addr, port)
	set := func(name string, key ...nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: r.t, Name: name, KeyType: nft.Concat(key...), Concatenation: len(key) > 1, KeyByteOrder: binaryutil.BigEndian}
	}
	for s, key := range [numSets][]nftables.SetDatatype{
		services: {addr, proto, port}, nodePorts: {proto, port}, refused: {addr, proto, port}, refusedPorts: {proto, port},
		endpoints: {addr, proto, port, slot}, nodeEndpoints: {proto, port, slot}, sticky: {addr, proto, port}, stickyPorts: {proto, port},
		hairpin: {addr, addr}, sources: {addr, proto, port, addr},
	} {
		r.sets[s] = set(Set(s).String(), key...)
		switch Set(s) {
		case endpoints, nodeEndpoints:
			r.sets[s].IsMap, r.sets[s].DataType = true, target
		case sources:
			r.sets[s].Interval = true
		case hairpin:
		default:
			r.sets[s].IsMap, r.sets[s].DataType = true, nftables.TypeVerdict
		}
	}
	r.aff = set("affinity", addr, addr, proto, port)
	r.aff.IsMap, r.aff.DataType, r.aff.Dynamic, r.aff.HasTimeout, r.aff.Size = true, target, true, true, maxAffinity
	r.pods, r.all, r.vips = set("pods", addr), set("cluster", addr), set("servicecidr", addr)
	for _, s := range []*nftables.Set{r.pods, r.all, r.vips} {
		s.Interval = true
	}
	return r
}

// loader loads a key field by field into neighbouring registers.
type loader struct {
	f     nftables.TableFamily
	n     int
	exprs []expr.Any
}

func (l *loader) add(e expr.Any, registers int) *loader {
	l.exprs = append(l.exprs, e)
	l.n += registers
	return l
}

func (l *loader) regs() int      { return nft.AddrLen(l.f) / 4 }
func (l *loader) saddr() *loader { return l.add(nft.SourceAddr(l.f, l.n), l.regs()) }
func (l *loader) daddr() *loader { return l.add(nft.DestAddr(l.f, l.n), l.regs()) }
func (l *loader) proto() *loader { return l.add(nft.Proto(l.n), 1) }
func (l *loader) dport() *loader { return l.add(nft.DestPort(l.n), 1) }
func (l *loader) slot(n, base int) *loader {
	return l.add(&expr.Numgen{Register: nft.R(l.n), Modulus: uint32(n), Type: unix.NFT_NG_RANDOM, Offset: uint32(base)}, 1)
}

// The connection's first destination, before it was translated. The address
// is what the sticky chain left in the packet's priority: nft(8) cannot print
// a key that holds conntrack's copy (see package nft).
func (l *loader) firstDaddr() *loader {
	return l.add(&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: nft.R(l.n)}, l.regs())
}
func (l *loader) firstDport() *loader {
	return l.add(&expr.Ct{Key: expr.CtKeyPROTODST, Register: nft.R(l.n)}, 1)
}

func (r *rules) load() *loader { return &loader{f: r.f} }

func (r *rules) rule(chain string, exprs ...expr.Any) {
	r.conn.AddRule(&nftables.Rule{Table: r.t, Chain: &nftables.Chain{Table: r.t, Name: chain}, Exprs: exprs})
}

func (r *rules) chain(name string) { r.conn.AddChain(&nftables.Chain{Table: r.t, Name: name}) }

func (r *rules) base(name string, typ nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) {
	r.conn.AddChain(&nftables.Chain{Table: r.t, Name: name, Type: typ, Hooknum: hook, Priority: &priority})
}

// lookup ends a key by looking for a verdict.
func (l *loader) verdict(s *nftables.Set) []expr.Any { return append(l.exprs, nft.Verdict(0, s)) }

func (l *loader) in(s *nftables.Set) []expr.Any    { return append(l.exprs, nft.In(0, s)) }
func (l *loader) notIn(s *nftables.Set) []expr.Any { return append(l.exprs, nft.NotIn(0, s)) }

// dnat ends a key by translating to what the map holds for it.
func (l *loader) dnat(s *nftables.Set) []expr.Any {
	return append(l.exprs, nft.Map(0, s, l.n), nft.DNAT(l.f, l.n, l.n+l.regs()))
}

func drop() expr.Any { return &expr.Verdict{Kind: expr.VerdictDrop} }

// fixed adds what is there whatever the services: sets, chains and hooks.
func (r *rules) fixed() error {
	r.conn.AddTable(r.t)
	for _, s := range append(r.sets[:], r.aff, r.pods, r.all, r.vips) {
		if err := r.conn.AddSet(s, nil); err != nil {
			return err
		}
	}
	r.refusing()
	r.translating()
	r.remembering()
	r.masquerading()
	return nil
}

func (r *rules) refusing() {
	r.chain("refuse")
	r.rule("refuse", &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nft.R(0)}, nft.Equal(0, []byte{tcp}), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	code := uint8(3) // port unreachable, RFC 792
	if r.f == nftables.TableFamilyIPv6 {
		code = 4 // RFC 4443
	}
	r.rule("refuse", &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code})
	r.chain("discard")
	r.rule("discard", drop())
	r.known[Class{Refuse: true}], r.known[Class{Drop: true}] = true, true

	r.chain("check")
	r.rule("check", r.load().daddr().proto().dport().verdict(r.sets[refused])...)
	r.rule("check", append(r.toNode(), r.load().proto().dport().verdict(r.sets[refusedPorts])...)...)
	for name, hook := range map[string]*nftables.ChainHook{"check-prerouting": nftables.ChainHookPrerouting, "check-output": nftables.ChainHookOutput} {
		r.base(name, nftables.ChainTypeFilter, hook, beforeNAT)
		r.rule(name, append(nft.NewConnection(0), nft.Jump("check"))...)
	}
	// What is still on its way to a service address was nobody's: it must
	// not reach the default gateway.
	r.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	r.rule("forward", append(r.load().daddr().in(r.vips), nft.Goto("refuse"))...)
	r.base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter)
	r.rule("output", append(append(r.load().daddr().in(r.vips),
		&expr.Fib{Register: nft.R(0), ResultADDRTYPE: true, FlagDADDR: true}, nft.NotEqual(0, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))),
		nft.Goto("refuse"))...)
}

// toNode goes on for packets to the node's own addresses, neither loopback nor
// in the service range (the DNS address is there).
func (r *rules) toNode() []expr.Any {
	return append(nft.LocalDest(r.f), r.load().daddr().notIn(r.vips)...)
}

func (r *rules) translating() {
	r.chain("dispatch")
	r.rule("dispatch", r.load().daddr().proto().dport().verdict(r.sets[services])...)
	r.rule("dispatch", append(r.toNode(), r.load().proto().dport().verdict(r.sets[nodePorts])...)...)
	for name, hook := range map[string]*nftables.ChainHook{"nat-prerouting": nftables.ChainHookPrerouting, "nat-output": nftables.ChainHookOutput} {
		r.base(name, nftables.ChainTypeNAT, hook, *nftables.ChainPriorityNATDest)
		r.rule(name, nft.Jump("dispatch"))
	}
}

func (r *rules) remembering() {
	r.chain("remember")
	r.rule("remember", r.load().firstDaddr().proto().firstDport().verdict(r.sets[sticky])...)
	r.rule("remember", r.load().proto().firstDport().verdict(r.sets[stickyPorts])...)
	translated := []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: nft.R(0)},
		&expr.Bitwise{SourceRegister: nft.R(0), DestRegister: nft.R(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
		nft.NotEqual(0, make([]byte, 4)),
	}
	for name, hook := range map[string]*nftables.ChainHook{"remember-prerouting": nftables.ChainHookPrerouting, "remember-output": nftables.ChainHookOutput} {
		r.base(name, nftables.ChainTypeFilter, hook, afterNAT)
		r.rule(name, append(append(nft.NewConnection(0), translated...), nft.Jump("remember"))...)
	}
}

// ipsDstNAT is IPS_DST_NAT (nf_conntrack_common.h): the connection's
// destination is translated.
const ipsDstNAT = 1 << 5

func (r *rules) masquerading() {
	mark := func(mask, xor uint32) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: nft.R(0)},
			&expr.Bitwise{SourceRegister: nft.R(0), DestRegister: nft.R(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(xor)},
		}
	}
	set := &expr.Meta{Key: expr.MetaKeyMARK, Register: nft.R(0), SourceRegister: true}
	r.chain("mark-masquerade")
	r.rule("mark-masquerade", append(mark(^uint32(masqMark), masqMark), set)...)

	random := &expr.Masq{FullyRandom: true} // no two connections race for one port
	const post = "postrouting"
	r.base(post, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	marked := append(mark(masqMark, 0), nft.NotEqual(0, make([]byte, 4)))
	r.rule(post, append(append(marked, append(mark(^uint32(masqMark), 0), set)...), random)...)
	r.rule(post, append(r.load().saddr().daddr().in(r.sets[hairpin]), random)...)
	// Pods that leave the cluster do so as their node.
	r.rule(post, append(append(r.load().saddr().in(r.pods), r.load().daddr().notIn(r.all)...), random)...)
}

// class adds the chain of a class.
func (r *rules) class(c Class) {
	if r.known[c] {
		return
	}
	r.known[c] = true
	name := c.Chain()
	if c.Remember > 0 {
		r.chain(name)
		r.rememberFor(name, c.Remember)
		return
	}
	if c.Local {
		// Sources inside the cluster are served by any endpoint.
		inside := c
		inside.Local, inside.Locals, inside.Guarded = false, 0, false
		r.class(inside)
		r.chain(name)
		r.guard(name, c)
		r.rule(name, append(r.load().saddr().in(r.all), nft.Goto(inside.Chain()))...)
		r.rule(name, &expr.Fib{Register: nft.R(0), ResultADDRTYPE: true, FlagSADDR: true}, nft.Equal(0, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)), nft.Goto(inside.Chain()))
		if c.Locals == 0 {
			r.rule(name, drop())
			return
		}
		r.translate(name, c, c.Locals, localBase)
		return
	}
	r.chain(name)
	r.guard(name, c)
	// Answers must come back through this node. They do for this node's pods
	// anyway, and for cluster addresses to every pod.
	from := r.all
	if c.External {
		from = r.pods
	}
	r.rule(name, append(r.load().saddr().notIn(from), nft.Jump("mark-masquerade"))...)
	r.translate(name, c, c.Slots, 0)
}

func (r *rules) guard(name string, c Class) {
	if c.Guarded {
		r.rule(name, append(r.load().daddr().proto().dport().saddr().notIn(r.sets[sources]), drop())...)
	}
}

// translate picks the endpoint: the remembered one, or one of n slots.
func (r *rules) translate(name string, c Class, n, base int) {
	if c.Sticky {
		r.rule(name, append(r.load().daddr().exprs, &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: nft.R(0), SourceRegister: true})...)
		r.rule(name, r.load().saddr().daddr().proto().dport().dnat(r.aff)...)
	}
	if c.Node {
		r.rule(name, r.load().proto().dport().slot(n, base).dnat(r.sets[nodeEndpoints])...)
		return
	}
	r.rule(name, r.load().daddr().proto().dport().slot(n, base).dnat(r.sets[endpoints])...)
}

// rememberFor records, once the destination is translated, where the client
// was sent. (It cannot be done while translating: see package nft.)
func (r *rules) rememberFor(name string, seconds int) {
	key := r.load().saddr().firstDaddr().proto().firstDport()
	data := key.n
	key.daddr().dport()
	r.rule(name, append(key.exprs, &expr.Dynset{
		SrcRegKey: nft.R(0), SrcRegData: nft.R(data), SetName: r.aff.Name, SetID: r.aff.ID,
		Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Timeout: secondsOf(seconds),
	})...)
	// Only a connection's first packet comes here, and its priority was lent.
	r.rule(name, &expr.Immediate{Register: nft.R(0), Data: make([]byte, 4)}, &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: nft.R(0), SourceRegister: true})
}

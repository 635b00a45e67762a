package seccomp

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// returns are what a program returns for an action (linux/seccomp.h). As
// signed numbers they are in the order of strictness: the kernel takes the
// least of several filters.
var returns = [...]uint32{
	ActKillThread:  unix.SECCOMP_RET_KILL_THREAD,
	ActTrap:        unix.SECCOMP_RET_TRAP,
	ActNotify:      unix.SECCOMP_RET_USER_NOTIF,
	ActErrno:       unix.SECCOMP_RET_ERRNO,
	ActTrace:       unix.SECCOMP_RET_TRACE,
	ActAllow:       unix.SECCOMP_RET_ALLOW,
	ActLog:         unix.SECCOMP_RET_LOG,
	ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS,
}

func (a ScmpAction) returns() uint32 { return returns[a&0xffff] | uint32(a>>16) }

// stricter orders rules.
func stricter(a, b rule) int {
	return cmp.Compare(int32(returns[a.action&0xffff]), int32(returns[b.action&0xffff]))
}

// outcome is what becomes of a call: the first of the rules of which all
// conditions are true says it, or else there is the action.
type outcome struct {
	rules  []rule
	wide   bool // what the rules look at: see abi
	action ScmpAction
}

func (o outcome) equal(p outcome) bool {
	return o.action == p.action && o.wide == p.wide && slices.EqualFunc(o.rules, p.rules, func(a, b rule) bool {
		return a.action == b.action && slices.Equal(a.conditions, b.conditions)
	})
}

// numbered is what becomes of the call with a number.
type numbered struct {
	number uint32
	outcome
}

// outcomes adds those of an architecture's calls that rules are about, by number.
func (f *ScmpFilter) outcomes(out []numbered, a *abi) []numbered {
	rules := make([]rule, 0, len(f.rules))
	order := make([]uint64, 0, len(f.rules)) // numbers, and below them places of rules
	add := func(n uint32, r rule) {
		order = append(order, uint64(n)<<32|uint64(len(rules)))
		rules = append(rules, r)
	}
	for _, r := range f.rules {
		if a.callMux {
			if n, muxed, ok := mux(a, r); ok {
				add(n, muxed)
			}
		}
		if n, ok := r.call.on(a); ok {
			add(n, r.rule)
		}
	}
	slices.Sort(order)
	out = slices.Grow(out, len(order))
	for len(order) > 0 {
		o := numbered{uint32(order[0] >> 32), outcome{wide: a.wide, action: f.action}}
		always := false
		for ; len(order) > 0 && uint32(order[0]>>32) == o.number; order = order[1:] {
			r := rules[uint32(order[0])]
			if slices.ContainsFunc(r.conditions, a.holds) {
				r.conditions = slices.DeleteFunc(slices.Clone(r.conditions), a.holds)
			}
			switch {
			case always:
			case len(r.conditions) == 0:
				always = true
				o.outcome = outcome{action: r.action}
			default:
				o.rules = append(o.rules, r)
			}
		}
		if len(o.rules) > 1 {
			slices.SortStableFunc(o.rules, stricter)
		}
		out = append(out, o)
	}
	return out
}

// holds tells a condition that is true of any argument.
func (a *abi) holds(c ScmpCondition) bool {
	return c.Op == CompareMaskedEqual && c.Operand1&a.argumentBits() == 0
}

// argumentBits are those that conditions look at.
func (a *abi) argumentBits() uint64 {
	if a.wide {
		return math.MaxUint64
	}
	return math.MaxUint32
}

// mux is a rule about a call that 32-bit x86 has, or only has, as a number of
// another one. That one's arguments lie in memory, out of sight: as with
// libseccomp, a condition of the first is dropped, and others look at what is
// in their place.
func mux(a *abi, r callRule) (uint32, rule, bool) {
	name, number := muxed(r.call.name)
	if name == "" {
		return 0, rule{}, false
	}
	i, ok := find(name)
	if !ok {
		return 0, rule{}, false
	}
	n, ok := calls[i].on(a)
	conditions := slices.DeleteFunc(slices.Clone(r.conditions), func(c ScmpCondition) bool { return c.Argument == 0 })
	conditions = append(conditions, ScmpCondition{Op: CompareEqual, Operand1: number})
	return n, rule{r.action, conditions}, ok
}

// muxed is the call that has another one as a number in its first argument
// (linux/net.h, linux/ipc.h).
func muxed(name string) (in string, number uint64) {
	const socket, ipc = "socketcall", "ipc"
	switch name {
	case "socket":
		return socket, 1
	case "bind":
		return socket, 2
	case "connect":
		return socket, 3
	case "listen":
		return socket, 4
	case "accept":
		return socket, 5
	case "getsockname":
		return socket, 6
	case "getpeername":
		return socket, 7
	case "socketpair":
		return socket, 8
	case "send":
		return socket, 9
	case "recv":
		return socket, 10
	case "sendto":
		return socket, 11
	case "recvfrom":
		return socket, 12
	case "shutdown":
		return socket, 13
	case "setsockopt":
		return socket, 14
	case "getsockopt":
		return socket, 15
	case "sendmsg":
		return socket, 16
	case "recvmsg":
		return socket, 17
	case "accept4":
		return socket, 18
	case "recvmmsg":
		return socket, 19
	case "sendmmsg":
		return socket, 20
	case "semop":
		return ipc, 1
	case "semget":
		return ipc, 2
	case "semctl":
		return ipc, 3
	case "semtimedop":
		return ipc, 4
	case "msgsnd":
		return ipc, 11
	case "msgrcv":
		return ipc, 12
	case "msgget":
		return ipc, 13
	case "msgctl":
		return ipc, 14
	case "shmat":
		return ipc, 21
	case "shmdt":
		return ipc, 22
	case "shmget":
		return ipc, 23
	case "shmctl":
		return ipc, 24
	}
	return "", 0
}

// span is an outcome from a number on.
type span struct {
	from uint32
	outcome
}

// cancelled is the number of a call that a tracer has taken away: not one of
// x32, although it has its bit.
const cancelled = math.MaxUint32

// spans cover all numbers of the architectures that the kernel calls by one
// name: amd64 and x32 share theirs.
func (f *ScmpFilter) spans(group []*abi) []span {
	other, foreign := outcome{action: f.action}, outcome{action: badArch}
	starts := []numbered{{0, foreign}, {cancelled, other}}
	if group[0].audit == auditX86 {
		starts = append(starts, numbered{x32Bit, foreign})
	}
	var rules []numbered
	for _, a := range group {
		starts = append(starts, numbered{a.first, other})
		rules = f.outcomes(rules, a) // the numbers of x32 are above those of amd64
	}
	slices.SortStableFunc(starts, func(x, y numbered) int { return cmp.Compare(x.number, y.number) })
	var all []span
	add := func(from uint32, o outcome) {
		if n := len(all); n > 0 && all[n-1].from == from {
			all = all[:n-1]
		}
		if n := len(all); n == 0 || !all[n-1].equal(o) {
			all = append(all, span{from, o})
		}
	}
	between := foreign
	for len(starts) > 0 || len(rules) > 0 {
		if len(rules) == 0 || len(starts) > 0 && starts[0].number <= rules[0].number {
			between = starts[0].outcome
			add(starts[0].number, between)
			starts = starts[1:]
			continue
		}
		add(rules[0].number, rules[0].outcome)
		add(rules[0].number+1, between)
		rules = rules[1:]
	}
	return all
}

// badArch is for calls of an architecture that the filter lacks.
const badArch = ActKillThread

// Where the kernel shows a program the call: struct seccomp_data.
const (
	offsetNumber   = 0
	offsetAudit    = 4
	offsetArgument = 16
)

// longest is what the kernel takes: BPF_MAXINSNS.
const longest = 4096

// program finds the architecture, then the number among its spans by halving,
// then looks at arguments.
func (f *ScmpFilter) program() ([]bpf.Instruction, error) {
	var groups [][]*abi
	for _, arch := range f.archs {
		a := abiOf(arch)
		if a == nil {
			continue
		}
		if i := slices.IndexFunc(groups, func(g []*abi) bool { return g[0].audit == a.audit }); i >= 0 {
			groups[i] = append(groups[i], a)
		} else {
			groups = append(groups, []*abi{a})
		}
	}
	b := &builder{rets: map[uint32]label{}}
	next := b.ret(badArch)
	for _, group := range slices.Backward(groups) {
		slices.SortFunc(group, func(x, y *abi) int { return cmp.Compare(x.first, y.first) })
		b.next(b.search(f.spans(group)))
		section := b.load(offsetNumber)
		next = b.jump(bpf.JumpEqual, group[0].audit, section, next)
	}
	b.load(offsetAudit)
	if len(b.code) > longest {
		return nil, fmt.Errorf("the rules make a program of %d instructions: the kernel takes %d", len(b.code), longest)
	}
	slices.Reverse(b.code)
	return b.code, nil
}

// builder writes a program from its end, so that a jump, which is always
// forward, knows how far it goes.
type builder struct {
	code []bpf.Instruction
	rets map[uint32]label // the last one written of each
}

// label is an instruction's place, counted from the end.
type label int

func (b *builder) emit(i bpf.Instruction) label {
	b.code = append(b.code, i)
	return label(len(b.code) - 1)
}

// far is as much as a conditional jump can skip, less what near may add.
const far = math.MaxUint8 - 2

// near returns a place from which a conditional jump reaches one.
func (b *builder) near(l label) label {
	if len(b.code)-int(l) <= far {
		return l
	}
	return b.next(l)
}

// next makes a place what comes after the next instruction that is written.
func (b *builder) next(l label) label {
	skip := len(b.code) - int(l) - 1
	if skip == 0 {
		return l
	}
	if ret, ok := b.code[l].(bpf.RetConstant); ok {
		return b.emit(ret)
	}
	return b.emit(bpf.Jump{Skip: uint32(skip)})
}

func (b *builder) jump(cond bpf.JumpTest, value uint32, yes, no label) label {
	yes = b.near(yes)
	no = b.near(no)
	here := len(b.code)
	return b.emit(bpf.JumpIf{Cond: cond, Val: value, SkipTrue: uint8(here - int(yes) - 1), SkipFalse: uint8(here - int(no) - 1)})
}

func (b *builder) load(offset uint32) label { return b.emit(bpf.LoadAbsolute{Off: offset, Size: 4}) }

func (b *builder) ret(a ScmpAction) label {
	value := a.returns()
	l, ok := b.rets[value]
	if !ok || len(b.code)-int(l) > far {
		l = b.emit(bpf.RetConstant{Val: value})
		b.rets[value] = l
	}
	return l
}

// search halves spans until one is left.
func (b *builder) search(spans []span) label {
	if len(spans) == 1 {
		return b.outcome(spans[0].outcome)
	}
	mid := len(spans) / 2
	above := b.search(spans[mid:])
	below := b.search(spans[:mid])
	return b.jump(bpf.JumpGreaterOrEqual, spans[mid].from, above, below)
}

func (b *builder) outcome(o outcome) label {
	next := b.ret(o.action)
	for _, r := range slices.Backward(o.rules) {
		yes := b.ret(r.action)
		for _, c := range slices.Backward(r.conditions) {
			yes = b.condition(c, o.wide, yes, next)
		}
		next = yes
	}
	return next
}

// condition goes on at yes if it is true, else at no. The halves of an argument
// are looked at one after the other, the upper one first.
func (b *builder) condition(c ScmpCondition, wide bool, yes, no label) label {
	mask, value := uint64(math.MaxUint64), c.Operand1
	test := bpf.JumpEqual
	switch c.Op {
	case CompareMaskedEqual:
		mask, value = c.Operand1, c.Operand2&c.Operand1
	case CompareNotEqual:
		yes, no = no, yes
	case CompareGreater:
		test = bpf.JumpGreaterThan
	case CompareLessOrEqual:
		test = bpf.JumpGreaterThan
		yes, no = no, yes
	case CompareGreaterEqual:
		test = bpf.JumpGreaterOrEqual
	case CompareLess:
		test = bpf.JumpGreaterOrEqual
		yes, no = no, yes
	}
	offset := offsetArgument + 8*uint32(c.Argument)
	here := b.half(offset, uint32(mask), uint32(value), test, yes, no)
	if !wide {
		return here
	}
	equal := here
	if test == bpf.JumpEqual {
		return b.half(offset+4, uint32(mask>>32), uint32(value>>32), test, equal, no)
	}
	// Equal upper halves leave it to the lower ones.
	differ := b.jump(bpf.JumpEqual, uint32(value>>32), equal, no)
	b.jump(bpf.JumpGreaterThan, uint32(value>>32), yes, differ)
	return b.load(offset + 4)
}

// half looks at one half of an argument, unless nothing of it counts.
func (b *builder) half(offset, mask, value uint32, test bpf.JumpTest, yes, no label) label {
	if mask == 0 {
		return yes
	}
	b.jump(test, value, yes, no)
	if mask != math.MaxUint32 {
		b.emit(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
	}
	return b.load(offset)
}

// encode writes instructions as an array of struct sock_filter.
func encode(program []bpf.Instruction) ([]byte, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, err
	}
	var b []byte
	for _, i := range raw {
		b = binary.NativeEndian.AppendUint16(b, i.Op)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b, nil
}

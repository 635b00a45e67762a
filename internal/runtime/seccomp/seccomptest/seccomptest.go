// Package seccomptest says what a profile means, the obvious way, makes
// profiles and calls, and runs programs: for the tests of the compiler, also
// beside libseccomp.
package seccomptest

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"
)

// Profile is what a filter is made from.
type Profile struct {
	Default seccomp.ScmpAction
	Archs   []seccomp.ScmpArch // besides the machine's own
	Rules   []Rule
}

// Rule is about a call by its name.
type Rule struct {
	Name       string
	Action     seccomp.ScmpAction
	Conditions []seccomp.ScmpCondition
}

// Call is what a program sees.
type Call struct {
	Number, Audit uint32
	Args          [6]uint64
}

// ABI is what the meaning of a profile needs to know of an architecture.
type ABI struct {
	Arch  seccomp.ScmpArch
	Audit uint32
	Bits  uint64 // of an argument that conditions see
}

// ABIs are those that amd64 and arm64 can run.
var ABIs = []ABI{
	{seccomp.ArchX86, 0x40000003, math.MaxUint32}, {seccomp.ArchAMD64, 0xc000003e, math.MaxUint64}, {seccomp.ArchX32, 0xc000003e, math.MaxUint32},
	{seccomp.ArchARM, 0x40000028, math.MaxUint32}, {seccomp.ArchARM64, 0xc00000b7, math.MaxUint64},
}

// Filter adds a profile's rules to a filter.
func (p Profile) Filter() (*seccomp.ScmpFilter, error) {
	f, err := seccomp.NewFilter(p.Default)
	if err != nil {
		return nil, err
	}
	for _, a := range p.Archs {
		if err := f.AddArch(a); err != nil {
			return nil, err
		}
	}
	for _, r := range p.Rules {
		n, err := seccomp.GetSyscallFromName(r.Name)
		if err != nil {
			return nil, err
		}
		if err := f.AddRuleConditional(n, r.Action, r.Conditions); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Program is what the compiler makes of a profile.
func (p Profile) Program() ([]byte, error) {
	f, err := p.Filter()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	wrote := make(chan error, 1)
	go func() {
		defer w.Close()
		wrote <- f.ExportBPF(w)
	}()
	program, err := io.ReadAll(r)
	if err := <-wrote; err != nil {
		return nil, err
	}
	return program, err
}

// Meaning is what a profile's rules say of a call: one action, or several that
// overlapping rules with conditions differ about.
func (p Profile) Meaning(c Call) []seccomp.ScmpAction {
	a, ok := p.abi(c)
	if !ok {
		return []seccomp.ScmpAction{seccomp.ActKillThread}
	}
	var said []seccomp.ScmpAction
	for _, r := range p.About(c) {
		if len(r.Conditions) == 0 {
			return []seccomp.ScmpAction{r.Action}
		}
		if !slices.ContainsFunc(r.Conditions, func(x seccomp.ScmpCondition) bool { return !holds(x, c.Args[x.Argument], a.Bits) }) {
			said = append(said, r.Action)
		}
	}
	if said == nil {
		said = append(said, p.Default)
	}
	return said
}

// About are the rules about calls of a number, as they are on its
// architecture, without conditions that are true of any argument.
func (p Profile) About(c Call) []Rule {
	a, ok := p.abi(c)
	if !ok {
		return nil
	}
	var about []Rule
	for _, r := range p.Rules {
		for _, r := range variants(a, r) {
			n, err := seccomp.GetSyscallFromNameByArch(r.Name, a.Arch)
			if err != nil || n < 0 || uint32(n) != c.Number {
				continue
			}
			r.Conditions = slices.DeleteFunc(slices.Clone(r.Conditions), func(c seccomp.ScmpCondition) bool {
				return c.Op == seccomp.CompareMaskedEqual && c.Operand1&a.Bits == 0
			})
			about = append(about, r)
		}
	}
	return about
}

// abi is the architecture of a call, if the profile has it.
func (p Profile) abi(c Call) (ABI, bool) {
	native, err := seccomp.GetNativeArch()
	if err != nil {
		return ABI{}, false
	}
	has := func(arch seccomp.ScmpArch) bool { return arch == native || slices.Contains(p.Archs, arch) }
	for _, a := range ABIs {
		if a.Audit != c.Audit || !has(a.Arch) {
			continue
		}
		x32 := c.Number&0x40000000 != 0 || c.Number >= 0x80000000
		switch {
		case a.Arch == seccomp.ArchAMD64 && x32 && c.Number != math.MaxUint32:
		case a.Arch == seccomp.ArchX32 && !x32:
		default:
			return a, true
		}
	}
	return ABI{}, false
}

// Socketcalls and IPCs are the calls that 32-bit x86 has as numbers of socketcall
// and ipc.
var Socketcalls = []string{
	1: "socket", 2: "bind", 3: "connect", 4: "listen", 5: "accept", 6: "getsockname", 7: "getpeername", 8: "socketpair", 9: "send", 10: "recv",
	11: "sendto", 12: "recvfrom", 13: "shutdown", 14: "setsockopt", 15: "getsockopt", 16: "sendmsg", 17: "recvmsg", 18: "accept4", 19: "recvmmsg",
	20: "sendmmsg",
}

var IPCs = []string{
	1: "semop", 2: "semget", 3: "semctl", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv", 13: "msgget", 14: "msgctl", 21: "shmat", 22: "shmdt",
	23: "shmget", 24: "shmctl",
}

// variants are a rule and, on 32-bit x86, what it is as a number of socketcall
// or ipc.
func variants(a ABI, r Rule) []Rule {
	all := []Rule{r}
	if a.Arch != seccomp.ArchX86 {
		return all
	}
	for call, names := range map[string][]string{"socketcall": Socketcalls, "ipc": IPCs} {
		i := slices.Index(names, r.Name)
		if i < 0 {
			continue
		}
		v := Rule{Name: call, Action: r.Action, Conditions: []seccomp.ScmpCondition{{Argument: 0, Op: seccomp.CompareEqual, Operand1: uint64(i)}}}
		for _, c := range r.Conditions {
			if c.Argument != 0 {
				v.Conditions = append(v.Conditions, c)
			}
		}
		all = append(all, v)
	}
	return all
}

func holds(c seccomp.ScmpCondition, arg, bits uint64) bool {
	arg &= bits
	x, y := c.Operand1&bits, c.Operand2&bits
	switch c.Op {
	case seccomp.CompareNotEqual:
		return arg != x
	case seccomp.CompareLess:
		return arg < x
	case seccomp.CompareLessOrEqual:
		return arg <= x
	case seccomp.CompareEqual:
		return arg == x
	case seccomp.CompareGreaterEqual:
		return arg >= x
	case seccomp.CompareGreater:
		return arg > x
	case seccomp.CompareMaskedEqual:
		return arg&x == y&x
	}
	panic(fmt.Sprintf("comparison %d", c.Op))
}

// Strictest is the least of actions in the kernel's order.
func Strictest(actions []seccomp.ScmpAction) uint32 {
	return Returns(slices.MinFunc(actions, func(a, b seccomp.ScmpAction) int {
		return int(int32(Returns(a)&0xffff0000)) - int(int32(Returns(b)&0xffff0000))
	}))
}

// Returns is what a program returns for an action (linux/seccomp.h).
func Returns(a seccomp.ScmpAction) uint32 {
	code := uint32(a >> 16)
	switch a & 0xffff {
	case seccomp.ActKillProcess:
		return 0x80000000
	case seccomp.ActKillThread:
		return 0
	case seccomp.ActTrap:
		return 0x00030000
	case seccomp.ActErrno:
		return 0x00050000 | code
	case seccomp.ActNotify:
		return 0x7fc00000
	case seccomp.ActTrace:
		return 0x7ff00000 | code
	case seccomp.ActLog:
		return 0x7ffc0000
	case seccomp.ActAllow:
		return 0x7fff0000
	}
	panic(fmt.Sprintf("action %d", a))
}

// Machine runs a program.
type Machine struct{ vm *bpf.VM }

// NewMachine takes a program as the kernel does, an array of struct
// sock_filter.
func NewMachine(program []byte) (Machine, error) {
	var raw []bpf.RawInstruction
	for i := 0; i+8 <= len(program); i += 8 {
		p := program[i:]
		raw = append(raw, bpf.RawInstruction{Op: binary.NativeEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.NativeEndian.Uint32(p[4:])})
	}
	code, ok := bpf.Disassemble(raw)
	if !ok || len(program)%8 != 0 {
		return Machine{}, fmt.Errorf("%d bytes are no program", len(program))
	}
	vm, err := bpf.NewVM(code)
	return Machine{vm}, err
}

// Run returns what the program returns for a call.
func (m Machine) Run(c Call) (uint32, error) {
	// This machine loads words in network order, the kernel in its own. The
	// instruction's address is not looked at.
	words := []uint32{c.Number, c.Audit, 0, 0}
	for _, a := range c.Args {
		words = append(words, uint32(a), uint32(a>>32))
	}
	var data []byte
	for _, w := range words {
		data = binary.BigEndian.AppendUint32(data, w)
	}
	n, err := m.vm.Run(data)
	return uint32(n), err
}

// names are a few calls of each sort: old, new, many in one, of one
// architecture, and whose numbers x32 has for itself.
var names = []string{
	"read", "write", "open", "close", "clone", "clone3", "ioctl", "execve", "futex", "openat2", "personality", "socket", "accept", "accept4",
	"sendmsg", "recv", "socketcall", "semop", "semtimedop", "shmat", "msgget", "ipc", "restart_syscall", "io_setup", "preadv2", "set_tls",
	"breakpoint", "arm_fadvise64_64", "fchmodat2", "getuid32", "_llseek", "ptrace", "arch_prctl",
}

var operands = []uint64{
	0, 1, 2, 40, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 1 << 32, 1<<32 + 1, 1<<32 + 40, 0x1_ffffffff, 0x7fffffff_ffffffff,
	1 << 63, 0xffffffff_00000000, 0xffffffff_fffffffe, math.MaxUint64, 0x7e020000,
}

var actions = []seccomp.ScmpAction{
	seccomp.ActKillThread, seccomp.ActTrap, seccomp.ActErrno, seccomp.ActErrno.SetReturnCode(1), seccomp.ActErrno.SetReturnCode(38),
	seccomp.ActTrace.SetReturnCode(7), seccomp.ActAllow, seccomp.ActLog, seccomp.ActKillProcess, seccomp.ActNotify,
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// Random makes a profile of fewer rules than most, with one action besides the
// default, or with several.
func Random(r *rand.Rand, most int) Profile {
	p := Profile{Default: pick(r, actions)}
	for _, a := range ABIs {
		if r.IntN(3) > 0 {
			p.Archs = append(p.Archs, a.Arch)
		}
	}
	usual := pick(r, actions)
	mixed := r.IntN(2) == 0
	few := names[:1+r.IntN(len(names))]
	for range r.IntN(most) {
		rule := Rule{Name: pick(r, few), Action: usual}
		if mixed {
			rule.Action = pick(r, actions)
		}
		if rule.Action == p.Default {
			continue
		}
		for _, arg := range r.Perm(6)[:pick(r, []int{0, 1, 1, 1, 2, 3, 6})] {
			op := seccomp.CompareNotEqual + seccomp.ScmpCompareOp(r.IntN(int(seccomp.CompareMaskedEqual)))
			rule.Conditions = append(rule.Conditions, seccomp.ScmpCondition{Argument: uint(arg), Op: op, Operand1: pick(r, operands), Operand2: pick(r, operands)})
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// Calls are calls that tell a right program for a profile from a wrong one:
// of all architectures and an unknown one, of the rules' numbers and those
// beside, with arguments at the conditions' bounds.
func Calls(r *rand.Rand, p Profile) []Call {
	values := slices.Clone(operands)
	numbers := []uint32{0, 1, 599, 0x3fffffff, 0x40000000, 0x40000001, 0x7fffffff, 0x80000000, 0xfffffffe, math.MaxUint32, r.Uint32(), r.Uint32() & 0x400003ff}
	for _, rule := range p.Rules {
		for _, a := range ABIs {
			for _, rule := range variants(a, rule) {
				if n, err := seccomp.GetSyscallFromNameByArch(rule.Name, a.Arch); err == nil && n >= 0 {
					n := uint32(n)
					numbers = append(numbers, n-1, n, n, n+1, n^0x40000000)
				}
			}
		}
		for _, c := range rule.Conditions {
			for _, v := range []uint64{c.Operand1, c.Operand2 & c.Operand1, c.Operand1>>32 | c.Operand1<<32} {
				values = append(values, v-1, v, v, v+1, v^1<<32, v+1<<32, v-1<<32)
			}
		}
	}
	audits := []uint32{0xc0000016}
	for _, a := range ABIs {
		audits = append(audits, a.Audit)
	}
	calls := make([]Call, 300)
	for i := range calls {
		c := &calls[i]
		c.Number, c.Audit = pick(r, numbers), pick(r, audits)
		for i := range c.Args {
			c.Args[i] = pick(r, values)
			if r.IntN(8) == 0 {
				c.Args[i] = uint64(r.IntN(25)) // a number of socketcall or ipc
			}
		}
	}
	return calls
}

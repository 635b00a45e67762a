// Package seccomp compiles rules about system calls into a program for the
// kernel. It stands in the place of libseccomp's Go binding and has of its
// interface what runc's libcontainer uses, in Go:
// docs/adr/0007. A rule means what it means to libseccomp, but for one thing:
// where rules with conditions about one call overlap and say different
// things, the stricter says it, whatever their order.
package seccomp

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// ScmpAction is what happens to a call. Those of ActErrno and ActTrace carry
// a number in their upper half.
type ScmpAction uint

const (
	ActInvalid ScmpAction = iota
	ActKillThread
	ActTrap
	ActNotify
	ActErrno
	ActTrace
	ActAllow
	ActLog
	ActKillProcess
)

// SetReturnCode gives an action its number, if it has one.
func (a ScmpAction) SetReturnCode(code int16) ScmpAction {
	if kind := a & 0xffff; kind == ActErrno || kind == ActTrace {
		return kind | ScmpAction(uint16(code))<<16
	}
	return a
}

// valid tells an action that a filter can have.
func (a ScmpAction) valid() bool {
	kind, code := a&0xffff, a>>16
	return kind > ActInvalid && kind <= ActKillProcess && (code == 0 || kind == ActErrno || kind == ActTrace)
}

// ScmpCompareOp is how an argument is compared.
type ScmpCompareOp uint

const (
	CompareInvalid ScmpCompareOp = iota
	CompareNotEqual
	CompareLess
	CompareLessOrEqual
	CompareEqual
	CompareGreaterEqual
	CompareGreater
	// CompareMaskedEqual compares the bits of the first operand with those of
	// the second.
	CompareMaskedEqual
)

// arguments is how many a call has at most.
const arguments = 6

// ScmpCondition is true of a call by one of its arguments.
type ScmpCondition struct {
	Argument uint
	Op       ScmpCompareOp
	Operand1 uint64
	Operand2 uint64
}

// MakeCondition makes a condition of an argument.
func MakeCondition(arg uint, op ScmpCompareOp, values ...uint64) (ScmpCondition, error) {
	if len(values) == 0 || len(values) > 2 {
		return ScmpCondition{}, fmt.Errorf("a condition has one or two operands, not %d", len(values))
	}
	c := ScmpCondition{Argument: arg, Op: op, Operand1: values[0]}
	if len(values) == 2 {
		c.Operand2 = values[1]
	}
	return c, c.check()
}

func (c ScmpCondition) check() error {
	if c.Argument >= arguments {
		return fmt.Errorf("argument %d: a system call has %d", c.Argument, arguments)
	}
	if c.Op <= CompareInvalid || c.Op > CompareMaskedEqual {
		return fmt.Errorf("unknown comparison %d", c.Op)
	}
	return nil
}

// ScmpFilter is a set of rules with a default.
type ScmpFilter struct {
	action     ScmpAction
	archs      []ScmpArch
	rules      []callRule
	noNewPrivs bool
	log        bool
	ssb        bool
	waitKill   bool
}

// callRule is a rule as it was added, for all architectures.
type callRule struct {
	call *call
	rule
}

// rule says what happens to a call if all conditions are true.
type rule struct {
	action     ScmpAction
	conditions []ScmpCondition
}

var (
	errAction   = errors.New("an action that a filter cannot have")
	errDefault  = errors.New("the action is the filter's default")
	errArgument = errors.New("two conditions of one argument")
)

// NewFilter makes a filter for the machine's architecture. What no rule is
// about gets the default action.
func NewFilter(action ScmpAction) (*ScmpFilter, error) {
	if !action.valid() {
		return nil, errAction
	}
	native, err := GetNativeArch()
	if err != nil {
		return nil, err
	}
	return &ScmpFilter{action: action, archs: []ScmpArch{native}, noNewPrivs: true}, nil
}

// AddArch adds an architecture, whose calls kill the thread otherwise. Rules
// hold for it no matter when they were added.
func (f *ScmpFilter) AddArch(arch ScmpArch) error {
	if arch == ArchNative {
		return nil
	}
	if err := arch.check(); err != nil {
		return err
	}
	if !slices.Contains(f.archs, arch) {
		f.archs = append(f.archs, arch)
	}
	return nil
}

// AddRule adds a rule for all calls of a name.
func (f *ScmpFilter) AddRule(c ScmpSyscall, action ScmpAction) error {
	return f.AddRuleConditional(c, action, nil)
}

// AddRuleConditional adds a rule for calls of which all conditions are true.
// The call is one of the machine's architecture; on others it has the number
// of the same name, or none. One without conditions comes before those with
// conditions, and the first one before a second.
func (f *ScmpFilter) AddRuleConditional(c ScmpSyscall, action ScmpAction, conditions []ScmpCondition) error {
	if !action.valid() {
		return errAction
	}
	if action == f.action {
		return errDefault
	}
	var seen [arguments]bool
	for _, c := range conditions {
		if err := c.check(); err != nil {
			return err
		}
		if seen[c.Argument] {
			return errArgument
		}
		seen[c.Argument] = true
	}
	rows, err := c.rows()
	if err != nil {
		return err
	}
	conditions = slices.Clone(conditions)
	for _, row := range rows {
		f.rules = append(f.rules, callRule{row, rule{action, conditions}})
	}
	return nil
}

// ExportBPF writes the program as the kernel takes it: an array of struct
// sock_filter.
func (f *ScmpFilter) ExportBPF(file *os.File) error {
	program, err := f.program()
	if err != nil {
		return err
	}
	raw, err := encode(program)
	if err != nil {
		return err
	}
	_, err = file.Write(raw)
	return err
}

// SetOptimize is for libseccomp's two ways to look for a call: there is one
// here, the faster.
func (f *ScmpFilter) SetOptimize(int) error { return nil }

// SetNoNewPrivsBit asks for no_new_privs before the filter is loaded.
func (f *ScmpFilter) SetNoNewPrivsBit(on bool) error { f.noNewPrivs = on; return nil }

// SetLogBit asks for a log of what is not allowed.
func (f *ScmpFilter) SetLogBit(on bool) error {
	f.log = on
	return needs(levelLog, "a log of calls")
}

// SetSSB asks for no mitigation of speculative store bypass.
func (f *ScmpFilter) SetSSB(on bool) error {
	f.ssb = on
	return needs(levelSSB, "allowing speculative store bypass")
}

// SetWaitKill asks that only a fatal signal wakes up who waits for an answer
// to ActNotify.
func (f *ScmpFilter) SetWaitKill(on bool) error {
	f.waitKill = on
	return needs(levelWaitKill, "waiting killably")
}

// What was asked for, for who loads the program.

func (f *ScmpFilter) GetNoNewPrivsBit() (bool, error) { return f.noNewPrivs, nil }
func (f *ScmpFilter) GetLogBit() (bool, error)        { return f.log, nil }
func (f *ScmpFilter) GetSSB() (bool, error)           { return f.ssb, nil }
func (f *ScmpFilter) GetWaitKill() (bool, error)      { return f.waitKill, nil }

package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// ScmpArch is an architecture, as programs see it: a kernel runs those of one
// or more.
type ScmpArch uint

// Those that a profile may name.
const (
	ArchInvalid ScmpArch = iota
	ArchNative
	ArchX86
	ArchAMD64
	ArchX32
	ArchARM
	ArchARM64
	ArchMIPS
	ArchMIPS64
	ArchMIPS64N32
	ArchMIPSEL
	ArchMIPSEL64
	ArchMIPSEL64N32
	ArchPPC
	ArchPPC64
	ArchPPC64LE
	ArchS390
	ArchS390X
	ArchRISCV64
	ArchLOONGARCH64
)

// archs has a name for each, and tells those of which no program for amd64 or
// arm64 can speak: the halves of their arguments lie the other way round.
var archs = [...]struct {
	name      string
	bigEndian bool
}{
	ArchNative: {name: "native"},
	ArchX86:    {name: "x86"}, ArchAMD64: {name: "amd64"}, ArchX32: {name: "x32"}, ArchARM: {name: "arm"}, ArchARM64: {name: "arm64"},
	ArchMIPS: {"mips", true}, ArchMIPS64: {"mips64", true}, ArchMIPS64N32: {"mips64n32", true},
	ArchMIPSEL: {name: "mipsel"}, ArchMIPSEL64: {name: "mipsel64"}, ArchMIPSEL64N32: {name: "mipsel64n32"},
	ArchPPC: {"ppc", true}, ArchPPC64: {"ppc64", true}, ArchPPC64LE: {name: "ppc64le"},
	ArchS390: {"s390", true}, ArchS390X: {"s390x", true},
	ArchRISCV64: {name: "riscv64"}, ArchLOONGARCH64: {name: "loong64"},
}

// GetArchFromString finds an architecture by its name.
func GetArchFromString(name string) (ScmpArch, error) {
	for arch := ArchX86; int(arch) < len(archs); arch++ {
		if archs[arch].name == name {
			return arch, nil
		}
	}
	return ArchInvalid, fmt.Errorf("unknown architecture %q", name)
}

func (a ScmpArch) String() string {
	if a > ArchInvalid && int(a) < len(archs) {
		return archs[a].name
	}
	return fmt.Sprintf("architecture %d", uint(a))
}

func (a ScmpArch) check() error {
	switch {
	case a <= ArchNative || int(a) >= len(archs):
		return fmt.Errorf("%v is not known", a)
	case archs[a].bigEndian:
		return fmt.Errorf("%v has another byte order than this machine", a)
	}
	return nil
}

// abi is what a program has to know of an architecture. There is none of those
// that neither amd64 nor arm64 can run: no call of theirs can arrive, so no
// rule is made for them.
type abi struct {
	arch    ScmpArch
	audit   uint32 // AUDIT_ARCH_*, by which the kernel tells it
	column  int    // of calls
	first   uint32 // number of its first call: x32 shares audit with amd64
	wide    bool   // arguments have 64 bits, not 32
	callMux bool   // socketcall and ipc are many calls in one
}

// abis are in the order of the columns of calls. Of x32 libseccomp takes the
// lower halves of arguments, as of the 32-bit ones.
var abis = [...]abi{
	{arch: ArchX86, audit: 0x40000003, column: 0, callMux: true},
	{arch: ArchAMD64, audit: auditX86, column: 1, wide: true},
	{arch: ArchX32, audit: auditX86, column: 2, first: x32Bit},
	{arch: ArchARM, audit: 0x40000028, column: 3},
	{arch: ArchARM64, audit: 0xc00000b7, column: 4, wide: true},
}

const (
	// auditX86 is AUDIT_ARCH_X86_64.
	auditX86 = 0xc000003e
	// x32Bit is set in numbers of x32's calls.
	x32Bit = 0x40000000
)

func abiOf(arch ScmpArch) *abi {
	for i := range abis {
		if abis[i].arch == arch {
			return &abis[i]
		}
	}
	return nil
}

// GetNativeArch tells the machine's architecture.
func GetNativeArch() (ScmpArch, error) {
	switch runtime.GOARCH {
	case "amd64":
		return ArchAMD64, nil
	case "arm64":
		return ArchARM64, nil
	}
	return ArchInvalid, fmt.Errorf("no table of system calls for %s", runtime.GOARCH)
}

// call is a row of calls: the numbers of a name, -1 where it has none.
type call struct {
	name   string
	number [len(abis)]int32
}

// on is the number of a call.
func (c *call) on(a *abi) (uint32, bool) {
	n := c.number[a.column]
	return uint32(n) + a.first, n >= 0
}

// ScmpSyscall is a call's number. One that an architecture lacks has a
// negative number there.
type ScmpSyscall int32

// lacking is the number of the table's first call where it is lacking, below
// -1, which is what a tracer makes of a call that shall not happen.
const lacking = -1000

// ErrSyscallDoesNotExist is about a name that no architecture knows.
var ErrSyscallDoesNotExist = errors.New("no system call of that name")

func find(name string) (int, bool) {
	return slices.BinarySearchFunc(calls[:], name, func(c call, name string) int { return strings.Compare(c.name, name) })
}

// Separator is between names of calls of which a rule speaks as of one.
const Separator = ","

// Join is a name for several calls, which libseccomp does not have: a rule about
// it is one about each of them. A profile has hundreds of calls with the same rule.
func Join(names []string) string { return strings.Join(names, Separator) }

// sets are the calls of joined names that were looked up. libseccomp's interface has
// no place for them: a call is a number.
var sets struct {
	sync.Mutex
	names []string
	rows  [][]*call
}

// firstSet is the number of the first of sets, below those of lacking calls.
const firstSet = -10000

// set finds the calls of joined names. Those that nobody knows are left out, as
// who makes rules does with single ones.
func set(name string) (ScmpSyscall, []*call) {
	sets.Lock()
	defer sets.Unlock()
	i := slices.Index(sets.names, name)
	if i < 0 {
		i = len(sets.names)
		var rows []*call
		for one := range strings.SplitSeq(name, Separator) {
			if i, ok := find(one); ok {
				rows = append(rows, &calls[i])
			}
		}
		sets.names, sets.rows = append(sets.names, name), append(sets.rows, rows)
	}
	return firstSet - ScmpSyscall(i), sets.rows[i]
}

// GetSyscallFromName finds a call of the machine's architecture, or a set of calls.
func GetSyscallFromName(name string) (ScmpSyscall, error) {
	if !strings.Contains(name, Separator) {
		return GetSyscallFromNameByArch(name, ArchNative)
	}
	n, rows := set(name)
	if len(rows) == 0 {
		return 0, ErrSyscallDoesNotExist
	}
	return n, nil
}

// GetSyscallFromNameByArch finds a call of an architecture, or the one of a set
// with the largest number there, negative if it has none of them. Architectures
// whose calls cannot arrive here have none.
func GetSyscallFromNameByArch(name string, arch ScmpArch) (ScmpSyscall, error) {
	if arch == ArchNative {
		native, err := GetNativeArch()
		if err != nil {
			return 0, err
		}
		arch = native
	}
	a := abiOf(arch)
	if a == nil {
		return 0, ErrSyscallDoesNotExist
	}
	if strings.Contains(name, Separator) {
		_, rows := set(name)
		if len(rows) == 0 {
			return 0, ErrSyscallDoesNotExist
		}
		largest := ScmpSyscall(lacking)
		for _, row := range rows {
			if n, ok := row.on(a); ok {
				largest = max(largest, ScmpSyscall(n))
			}
		}
		return largest, nil
	}
	i, ok := find(name)
	if !ok {
		return 0, ErrSyscallDoesNotExist
	}
	if n, ok := calls[i].on(a); ok {
		return ScmpSyscall(n), nil
	}
	return ScmpSyscall(lacking - i), nil
}

// nativeCalls are the rows of calls by number on the machine's architecture.
var nativeCalls = sync.OnceValues(func() (map[ScmpSyscall]*call, error) {
	native, err := GetNativeArch()
	if err != nil {
		return nil, err
	}
	rows := make(map[ScmpSyscall]*call, len(calls))
	for i := range calls {
		if n, ok := calls[i].on(abiOf(native)); ok {
			rows[ScmpSyscall(n)] = &calls[i]
		}
	}
	return rows, nil
})

// rows finds a call by its number on the machine's architecture, or those of a set.
func (s ScmpSyscall) rows() ([]*call, error) {
	if s <= firstSet {
		sets.Lock()
		defer sets.Unlock()
		if i := int(firstSet - s); i < len(sets.rows) {
			return sets.rows[i], nil
		}
	} else if i := lacking - int(s); i >= 0 && i < len(calls) {
		return []*call{&calls[i]}, nil
	}
	native, err := nativeCalls()
	if err != nil {
		return nil, err
	}
	if row := native[s]; row != nil {
		return []*call{row}, nil
	}
	return nil, fmt.Errorf("no system call has the number %d", s)
}

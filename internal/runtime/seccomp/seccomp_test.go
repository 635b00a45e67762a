package seccomp_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	seccomp "github.com/seccomp/libseccomp-golang"
	"github.com/seccomp/libseccomp-golang/seccomptest"
)

// TestMeaning: a program says what the rules say, and where they differ what
// the strictest says.
func TestMeaning(t *testing.T) {
	profiles := 3000
	if testing.Short() {
		profiles = 300
	}
	for seed := range profiles {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		p := seccomptest.Random(r, []int{10, 40, 40, 400}[seed%4])
		program, err := p.Program()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		m, err := seccomptest.NewMachine(program)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, c := range seccomptest.Calls(r, p) {
			got, err := m.Run(c)
			if want := seccomptest.Strictest(p.Meaning(c)); err != nil || got != want {
				t.Fatalf("seed %d: %+v: %#x, %v, want %#x of\n%+v", seed, c, got, err, want, p)
			}
		}
	}
}

// TestNumbers: a few of the table, by hand.
func TestNumbers(t *testing.T) {
	for name, want := range map[string][5]seccomp.ScmpSyscall{ // x86, amd64, x32, arm, arm64
		"read":             {3, 0, 0x40000000, 3, 63},
		"restart_syscall":  {0, 219, 0x400000db, 0, 128},
		"execve":           {11, 59, 0x40000208, 11, 221},
		"preadv2":          {378, 327, 0x40000222, 392, 286},
		"io_uring_setup":   {425, 425, 0x400001a9, 425, 425},
		"cacheflush":       {-1, -1, -1, 0xf0002, -1},
		"recv":             {-1, -1, -1, 291, -1},
		"socketcall":       {102, -1, -1, -1, -1},
		"map_shadow_stack": {453, 453, -1, 453, 453},
		"newfstatat":       {-1, 262, 0x40000106, -1, 79},
	} {
		for i, a := range seccomptest.ABIs {
			if got, err := seccomp.GetSyscallFromNameByArch(name, a.Arch); err != nil || got != want[i] && (got >= 0 || want[i] >= 0) {
				t.Errorf("%s of %v is %d, %v, want %d", name, a.Arch, got, err, want[i])
			}
		}
	}
}

// TestMuxed: on 32-bit x86 a rule about a call is one about its number in
// another one too.
func TestMuxed(t *testing.T) {
	for _, name := range slices.Concat(seccomptest.Socketcalls, seccomptest.IPCs) {
		if name == "" {
			continue
		}
		p := seccomptest.Profile{Default: seccomp.ActTrap, Archs: []seccomp.ScmpArch{seccomp.ArchX86}, Rules: []seccomptest.Rule{{Name: name, Action: seccomp.ActAllow}}}
		program, err := p.Program()
		if err != nil {
			t.Fatal(err)
		}
		m, err := seccomptest.NewMachine(program)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []uint32{102, 117} {
			for i := range uint64(30) {
				c := seccomptest.Call{Number: n, Audit: seccomptest.ABIs[0].Audit, Args: [6]uint64{i}}
				if got, err := m.Run(c); err != nil || got != seccomptest.Strictest(p.Meaning(c)) {
					t.Errorf("%s: %d of %d: %#x, %v", name, i, n, got, err)
				}
			}
		}
	}
}

// TestJoined: a rule about joined names is one about each call, in the same place,
// and their number is the largest.
func TestJoined(t *testing.T) {
	names := []string{"write", "read", "nobody knows", "arm_fadvise64_64", "socket", "io_uring_setup"}
	program := func(add func(f *seccomp.ScmpFilter, name string) error, names ...string) []byte {
		t.Helper()
		f, err := seccomp.NewFilter(seccomp.ActErrno.SetReturnCode(1))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []seccomp.ScmpArch{seccomp.ArchX86, seccomp.ArchX32, seccomp.ArchARM} {
			if err := f.AddArch(a); err != nil {
				t.Fatal(err)
			}
		}
		if err := add(f, "read"); err != nil { // the first rule about it
			t.Fatal(err)
		}
		for _, name := range names {
			if err := add(f, name); err != nil && !errors.Is(err, seccomp.ErrSyscallDoesNotExist) {
				t.Fatal(err)
			}
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := f.ExportBPF(w); err != nil {
			t.Fatal(err)
		}
		w.Close()
		code, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	add := func(f *seccomp.ScmpFilter, name string) error {
		n, err := seccomp.GetSyscallFromName(name)
		if err != nil {
			return err
		}
		if name == "read" {
			return f.AddRule(n, seccomp.ActTrap)
		}
		return f.AddRuleConditional(n, seccomp.ActAllow, []seccomp.ScmpCondition{{Argument: 1, Op: seccomp.CompareGreater, Operand1: 5}})
	}
	one, each := program(add, seccomp.Join(names)), program(add, names...)
	if len(one) == 0 || !slices.Equal(one, each) {
		t.Errorf("joined %d bytes, one by one %d", len(one), len(each))
	}
	for arch, want := range map[seccomp.ScmpArch]seccomp.ScmpSyscall{seccomp.ArchX86: 425, seccomp.ArchX32: 0x400001a9, seccomp.ArchARM64: 425} {
		if got, err := seccomp.GetSyscallFromNameByArch(seccomp.Join(names), arch); err != nil || got != want {
			t.Errorf("the largest of %v is %d, %v, want %d", arch, got, err, want)
		}
	}
	if got, err := seccomp.GetSyscallFromNameByArch("cacheflush,recv", seccomp.ArchAMD64); err != nil || got >= -1 {
		t.Errorf("two that amd64 lacks: %d, %v", got, err)
	}
	if n, err := seccomp.GetSyscallFromName("nobody,knows"); err == nil {
		t.Errorf("unknown names have the number %d", n)
	}
}

func TestRefused(t *testing.T) {
	f, err := seccomp.NewFilter(seccomp.ActErrno.SetReturnCode(1))
	if err != nil {
		t.Fatal(err)
	}
	read, err := seccomp.GetSyscallFromName("read")
	if err != nil {
		t.Fatal(err)
	}
	equal := func(arg uint) seccomp.ScmpCondition {
		return seccomp.ScmpCondition{Argument: arg, Op: seccomp.CompareEqual, Operand1: 1}
	}
	for name, err := range map[string]error{
		"the default action":       f.AddRule(read, seccomp.ActErrno.SetReturnCode(1)),
		"no action":                f.AddRule(read, seccomp.ActInvalid),
		"an unknown action":        f.AddRule(read, 9),
		"a number for allow":       f.AddRule(read, seccomp.ActAllow|1<<16),
		"an unknown call":          f.AddRule(100000, seccomp.ActAllow),
		"an unknown set":           f.AddRule(-1000000, seccomp.ActAllow),
		"one argument twice":       f.AddRuleConditional(read, seccomp.ActAllow, []seccomp.ScmpCondition{equal(1), equal(1)}),
		"a seventh argument":       f.AddRuleConditional(read, seccomp.ActAllow, []seccomp.ScmpCondition{equal(6)}),
		"no comparison":            f.AddRuleConditional(read, seccomp.ActAllow, []seccomp.ScmpCondition{{}}),
		"no architecture":          f.AddArch(seccomp.ArchInvalid),
		"an unknown architecture":  f.AddArch(1000),
		"another byte order":       f.AddArch(seccomp.ArchS390X),
		"a condition of nothing":   second(seccomp.MakeCondition(0, seccomp.CompareEqual)),
		"a condition of too many":  second(seccomp.MakeCondition(0, seccomp.CompareEqual, 1, 2, 3)),
		"an unknown comparison":    second(seccomp.MakeCondition(0, 8, 1)),
		"an unknown name":          second(seccomp.GetSyscallFromName("knarr")),
		"a foreign call":           second(seccomp.GetSyscallFromNameByArch("read", seccomp.ArchRISCV64)),
		"an architecture's name":   second(seccomp.GetArchFromString("pdp11")),
		"a filter without default": second(seccomp.NewFilter(seccomp.ActInvalid)),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for name, err := range map[string]error{
		"the native architecture": f.AddArch(seccomp.ArchNative),
		"a foreign architecture":  f.AddArch(seccomp.ArchRISCV64),
		"a call of another":       second(seccomp.GetSyscallFromName("arm_fadvise64_64")),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestTooLong: what the kernel would refuse is told before.
func TestTooLong(t *testing.T) {
	p := seccomptest.Profile{Default: seccomp.ActErrno}
	for i := range uint64(2000) {
		p.Rules = append(p.Rules, seccomptest.Rule{Name: "ioctl", Action: seccomp.ActAllow, Conditions: []seccomp.ScmpCondition{
			{Argument: 1, Op: seccomp.CompareEqual, Operand1: i},
		}})
	}
	if _, err := p.Program(); err == nil {
		t.Error("a program of 8000 instructions is taken")
	}
}

// TestLevel: a flag that this kernel lacks is refused as such.
func TestLevel(t *testing.T) {
	level, err := seccomp.GetAPI()
	if err != nil || level < 1 {
		t.Fatalf("level %d, %v", level, err)
	}
	var f seccomp.ScmpFilter
	for need, set := range map[uint]func(bool) error{3: f.SetLogBit, 4: f.SetSSB, 7: f.SetWaitKill} {
		var old *seccomp.VersionError
		if err := set(true); errors.As(err, &old) != (level < need) {
			t.Errorf("level %d, needed %d: %v", level, need, err)
		}
	}
}

package seccomp

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	ours "github.com/seccomp/libseccomp-golang"
	"github.com/seccomp/libseccomp-golang/seccomptest"
)

// TestDefault: the default profile, which depends on capabilities, decides the
// same about every call.
func TestDefault(t *testing.T) {
	for _, capabilities := range [][]string{
		nil, {"CAP_SYS_ADMIN"}, {"CAP_SYS_CHROOT", "CAP_KILL", "CAP_NET_RAW"}, {"CAP_BPF", "CAP_PERFMON"}, {"CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"},
		{"CAP_SYS_MODULE", "CAP_SYS_BOOT", "CAP_SYS_TIME", "CAP_SYS_NICE", "CAP_SYS_TTY_CONFIG", "CAP_SYSLOG", "CAP_SYS_PACCT", "CAP_SYS_RAWIO"},
	} {
		t.Run(fmt.Sprint(capabilities), func(t *testing.T) {
			p := defaultProfile(t, capabilities)
			both := machines(t, p)
			r := rand.New(rand.NewPCG(1, 2))
			var calls []seccomptest.Call
			for _, a := range seccomptest.ABIs {
				for _, base := range []uint32{0, 0x40000000} {
					for n := base; n <= base+600; n++ {
						small := r.Uint64() & 63 // a domain of sockets, a number of socketcall or ipc
						calls = append(calls,
							seccomptest.Call{Number: n, Audit: a.Audit, Args: [6]uint64{r.Uint64(), r.Uint64() >> 32}},
							seccomptest.Call{Number: n, Audit: a.Audit, Args: [6]uint64{small, small << 32, small}})
					}
				}
			}
			for range 200 {
				calls = append(calls, seccomptest.Calls(r, p)...)
			}
			for _, c := range calls {
				got, want := both.run(t, c)
				if got != want && !pseudo(c) {
					t.Fatalf("%+v: %#x, libseccomp says %#x", c, got, want)
				}
			}
			t.Logf("%d instructions, libseccomp's are %d; %d calls", len(both.code[0])/8, len(both.code[1])/8, len(calls))
		})
	}
}

func BenchmarkDefault(b *testing.B) {
	p := defaultProfile(b, nil)
	for name, program := range map[string]func(seccomptest.Profile) ([]byte, error){"ours": seccomptest.Profile.Program, "libseccomp": Program} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := program(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var (
	first = flag.Int("seed", 0, "the first random profile")
	count = flag.Int("profiles", 2000, "how many random ones to compare")
)

// TestRandom: so does any other profile, but for two things. Where rules about
// a call overlap and differ, ours is the strictest of them, and libseccomp says
// one of them. And where several rules about a call compare by more than
// equality, libseccomp merges them wrongly now and then: it says what no rule
// does (see docs/adr/0007).
func TestRandom(t *testing.T) {
	compared, overlaps, wrong, refused := 0, 0, 0, 0
	for seed := *first; seed < *first+*count; seed++ {
		r := rand.New(rand.NewPCG(uint64(seed), 9))
		p := seccomptest.Random(r, 15)
		if crowded(p) {
			continue
		}
		theirs, err := Program(p)
		if errors.As(err, new(conflict)) {
			refused++
			continue
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		mine, err := p.Program()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		both := start(t, mine, theirs)
		for _, c := range seccomptest.Calls(r, p) {
			if pseudo(c) {
				continue
			}
			compared++
			got, want := both.run(t, c)
			if got == want {
				continue
			}
			said := p.Meaning(c)
			switch {
			case got != seccomptest.Strictest(said):
			case slices.ContainsFunc(said, func(a ours.ScmpAction) bool { return seccomptest.Returns(a) == want }):
				overlaps++
				continue
			case tangled(p.About(c)):
				wrong++
				continue
			}
			t.Fatalf("seed %d: %+v: %#x, libseccomp says %#x, the rules say %v: %+v", seed, c, got, want, said, p.About(c))
		}
	}
	t.Logf("%d calls: %d where rules differ, %d where libseccomp follows none; %d profiles refused by libseccomp", compared, overlaps, wrong, refused)
	if compared < 50**count || overlaps+wrong > compared/100 {
		t.Error("too little compared, or too much different")
	}
}

// crowded tells many rules about one call: libseccomp's time and memory grow
// with the power of their number.
func crowded(p seccomptest.Profile) bool {
	for _, a := range seccomptest.ABIs {
		names := []string{"socketcall", "ipc"}
		for _, r := range p.Rules {
			names = append(names, r.Name)
		}
		for _, name := range names {
			n, err := ours.GetSyscallFromNameByArch(name, a.Arch)
			if err != nil {
				continue
			}
			conditions := 0
			for _, r := range p.About(seccomptest.Call{Number: uint32(n), Audit: a.Audit}) {
				conditions += len(r.Conditions)
			}
			if conditions > 8 {
				return true
			}
		}
	}
	return false
}

// tangled tells several rules with conditions, of which some are not about equality.
func tangled(about []seccomptest.Rule) bool {
	return len(about) > 1 && slices.ContainsFunc(about, func(r seccomptest.Rule) bool {
		return slices.ContainsFunc(r.Conditions, func(c ours.ScmpCondition) bool {
			return c.Op != ours.CompareEqual && c.Op != ours.CompareMaskedEqual
		})
	})
}

// TestNumbers: a name has the same number, where libseccomp knows it.
func TestNumbers(t *testing.T) {
	names := map[string]bool{}
	for _, a := range seccomptest.ABIs {
		for n := range 600 {
			for _, base := range []int{0, 0x40000000, 0xf0000} {
				names[Name(base+n, a.Arch)] = true
			}
		}
	}
	delete(names, "")
	if len(names) < 400 {
		t.Fatalf("libseccomp knows %d names", len(names))
	}
	for name := range maps.Keys(names) {
		for _, a := range seccomptest.ABIs {
			want, _ := Number(name, a.Arch)
			got, err := ours.GetSyscallFromNameByArch(name, a.Arch)
			switch {
			case want < 0 && got < 0 && err == nil, int(got) == want:
			case want < 0 && want > -300 && a.Arch == ours.ArchX86: // one of socketcall's or ipc's, which has a number besides
			case name == "sync_file_range2" && a.Arch == ours.ArchARM: // the kernel's second name for arm_sync_file_range
			default:
				t.Errorf("%s of %v is %d, %v; for libseccomp it is %d", name, a.Arch, got, err, want)
			}
		}
	}
}

// pseudo tells numbers that no call has: libseccomp makes rules for its own
// negative numbers of calls that an architecture lacks.
func pseudo(c seccomptest.Call) bool { return int32(c.Number) < -1 }

// machinery are two programs of one profile: ours, and libseccomp's.
type machinery struct {
	code     [2][]byte
	machines [2]seccomptest.Machine
}

func machines(t *testing.T, p seccomptest.Profile) machinery {
	t.Helper()
	theirs, err := Program(p)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := p.Program()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, mine, theirs)
}

func start(t *testing.T, code ...[]byte) (m machinery) {
	t.Helper()
	for i, c := range code {
		vm, err := seccomptest.NewMachine(c)
		if err != nil {
			t.Fatal(err)
		}
		m.code[i], m.machines[i] = c, vm
	}
	return m
}

func (m machinery) run(t *testing.T, c seccomptest.Call) (ours, theirs uint32) {
	t.Helper()
	a, err := m.machines[0].Run(c)
	b, err2 := m.machines[1].Run(c)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// defaultProfile is what containers of the kubelet's RuntimeDefault get, read
// as runc reads it.
func defaultProfile(t testing.TB, capabilities []string) seccomptest.Profile {
	t.Helper()
	s, err := profiles.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}})
	if err != nil {
		t.Fatal(err)
	}
	action := func(a specs.LinuxSeccompAction, code *uint) ours.ScmpAction {
		switch a {
		case specs.ActAllow:
			return ours.ActAllow
		case specs.ActErrno:
			if code == nil {
				return ours.ActErrno.SetReturnCode(1)
			}
			return ours.ActErrno.SetReturnCode(int16(*code))
		}
		t.Fatalf("the default profile has the action %v", a)
		return 0
	}
	ops := map[specs.LinuxSeccompOperator]ours.ScmpCompareOp{
		specs.OpNotEqual: ours.CompareNotEqual, specs.OpLessThan: ours.CompareLess, specs.OpLessEqual: ours.CompareLessOrEqual,
		specs.OpEqualTo: ours.CompareEqual, specs.OpGreaterEqual: ours.CompareGreaterEqual, specs.OpGreaterThan: ours.CompareGreater,
		specs.OpMaskedEqual: ours.CompareMaskedEqual,
	}
	p := seccomptest.Profile{
		Default: action(s.DefaultAction, s.DefaultErrnoRet),
		Archs:   []ours.ScmpArch{ours.ArchX86, ours.ArchAMD64, ours.ArchX32, ours.ArchARM, ours.ArchARM64},
	}
	for _, call := range s.Syscalls {
		for _, name := range call.Names {
			r := seccomptest.Rule{Name: name, Action: action(call.Action, call.ErrnoRet)}
			if _, known := Number(name, ours.ArchAMD64); !known || r.Action == p.Default {
				continue
			}
			if _, err := ours.GetSyscallFromName(name); err != nil {
				continue // of an architecture that knarr does not run on
			}
			for _, a := range call.Args {
				r.Conditions = append(r.Conditions, ours.ScmpCondition{Argument: a.Index, Op: ops[a.Op], Operand1: a.Value, Operand2: a.ValueTwo})
			}
			p.Rules = append(p.Rules, r)
		}
	}
	if len(p.Rules) < 300 {
		t.Fatalf("the default profile has %d rules", len(p.Rules))
	}
	return p
}

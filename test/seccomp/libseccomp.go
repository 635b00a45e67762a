// Package seccomp compares our compiler of seccomp rules with libseccomp. It
// is a module of its own, so that no C comes into knarr's: make cri runs it.
package seccomp

// #cgo LDFLAGS: -lseccomp
// #include <errno.h>
// #include <stdlib.h>
// #include <seccomp.h>
import "C"

import (
	"fmt"
	"io"
	"os"
	"unsafe"

	ours "github.com/seccomp/libseccomp-golang"
	"github.com/seccomp/libseccomp-golang/seccomptest"
)

var archs = map[ours.ScmpArch]C.uint32_t{
	ours.ArchX86: C.SCMP_ARCH_X86, ours.ArchAMD64: C.SCMP_ARCH_X86_64, ours.ArchX32: C.SCMP_ARCH_X32,
	ours.ArchARM: C.SCMP_ARCH_ARM, ours.ArchARM64: C.SCMP_ARCH_AARCH64,
}

var comparisons = map[ours.ScmpCompareOp]uint32{
	ours.CompareNotEqual: C.SCMP_CMP_NE, ours.CompareLess: C.SCMP_CMP_LT, ours.CompareLessOrEqual: C.SCMP_CMP_LE, ours.CompareEqual: C.SCMP_CMP_EQ,
	ours.CompareGreaterEqual: C.SCMP_CMP_GE, ours.CompareGreater: C.SCMP_CMP_GT, ours.CompareMaskedEqual: C.SCMP_CMP_MASKED_EQ,
}

// conflict tells rules that libseccomp refuses beside each other: the same
// conditions with different actions.
type conflict struct{ rule seccomptest.Rule }

func (c conflict) Error() string { return fmt.Sprintf("libseccomp refuses %+v", c.rule) }

// Program is what libseccomp makes of a profile. Rules about calls that it
// does not know are left out, as runc does.
func Program(p seccomptest.Profile) ([]byte, error) {
	ctx := C.seccomp_init(C.uint32_t(seccomptest.Returns(p.Default)))
	if ctx == nil {
		return nil, fmt.Errorf("no filter with the default %v", p.Default)
	}
	defer C.seccomp_release(ctx)
	if rc := C.seccomp_attr_set(ctx, C.SCMP_FLTATR_CTL_OPTIMIZE, 2); rc != 0 {
		return nil, fmt.Errorf("optimize: %d", rc)
	}
	for _, a := range p.Archs {
		if rc := C.seccomp_arch_add(ctx, archs[a]); rc != 0 && rc != -C.EEXIST {
			return nil, fmt.Errorf("%v: %d", a, rc)
		}
	}
	for _, r := range p.Rules {
		n := number(r.Name, C.SCMP_ARCH_NATIVE)
		if n == C.__NR_SCMP_ERROR {
			continue
		}
		var conditions [6]C.struct_scmp_arg_cmp
		for i, c := range r.Conditions {
			conditions[i] = C.struct_scmp_arg_cmp{arg: C.uint(c.Argument), op: comparisons[c.Op], datum_a: C.scmp_datum_t(c.Operand1), datum_b: C.scmp_datum_t(c.Operand2)}
		}
		switch rc := C.seccomp_rule_add_array(ctx, C.uint32_t(seccomptest.Returns(r.Action)), n, C.uint(len(r.Conditions)), &conditions[0]); rc {
		case 0:
		case -C.EEXIST:
			return nil, conflict{r}
		default:
			return nil, fmt.Errorf("%+v: %d", r, rc)
		}
	}
	file, err := os.CreateTemp("", "seccomp")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if rc := C.seccomp_export_bpf(ctx, C.int(file.Fd())); rc != 0 {
		return nil, fmt.Errorf("export: %d", rc)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(file)
}

func number(name string, arch C.uint32_t) C.int {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	return C.seccomp_syscall_resolve_name_arch(arch, c)
}

// Number is libseccomp's number of a call, and whether it knows the name; one
// that the architecture lacks is negative.
func Number(name string, arch ours.ScmpArch) (int, bool) {
	n := number(name, archs[arch])
	return int(n), n != C.__NR_SCMP_ERROR
}

// Name is libseccomp's name of a call.
func Name(n int, arch ours.ScmpArch) string {
	c := C.seccomp_syscall_resolve_num_arch(archs[arch], C.int(n))
	defer C.free(unsafe.Pointer(c))
	return C.GoString(c)
}

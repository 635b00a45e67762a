//go:build cgo

package engine

import (
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	seccomp "github.com/seccomp/libseccomp-golang"
)

// joinCalls makes one rule of those without conditions that follow each other with
// the same action: a quarter is left to be written, sent and read for each container.
// A name that looks like joined ones is no call's: its rule is left out, as
// libcontainer leaves out those about unknown calls.
func joinCalls(profile *configs.Seccomp) {
	if profile == nil {
		return
	}
	rules := slices.DeleteFunc(profile.Syscalls, func(r *configs.Syscall) bool { return strings.Contains(r.Name, seccomp.Separator) })
	var out []*configs.Syscall
	for len(rules) > 0 {
		n := 1
		for n < len(rules) && alike(rules[0], rules[n]) {
			n++
		}
		if n > 1 {
			names := make([]string, n)
			for i, r := range rules[:n] {
				names[i] = r.Name
			}
			out = append(out, &configs.Syscall{Name: seccomp.Join(names), Action: rules[0].Action, ErrnoRet: rules[0].ErrnoRet})
		} else {
			out = append(out, rules[0])
		}
		rules = rules[n:]
	}
	profile.Syscalls = slices.Clip(out)
}

// alike tells rules of which one can speak for both. What libcontainer refuses, an
// empty name or that writing be notified of, it shall see.
func alike(a, b *configs.Syscall) bool {
	same := a.ErrnoRet == b.ErrnoRet || a.ErrnoRet != nil && b.ErrnoRet != nil && *a.ErrnoRet == *b.ErrnoRet
	return len(a.Args) == 0 && len(b.Args) == 0 && a.Action == b.Action && same && a.Action != configs.Notify && a.Name != "" && b.Name != ""
}

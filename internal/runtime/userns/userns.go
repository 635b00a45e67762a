// Package userns makes user namespaces.
package userns

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// Make makes a new user namespace, and others that it owns (flags, as in
// clone(2)), and has fn look at them below ns, as in /proc/1/ns; they are gone
// after it unless fn keeps them. It takes a process to make one, a thread
// cannot: this program anew, stopped before its first instruction and ended
// there.
func Make(flags uintptr, uids, gids []syscall.SysProcIDMap, fn func(ns string) error) error {
	runtime.LockOSThread() // the thread that begins to trace must end it
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags | syscall.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids, GidMappingsEnableSetgroups: true,
		Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot make a user namespace: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it can only be gone already
		_ = cmd.Wait()         // "killed", as it should be
	}()
	return fn(fmt.Sprintf("/proc/%d/ns", cmd.Process.Pid))
}

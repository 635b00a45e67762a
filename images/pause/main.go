// Command pause holds a pod's namespaces. As the first process of a shared
// PID namespace it also reaps what others leave behind. It uses system calls
// only, to stay small: one of it runs per pod.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "-v" {
		_, _ = os.Stdout.WriteString("pause 1\n")
		return
	}
	sig := make(chan os.Signal, 8)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for {
		reap()
		if s := <-sig; s != syscall.SIGCHLD {
			return
		}
	}
}

// reap collects every child that has ended; signals coalesce, so one SIGCHLD
// may stand for many.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
	}
}

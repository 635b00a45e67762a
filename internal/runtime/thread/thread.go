// Package thread is for work that a namespace is entered for.
package thread

import "runtime"

// Run runs fn on a thread of its own, which may leave its namespaces: it is not
// used again. The first thread, which cannot end, has to be main's (LockOSThread):
// the process would be seen in the namespaces that it leaves.
func Run(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with us
		done <- fn()
	}()
	return <-done
}

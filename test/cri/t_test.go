package cri_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// caseTimeout bounds one case; most take a second.
	caseTimeout = 3 * time.Minute
	// patience with what must happen: long, for machines that are very busy.
	patience = time.Minute
	// glance is how long something is watched that must not happen.
	glance = 400 * time.Millisecond
)

// T is one case under way. It is used like testing.T, but keeps its failures,
// because a known difference has to fail.
type T struct {
	*node
	name string
	ctx  context.Context

	mu       sync.Mutex
	failures []string
	cleanups []func()
	count    int
}

// try runs a case and returns in what it failed.
func (n *node) try(c testCase) []string {
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	defer cancel()
	t := &T{node: n, name: c.name, ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer t.clean()
		c.run(t)
	}()
	<-done
	return t.failures
}

func (t *T) clean() {
	for len(t.cleanups) > 0 {
		fn := t.cleanups[len(t.cleanups)-1]
		t.cleanups = t.cleanups[:len(t.cleanups)-1]
		fn()
	}
}

func (t *T) cleanup(fn func()) { t.cleanups = append(t.cleanups, fn) }

func (t *T) errorf(format string, args ...any) {
	_, file, line, _ := runtime.Caller(1)
	t.fail(file, line, fmt.Sprintf(format, args...))
}

// fatalf ends the case; only its own goroutine may call it.
func (t *T) fatalf(format string, args ...any) {
	_, file, line, _ := runtime.Caller(1)
	t.fail(file, line, fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (t *T) fail(file string, line int, msg string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, fmt.Sprintf("%s:%d: %s", file[strings.LastIndexByte(file, '/')+1:], line, msg))
}

// must ends the case if a call that has to succeed did not.
func (t *T) must(err error) {
	if err != nil {
		_, file, line, _ := runtime.Caller(1)
		t.fail(file, line, err.Error())
		runtime.Goexit()
	}
}

// equal compares what was seen with what should be.
func (t *T) equal(what string, got, want any) {
	if g, w := fmt.Sprintf("%q", fmt.Sprint(got)), fmt.Sprintf("%q", fmt.Sprint(want)); g != w {
		_, file, line, _ := runtime.Caller(1)
		t.fail(file, line, fmt.Sprintf("%s is %s, not %s", what, clip(g), clip(w)))
	}
}

// contains reports what is missing in a text.
func (t *T) contains(what, text string, parts ...string) {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			_, file, line, _ := runtime.Caller(1)
			t.fail(file, line, fmt.Sprintf("%s has no %q: %s", what, p, clip(text)))
		}
	}
}

// lacks reports what must not be in a text.
func (t *T) lacks(what, text string, parts ...string) {
	for _, p := range parts {
		if strings.Contains(text, p) {
			_, file, line, _ := runtime.Caller(1)
			t.fail(file, line, fmt.Sprintf("%s has %q: %s", what, p, clip(text)))
		}
	}
}

// refused reports a call that should have failed and did not, or with another
// code; any code but Unimplemented will do if none is named.
func (t *T) refused(what string, err error, want ...codes.Code) {
	_, file, line, _ := runtime.Caller(1)
	got := status.Code(err)
	if err == nil {
		t.fail(file, line, what+" was accepted")
		return
	}
	if got == codes.Unimplemented && len(want) == 0 {
		t.fail(file, line, fmt.Sprintf("%s: %v", what, err))
	}
	for _, c := range want {
		if got == c {
			return
		}
	}
	if len(want) > 0 {
		t.fail(file, line, fmt.Sprintf("%s: code %s, not %v: %v", what, got, want, err))
	}
}

// within waits until another process has brought something about.
func (t *T) within(what string, ok func() bool) bool {
	_, file, line, _ := runtime.Caller(1)
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.fail(file, line, fmt.Sprintf("not within %s: %s", patience, what))
			return false
		}
	}
	return true
}

// pass lets time go by in which something must not happen.
func (t *T) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.ctx.Done():
	}
}

func clip(s string) string {
	const limit = 1500
	if len(s) > limit {
		return s[:limit/2] + " […] " + s[len(s)-limit/2:]
	}
	return s
}

// ended reports that a stream is over: cleanly, or because nobody listens.
func ended(err error) bool { return errors.Is(err, io.EOF) }

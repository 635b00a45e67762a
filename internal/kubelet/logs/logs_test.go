package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func dead() bool { return false }

const three = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr P tw\n2026-01-01T00:00:02Z stderr F o\n2026-01-01T00:00:03Z stdout F three\n"

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"all", Options{Tail: -1}, "one\ntwo\nthree\n"},
		{"tail", Options{Tail: 1}, "three\n"},
		{"tail of a line in parts", Options{Tail: 2}, "two\nthree\n"},
		{"tail none", Options{Tail: 0}, ""},
		{"tail more than there is", Options{Tail: 9}, "one\ntwo\nthree\n"},
		{"since", Options{Tail: -1, Since: time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC)}, "two\nthree\n"},
		{"stamps", Options{Tail: -1, Timestamps: true, Stream: "stderr"}, "2026-01-01T00:00:02Z two\n"},
		{"limit", Options{Tail: -1, Limit: 5}, "one\nt"},
		{"stdout", Options{Tail: -1, Stream: "stdout"}, "one\nthree\n"},
	} {
		var b bytes.Buffer
		if err := Read(t.Context(), file(t, three), tt.o, dead, &b, func() {}); err != nil || b.String() != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, b.String(), err, tt.want)
		}
	}
}

func TestTailOverBlocks(t *testing.T) {
	var b strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&b, "2026-01-01T00:00:01Z stdout F line %d\n", i)
	}
	path := file(t, b.String())
	for _, n := range []int64{1, 100, 3000, 9999} {
		var out bytes.Buffer
		if err := Read(t.Context(), path, Options{Tail: n}, dead, &out, func() {}); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if int64(len(lines)) != n || lines[0] != fmt.Sprintf("line %d", 10000-n) {
			t.Errorf("%d: %d lines from %q", n, len(lines), lines[0])
		}
	}
}

// A followed log goes on over a rotation and half-written lines, and ends with
// its container.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := file(t, "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:01Z std")
		var alive atomic.Bool
		alive.Store(true)
		var b bytes.Buffer
		done := make(chan error)
		go func() {
			done <- Read(context.Background(), path, Options{Tail: -1, Follow: true}, alive.Load, &b, func() {})
		}()
		add := func(text string) {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteString(text)
			if err != nil || f.Close() != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Second)
		add("out F two\n")
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		add("2026-01-01T00:00:02Z stdout F three\n")
		<-time.After(time.Second)
		alive.Store(false)
		if err := <-done; err != nil || b.String() != "one\ntwo\nthree\n" {
			t.Errorf("%q, %v", b.String(), err)
		}
	})
}

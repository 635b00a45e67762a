package cri_test

import (
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// whole puts the entries of one stream together.
func whole(lines []logLine, stream string) string {
	var b strings.Builder
	for _, l := range lines {
		if l.stream == stream {
			b.WriteString(l.text)
			if l.tag == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

func (c *container) reopen() error {
	_, err := c.t.runtime.ReopenContainerLog(c.t.ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
	return err
}

var logCases = []testCase{
	{"log/format", func(t *T) {
		began := time.Now()
		p := t.pod()
		c := p.start(shell("echo one; echo two >&2; echo; echo ' three  '"))
		c.wait()
		lines := c.log()
		var out []string
		for _, l := range lines {
			t.equal("tag", l.tag, "F")
			t.since("time", l.at.UnixNano(), began, time.Now())
			if l.stream == "stdout" {
				out = append(out, l.text)
			} else {
				t.equal("stream and text", l.stream+" "+l.text, "stderr two")
			}
		}
		t.equal("lines", fmt.Sprintf("%q", out), `["one" "" " three  "]`)
		if st, err := os.Stat(c.logFile()); err != nil || st.Mode().Perm()&0o022 != 0 {
			t.errorf("mode: %v %v", st, err)
		}
	}},
	{"log/long lines", func(t *T) {
		p := t.pod()
		for _, n := range []int{16<<10 - 1, 16 << 10, 16<<10 + 1, 100 << 10} {
			r := p.run(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; echo", n))
			t.equal("exit code", r.ExitCode, 0)
			if r.out != strings.Repeat("x", n)+"\n" {
				t.errorf("of a line of %d bytes the log has %d", n, len(r.out))
			}
		}
		c := p.start(shell("head -c 100000 /dev/zero | tr '\\0' x; echo; echo short"))
		c.wait()
		lines := c.log()
		if len(lines) < 7 {
			t.fatalf("%d entries", len(lines))
		}
		for i, l := range lines[:len(lines)-1] {
			want := "P"
			if i == len(lines)-2 {
				want = "F"
			}
			t.equal("tag of a part", l.tag, want)
			if len(l.text) > 16<<10 {
				t.errorf("a part of %d bytes: readers take 16 KiB", len(l.text))
			}
		}
		t.equal("the next line", lines[len(lines)-1].tag+lines[len(lines)-1].text, "Fshort")
	}},
	{"log/a last line without its end", func(t *T) {
		p := t.pod()
		c := p.start(shell("echo whole; printf half"))
		c.wait()
		lines := c.log()
		if len(lines) != 2 || lines[0].tag != "F" || lines[1].text != "half" || lines[1].tag != "P" {
			t.errorf("%v", lines)
		}
	}},
	{"log/parts of a line", func(t *T) {
		// What comes in pieces is one line.
		c := t.pod().start(shell("printf a; sleep 0.3; printf b; sleep 0.3; echo c"))
		c.wait()
		t.equal("output", whole(c.log(), "stdout"), "abc\n")
	}},
	{"log/what is not text", func(t *T) {
		r := t.pod().run(`printf 'a\000\377\376b\rc\n\033[1m\n'`)
		t.equal("output", []byte(r.out), []byte("a\x00\xff\xfeb\rc\n\x1b[1m\n"))
	}},
	{"log/much output", func(t *T) {
		c := t.pod().start(shell("seq 1 200000"))
		c.says(" F 200000\n")
		out, _ := c.output()
		want := strings.Builder{}
		for i := range 200000 {
			fmt.Fprintln(&want, i+1)
		}
		if out != want.String() {
			t.errorf("%d of %d bytes, or others", len(out), want.Len())
		}
	}},
	{"log/a terminal", func(t *T) {
		c := t.pod().start(shell("echo out; echo err >&2"), func(c *containerConfig) { c.Tty = true })
		c.wait()
		lines := c.log()
		if len(lines) != 2 {
			t.fatalf("%v", lines)
		}
		for i, want := range []string{"out", "err"} {
			t.equal("stream", lines[i].stream, "stdout")
			t.equal("text", strings.TrimRight(lines[i].text, "\r"), want)
		}
	}},
	{"log/reopened after a rotation", func(t *T) {
		c := t.pod().start(shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"))
		c.says(" F 5\n")
		old := c.logFile() + ".1"
		t.must(os.Rename(c.logFile(), old))
		t.must(c.reopen())
		t.within("the new file has lines", func() bool {
			data, err := os.ReadFile(c.logFile())
			return err == nil && strings.Count(string(data), "\n") > 5
		})
		t.must(c.stop(0))
		before, err := os.ReadFile(old)
		t.must(err)
		first, err := parseLog(string(before))
		t.must(err)
		// Not a line is lost or twice.
		for i, l := range append(first, c.log()...) {
			if l.text != fmt.Sprint(i+1) {
				t.fatalf("line %d is %q", i+1, l.text)
			}
		}
	}},
	{"log/reopened without a rotation", func(t *T) {
		c := t.pod().start(shell("echo before; while ! test -e /tmp/go; do sleep 0.05; done; echo after"))
		c.says("before")
		t.must(c.reopen())
		c.sh("touch /tmp/go")
		c.wait()
		out, _ := c.output()
		t.equal("output", out, "before\nafter\n")
	}},
	{"log/reopen that is refused", func(t *T) {
		p := t.pod()
		c, e := p.create(), p.start()
		t.must(e.stop(0))
		_, err := t.runtime.ReopenContainerLog(t.ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: "nosuchcontainer"})
		t.refused("a container that is not there", err, codes.NotFound)
		// Of one that does not run: an error, and then no file.
		for what, c := range map[string]*container{"created": c, "exited": e} {
			_ = os.Remove(c.logFile())
			err := c.reopen()
			_, there := os.Stat(c.logFile())
			if err != nil && there == nil {
				t.errorf("%s: an error (%v), and a file all the same", what, err)
			}
		}
	}},
	{"log/output of a command is not in it", func(t *T) {
		c := t.pod().start()
		c.sh("echo elsewhere; echo elsewhere >&2")
		t.equal("entries", len(c.log()), 0)
	}},
	{"log/of a container that is gone", func(t *T) {
		// The kubelet keeps logs and removes them itself.
		c := t.pod().start(shell("echo kept"))
		c.wait()
		t.must(c.remove())
		out, _ := c.output()
		t.equal("output", out, "kept\n")
	}},
}

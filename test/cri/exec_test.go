package cri_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var execCases = []testCase{
	{"exec/output and exit codes", func(t *T) {
		c := t.pod().start()
		for _, code := range []int32{0, 1, 42, 255} {
			out, errs, got := c.exec("sh", "-c", fmt.Sprintf("echo out; echo err >&2; exit %d", code))
			t.equal("exit code", got, code)
			t.equal("output", out, "out\n")
			t.equal("errors", errs, "err\n")
		}
		_, _, code := c.exec("sh", "-c", "kill -9 $$")
		t.equal("exit code of a killed command", code, 137)
	}},
	{"exec/its surroundings", func(t *T) {
		c := t.pod().start(runAs(1001), func(c *containerConfig) {
			c.WorkingDir = "/tmp"
			c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b")}}
		})
		t.equal("directory, environment, user", c.sh("pwd; echo $A; id -u"), "/tmp\nb\n1001")
	}},
	{"exec/program that is not there", func(t *T) {
		c := t.pod().start()
		for _, args := range [][]string{{"/no/such/program"}, {"nosuchprogram"}, {"/etc/passwd"}} {
			_, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: args, Timeout: 30})
			t.refused(fmt.Sprint(args), err)
			t.contains("message", fmt.Sprint(err), args[0])
		}
		t.equal("state", c.status().State, running)
	}},
	{"exec/refused", func(t *T) {
		p := t.pod()
		c, e, r := p.create(), p.start(), p.start()
		t.must(e.stop(0))
		for what, x := range map[string]struct {
			id   string
			args []string
		}{
			"in a created container":             {c.id, []string{"true"}},
			"in an exited container":             {e.id, []string{"true"}},
			"in a container that is not there":   {"nosuchcontainer", []string{"true"}},
			"in none":                            {"", []string{"true"}},
			"of nothing":                         {r.id, nil},
			"in what is a sandbox, no container": {p.id, []string{"true"}},
		} {
			_, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: x.id, Cmd: x.args, Timeout: 30})
			t.refused("ExecSync "+what, err)
			if what == "in a container that is not there" {
				t.refused("ExecSync "+what, err, codes.NotFound)
			}
		}
	}},
	{"exec/time limit", func(t *T) {
		c := t.pod().start()
		began := time.Now()
		_, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", "sleep 54321"}, Timeout: 1})
		t.refused("a command beyond its time", err, codes.DeadlineExceeded)
		if took := time.Since(began); took < time.Second || took > 30*time.Second {
			t.errorf("it took %s", took)
		}
		t.within("the command is gone", func() bool { return !strings.Contains(c.sh("ps -o args"), "sleep 54321") })
		out, _, code := c.exec("echo", "still here")
		t.equal("another command", fmt.Sprint(code, out), "0still here\n")
	}},
	{"exec/no time limit", func(t *T) {
		c := t.pod().start()
		resp, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", "sleep 2; echo done"}})
		t.must(err)
		t.equal("output", string(resp.Stdout), "done\n")
	}},
	{"exec/standard input is empty", func(t *T) {
		out, _, code := t.pod().start().exec("sh", "-c", "cat; echo end")
		t.equal("exit code and output", fmt.Sprint(code, out), "0end\n")
	}},
	{"exec/output that is not text", func(t *T) {
		out, _, _ := t.pod().start().exec("printf", `a\000\377\376\r\nb`)
		t.equal("output", []byte(out), []byte("a\x00\xff\xfe\r\nb"))
	}},
	{"exec/much output", func(t *T) {
		c := t.pod().start()
		resp, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"dd", "if=/dev/zero", "bs=1M", "count=12"}, Timeout: 60})
		t.must(err)
		t.equal("length", len(resp.Stdout), 12<<20)
		if !bytes.Equal(resp.Stdout, make([]byte, 12<<20)) {
			t.errorf("other bytes")
		}
	}},
	{"exec/output beyond 16 MB is cut", func(t *T) {
		c := t.pod().start()
		resp, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", "dd if=/dev/zero bs=1M count=40 2>/dev/null; echo end >&2; exit 7"}, Timeout: 120})
		t.must(err)
		// 16 MB, of whichever kind, less what the answer needs besides.
		if n := len(resp.Stdout); n < 15_900_000 || n > 16<<20 {
			t.errorf("%d bytes of output", n)
		}
		t.equal("errors and exit code", fmt.Sprint(string(resp.Stderr), resp.ExitCode), "end\n7")
	}},
	{"exec/background processes", func(t *T) {
		// One that holds the output open does not hold the call for ever.
		c := t.pod().start()
		const limit = 5 * time.Second
		ctx, cancel := context.WithTimeout(t.ctx, limit+20*time.Second)
		defer cancel()
		began := time.Now()
		resp, err := t.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", "sleep 1000 & echo started"}, Timeout: int64(limit / time.Second)})
		switch {
		case time.Since(began) > limit+15*time.Second:
			t.errorf("the call outlives its time by far")
		case err == nil:
			t.equal("output", string(resp.Stdout), "started\n")
		default:
			t.refused("a command whose child holds its output", err, codes.DeadlineExceeded)
		}
	}},
	{"exec/no zombies", func(t *T) {
		c := t.pod().start()
		for range 3 {
			c.exec("true")
		}
		t.within("no zombies are left", func() bool { return !strings.Contains(c.sh("cat /proc/[0-9]*/stat 2>/dev/null; true"), ") Z ") })
	}},
	{"exec/many at once", func(t *T) {
		c := t.pod().start()
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				resp, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}, Timeout: 120})
				if err != nil {
					t.errorf("%d: %v", i, err)
					return
				}
				if got := fmt.Sprint(string(resp.Stdout), resp.ExitCode); got != fmt.Sprintf("%d\n%d", i, i) {
					t.errorf("%d: %q", i, got)
				}
			})
		}
		wg.Wait()
	}},
	{"exec/ends with the container", func(t *T) {
		c := t.pod().start()
		done := make(chan error, 1)
		go func() {
			resp, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", "touch /tmp/up; sleep 1000"}, Timeout: 100})
			if err == nil && resp.ExitCode != 137 {
				err = fmt.Errorf("exit code %d", resp.ExitCode)
			}
			done <- err
		}()
		t.within("the command runs", func() bool { _, _, code := c.exec("test", "-e", "/tmp/up"); return code == 0 })
		t.must(c.stop(0))
		select {
		case err := <-done:
			t.must(err)
		case <-time.After(patience):
			t.errorf("the command outlives its container")
		}
	}},
}

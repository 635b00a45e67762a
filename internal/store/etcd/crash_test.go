package etcd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"knarr.dev/knarr/internal/store"
)

const (
	crashDirEnv  = "KNARR_TEST_CRASH_DIR"
	crashSockEnv = "KNARR_TEST_CRASH_SOCKETS"
	crashWriters = 8
	crashRounds  = 8
)

// TestMain lets the test binary be the process that TestCrash kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := crashWriter(dir, os.Getenv(crashSockEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashWriter counts in keys of its own and in one that all share, and says
// each number once the store has acknowledged it.
func crashWriter(dir, sockets string) error {
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: dir, SocketDir: sockets})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range crashWriters {
		go func() {
			for {
				for _, key := range []string{fmt.Sprintf("/registry/own/%d", w), "/registry/shared"} {
					if err := increment(ctx, s, key); err != nil {
						failed <- err
					}
				}
			}
		}()
	}
	return <-failed
}

func increment(ctx context.Context, s *Store, key string) error {
	for {
		kv, err := s.Get(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		n := number(kv.Value)
		rev, err := s.Put(ctx, key, []byte(strconv.Itoa(n+1)+strings.Repeat(" ", 1000)), kv.Rev)
		var conflict *store.Conflict
		if errors.As(err, &conflict) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(os.Stdout, "%s %d %d\n", key, n+1, rev) // one write: lines stay whole
		return err
	}
}

func number(value []byte) int {
	n, err := strconv.Atoi(strings.TrimSpace(string(value)))
	if err != nil {
		return 0
	}
	return n
}

// TestCrash kills a writing process again and again: what was acknowledged is
// there, nothing is there that nobody wrote, and revisions never come again.
func TestCrash(t *testing.T) {
	dir, sockets := t.TempDir(), t.TempDir()
	acked := map[string]int{}
	var newest int64
	for round := range crashRounds {
		lines := crashOnce(t, dir, sockets, 20+rand.IntN(500))
		for key, line := range lines {
			if line.n <= acked[key] {
				t.Errorf("round %d: %s counted to %d, it was at %d", round, key, line.n, acked[key])
			}
			acked[key] = line.n
			if line.first <= newest {
				t.Errorf("round %d: %s got revision %d, %d was given out before", round, key, line.first, newest)
			}
		}
		for _, line := range lines {
			newest = max(newest, line.rev)
		}
		s := open(t, Config{Dir: dir, SocketDir: sockets})
		page, err := s.List(context.Background(), "/registry/", store.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if page.Rev < newest {
			t.Errorf("round %d: the store is at %d, %d was acknowledged", round, page.Rev, newest)
		}
		newest = page.Rev
		for _, kv := range page.KVs {
			// Each writer may have had one write under way.
			most := acked[kv.Key] + 1
			if kv.Key == "/registry/shared" {
				most = acked[kv.Key] + crashWriters
			}
			if n := number(kv.Value); n < acked[kv.Key] || n > most {
				t.Errorf("round %d: %s is at %d, acknowledged were %d", round, kv.Key, n, acked[kv.Key])
			}
			acked[kv.Key] = number(kv.Value)
		}
		if len(page.KVs) < len(acked) {
			t.Errorf("round %d: %d keys of %d", round, len(page.KVs), len(acked))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if newest < 100 {
		t.Errorf("only %d revisions were written", newest)
	}
}

// ackLine is the last that a process said about a key, and the first revision.
type ackLine struct {
	n          int
	rev, first int64
}

// crashOnce lets a process write until so many writes are acknowledged, and
// kills it among the next.
func crashOnce(t *testing.T, dir, sockets string, acks int) map[string]ackLine {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashSockEnv+"="+sockets)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := map[string]ackLine{}
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		if acks--; acks == 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		var key string
		var line ackLine
		if n, err := fmt.Sscanf(scanner.Text(), "%s %d %d", &key, &line.n, &line.rev); n != 3 {
			continue // the kill cut the last line
		} else if err != nil {
			t.Fatal(err)
		}
		old, had := lines[key]
		if line.first = line.rev; had {
			line.first = min(old.first, line.rev)
			line.n, line.rev = max(old.n, line.n), max(old.rev, line.rev)
		}
		lines[key] = line
	}
	if err := cmd.Wait(); err == nil || acks > 0 {
		t.Fatalf("the writer ended by itself: %v", err)
	}
	return lines
}

// TestCrashAtFirstStart: whatever a first start got done, the next one goes on.
func TestCrashAtFirstStart(t *testing.T) {
	for round := range 12 {
		dir, sockets := t.TempDir(), t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashSockEnv+"="+sockets)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// From before the first file to after the first writes.
		time.AfterFunc(time.Duration(round)*4*time.Millisecond, func() { _ = cmd.Process.Kill() })
		if err := cmd.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		s := open(t, Config{Dir: dir, SocketDir: sockets})
		if _, err := s.Put(context.Background(), "/registry/after", nil, 0); err != nil {
			t.Errorf("killed after %d ms: %v", round*4, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

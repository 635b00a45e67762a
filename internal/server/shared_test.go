package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/sealed"
	"knarr.dev/knarr/internal/store/mem"
)

func sharing(t *testing.T, key string) *Config {
	t.Helper()
	c := &Config{Server: true, DataDir: t.TempDir(), NodeName: "n", NodeIP: "192.0.2.1", Log: slog.New(slog.DiscardHandler),
		Etcd: EtcdConfig{Endpoints: []string{"http://127.0.0.1:1"}, ClusterKey: key}}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	return c
}

func pkiOf(t *testing.T, c *Config) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range sharedFiles() {
		path := c.Dir("server", "pki", name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, st.Mode(), err)
		}
		out[name] = string(data)
	}
	return out
}

// TestFirstServersRace: of servers that are started at once one makes the keys.
func TestFirstServersRace(t *testing.T) {
	for _, given := range []bool{true, false} {
		t.Run(fmt.Sprintf("given=%v", given), func(t *testing.T) {
			db, key := mem.New(), ""
			if given {
				key = sealed.NewKey().Encode()
			}
			const n = 6
			var configs [n]*Config
			var errs [n]error
			var wg sync.WaitGroup
			for i := range n {
				configs[i] = sharing(t, key)
				wg.Go(func() { _, errs[i] = openShared(t.Context(), configs[i], db) })
			}
			wg.Wait()
			var won map[string]string
			for i, err := range errs {
				if err != nil {
					if given || !strings.Contains(err.Error(), "--cluster-key-file") {
						t.Errorf("%d: %v", i, err)
					}
					if _, err := os.Stat(configs[i].Dir("server", "cluster.key")); err == nil {
						t.Errorf("%d keeps a key of no use", i)
					}
					continue
				}
				have := pkiOf(t, configs[i])
				if won == nil {
					won = have
				} else if !given {
					t.Error("two have won")
				}
				for name := range won {
					if won[name] != have[name] {
						t.Errorf("%d has another %s", i, name)
					}
				}
				if left, _ := filepath.Glob(configs[i].Dir("server", "pki.new*")); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			}
			if won == nil {
				t.Error("none has won")
			}
		})
	}
}

// TestShared: what a start finds here, and what comes of it.
func TestShared(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, c *Config, db *mem.Store)
		want string // part of the error; empty: it starts
	}{
		{"again", func(*testing.T, *Config, *mem.Store) {}, ""},
		{"a file is lost", func(t *testing.T, c *Config, _ *mem.Store) { remove(t, c.Dir("server", "pki", "ca.key")) }, ""},
		{"all files are lost", func(t *testing.T, c *Config, _ *mem.Store) {
			if err := os.RemoveAll(c.Dir("server", "pki")); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"the key is lost", func(t *testing.T, c *Config, _ *mem.Store) { remove(t, c.Dir("server", "cluster.key")) }, "this etcd holds a cluster"},
		{"the key is broken", func(t *testing.T, c *Config, _ *mem.Store) { write(t, c.Dir("server", "cluster.key"), "x") }, "64 hexadecimal digits"},
		{"another cluster", func(t *testing.T, c *Config, _ *mem.Store) { write(t, c.Dir("server", "pki", "ca.crt"), "x") }, "is of another cluster"},
		{"changed here", func(t *testing.T, c *Config, _ *mem.Store) { write(t, c.Dir("server", "pki", signingFile), "x") }, "has been changed here"},
		{"changed elsewhere", func(t *testing.T, c *Config, db *mem.Store) {
			other := sharing(t, read(t, c.Dir("server", "cluster.key")))
			s, err := openShared(t.Context(), other, db)
			if err != nil {
				t.Fatal(err)
			}
			for _, content := range []string{"one", "two", "three"} {
				write(t, other.Dir("server", "pki", signingFile), content)
				if err := s.publishFile(t.Context(), signingFile); err != nil {
					t.Fatal(err)
				}
			}
		}, ""},
		{"etcd has lost the keys", func(t *testing.T, c *Config, db *mem.Store) { forget(t, db, c) }, ""},
		{"etcd has objects and nobody has keys", func(t *testing.T, c *Config, db *mem.Store) {
			forget(t, db, c)
			if err := os.RemoveAll(c.Dir("server", "pki")); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Put(t.Context(), kinds.ConfigMap.Key("a", "b"), []byte("x"), 0); err != nil {
				t.Fatal(err)
			}
		}, "but not the keys of their cluster"},
		{"broken in etcd", func(t *testing.T, c *Config, db *mem.Store) {
			kv := bootstrapOf(t, db, c)
			if _, err := db.Put(t.Context(), kv, bytes.Repeat([]byte("x"), 99), revision(t, db, kv)); err != nil {
				t.Fatal(err)
			}
		}, "it is broken"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db, c := mem.New(), sharing(t, "")
			if _, err := openShared(t.Context(), c, db); err != nil {
				t.Fatal(err)
			}
			before := pkiOf(t, c)
			tc.do(t, c, db)
			next := &Config{Server: true, DataDir: c.DataDir, NodeName: "n", NodeIP: "192.0.2.1", Log: c.Log, Etcd: EtcdConfig{Endpoints: c.Etcd.Endpoints}}
			if err := next.Complete(); err != nil {
				t.Fatal(err)
			}
			_, err := openShared(t.Context(), next, db)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			after := pkiOf(t, next)
			for name := range before {
				if before[name] != after[name] && !(name == signingFile && after[name] == "three") {
					t.Errorf("%s has changed to %q", name, after[name])
				}
			}
		})
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func bootstrapOf(t *testing.T, db *mem.Store, c *Config) string {
	t.Helper()
	key := "/knarr.dev/bootstrap" + c.Etcd.Prefix
	revision(t, db, key)
	return key
}

func revision(t *testing.T, db *mem.Store, key string) int64 {
	t.Helper()
	kv, err := db.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return kv.Rev
}

func forget(t *testing.T, db *mem.Store, c *Config) {
	t.Helper()
	key := bootstrapOf(t, db, c)
	if _, err := db.Delete(t.Context(), key, revision(t, db, key)); err != nil {
		t.Fatal(err)
	}
}

// TestFollow: a server takes what another publishes, and keeps what is changed
// here until that is published.
func TestFollow(t *testing.T) {
	db, a := mem.New(), sharing(t, sealed.NewKey().Encode())
	b := sharing(t, a.Etcd.ClusterKey)
	shareA, errA := openShared(t.Context(), a, db)
	shareB, errB := openShared(t.Context(), b, db)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- shareB.follow(ctx) }()
	write(t, a.signingKeys(), "new")
	if err := shareA.publishFile(ctx, signingFile); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); read(t, b.signingKeys()) != "new"; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the other server does not take the new keys")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	write(t, b.signingKeys(), "mine")
	kv, err := db.Get(t.Context(), shareB.place)
	if err != nil {
		t.Fatal(err)
	}
	if err := shareB.takeSigning(kv); err != nil || read(t, b.signingKeys()) != "mine" {
		t.Errorf("what was changed here is %q: %v", read(t, b.signingKeys()), err)
	}
}

func TestSeenServers(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	lease := func(name, addr string, renewed time.Time) *coordinationv1.Lease {
		l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{addressAnnotation: addr}}}
		l.Spec.RenewTime = &metav1.MicroTime{Time: renewed}
		return l
	}
	var m seenServers
	check := func(after time.Duration, want string, leases ...*coordinationv1.Lease) {
		t.Helper()
		var got []string
		for _, a := range m.live(leases, now.Add(after)) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("after %s: %v, want %s", after, got, want)
		}
	}
	// The second one's clock is half a minute behind, the third is long gone.
	a, b, c := lease("a", "192.0.2.1", now), lease("b", "192.0.2.2", now.Add(-30*time.Second)), lease("c", "192.0.2.3", now.Add(-time.Hour))
	check(0, "192.0.2.1 192.0.2.2", a, b, c)
	check(serverLife-1, "192.0.2.1 192.0.2.2", a, b, c)
	check(serverLife, "", a, b, c)
	b = lease("b", "192.0.2.2", now.Add(-20*time.Second))
	check(serverLife+1, "192.0.2.2", a, b, c)
	c = lease("c", "192.0.2.3", now)
	check(serverLife+2, "192.0.2.2 192.0.2.3", a, b, c)
	check(serverLife+3, "192.0.2.2", b, lease("d", "nonsense", now))
	check(2*serverLife+1, "", b)
	if len(m.seen) != 1 {
		t.Errorf("it remembers %v", m.seen)
	}
}

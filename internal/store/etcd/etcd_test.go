package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/storetest"
)

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.SocketDir == "" {
		cfg.SocketDir = t.TempDir()
	}
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t testing.TB) storetest.Compacter { return open(t, Config{}) })
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	var rev int64
	for i := range 2 {
		s, err := Open(ctx, Config{Dir: dir, SocketDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if rev, err = s.Put(ctx, "/registry/x/a", []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		} else if kv, err := s.Get(ctx, "/registry/x/a"); err != nil || kv.Rev != rev || string(kv.Value) != "1" {
			t.Errorf("after a restart: %+v %v", kv, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSocketPathTooLong(t *testing.T) {
	dir := t.TempDir() + "/" + strings.Repeat("x", 100)
	if _, err := Open(context.Background(), Config{Dir: t.TempDir(), SocketDir: dir}); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("got %v", err)
	}
}

// TestQuota: writes fail with ErrNoSpace once the quota is used up, deletes
// work, and once there is room again, writes do too.
func TestQuota(t *testing.T) {
	s := open(t, Config{Quota: 4 << 20})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	value := []byte(strings.Repeat("x", 256<<10))
	revs := map[string]int64{}
	var full error
	for i := range 100 {
		key := fmt.Sprintf("/registry/x/%d", i)
		rev, err := s.Put(ctx, key, value, 0)
		if err != nil {
			full = err
			break
		}
		revs[key] = rev
	}
	if !errors.Is(full, store.ErrNoSpace) {
		t.Fatalf("full: %v", full)
	}
	for key, rev := range revs {
		if _, err := s.Delete(ctx, key, rev); err != nil {
			t.Fatalf("delete from a full store: %v", err)
		}
	}
	if err := s.makeRoomOnce(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "/registry/x/again", value, 0); err != nil {
		t.Errorf("after making room: %v", err)
	}
}

package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// TestLongSocketPath: the kernel takes 107 bytes, data directories have more.
func TestLongSocketPath(t *testing.T) {
	dir := t.TempDir() + "/" + strings.Repeat("x", 100)
	open(t, Config{SocketDir: dir})
	if info, err := os.Stat(dir + "/etcd/etcd.sock"); err != nil || info.Mode().Type() != os.ModeSocket {
		t.Errorf("%v %v", info, err)
	}
	if info, err := os.Stat(dir + "/etcd"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others may come in: %v %v", info, err)
	}
}

// TestQuota: writes fail with ErrNoSpace once the quota is used up, deletes
// work, and once there is room again, writes do too.
func TestQuota(t *testing.T) {
	s := open(t, Config{Quota: 4 << 20})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	value := []byte(strings.Repeat("x", 256<<10))
	revs := map[string]int64{}
	var full error
	for i := range 1000 { // what has not been committed yet does not count
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
	if got, err := s.List(ctx, "/registry/x/", store.ListOptions{}); err != nil || len(got.KVs) != len(revs) {
		t.Errorf("a full store lists %d of %d: %v", len(got.KVs), len(revs), err)
	}
	for key, rev := range revs {
		if _, err := s.Delete(ctx, key, rev); err != nil {
			t.Fatalf("delete from a full store: %v", err)
		}
	}
	if err := s.makeRoom(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "/registry/x/again", value, 0); err != nil {
		t.Errorf("after making room: %v", err)
	}
}

// TestDiskFull: on a disk that others have filled, writes fail and say so,
// reads and deletes work, and with room again writes do too.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small disk")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=400m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := open(t, Config{Dir: filepath.Join(dir, "etcd")})
	ctx := context.Background()
	rev, err := s.Put(ctx, "/registry/x/a", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	var held int64
	leave := func(free int64) {
		t.Helper()
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		held += int64(st.Bavail)*st.Bsize - free
		if err = errors.Join(err, fill.Truncate(held), unix.Fallocate(int(fill.Fd()), 0, 0, held)); err != nil {
			t.Fatal(err)
		}
	}
	leave(diskReserve / 2)
	if err := s.DiskRoom(); !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("a full disk: %v", err)
	}
	if _, err := s.Put(ctx, "/registry/x/b", []byte("1"), 0); !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("a write to a full disk: %v", err)
	}
	if kv, err := s.Get(ctx, "/registry/x/a"); err != nil || kv.Rev != rev {
		t.Errorf("what was acknowledged: %+v %v", kv, err)
	}
	leave(diskReserve / 2) // etcd has laid out the next segment of its log meanwhile
	if rev, err = s.Put(store.Deleting(ctx), "/registry/x/a", []byte("2"), rev); err != nil {
		t.Errorf("the mark of a deletion: %v", err)
	}
	leave(deleteReserve / 2)
	if _, err := s.Put(store.Deleting(ctx), "/registry/x/a", []byte("3"), rev); !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("the mark of a deletion, when the reserve is gone: %v", err)
	}
	if _, err := s.Delete(ctx, "/registry/x/a", rev); err != nil {
		t.Errorf("a delete from a full disk: %v", err)
	}
	if err := errors.Join(fill.Truncate(0), fill.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "/registry/x/b", []byte("1"), 0); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

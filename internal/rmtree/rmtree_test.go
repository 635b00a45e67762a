package rmtree

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "outside"))
	write(t, filepath.Join(dir, "tree", "a", "b", "file"))
	if err := os.Symlink(dir, filepath.Join(dir, "tree", "link")); err != nil {
		t.Fatal(err)
	}
	if err := Remove(filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	if there(filepath.Join(dir, "tree")) || !there(filepath.Join(dir, "outside")) {
		t.Error("wrong things are gone")
	}
	if err := Remove(filepath.Join(dir, "tree")); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := Remove(filepath.Join(dir, "outside")); err != nil || there(filepath.Join(dir, "outside")) {
		t.Errorf("a file: %v", err)
	}
}

// TestMount: a bind mount of the same file system, reached over a symbolic
// link, keeps its content.
func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious", "file")
	write(t, precious)
	at := filepath.Join(dir, "real", "tree", "volume")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "real"), filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(filepath.Dir(precious), at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	for _, tree := range []string{filepath.Join(dir, "alias", "tree"), at} {
		if err := Remove(tree); err == nil {
			t.Errorf("%s is gone", tree)
		}
	}
	if !there(precious) {
		t.Error("what was mounted is gone")
	}
}

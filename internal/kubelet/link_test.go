package kubelet

import (
	"os"
	"path/filepath"
	"testing"
)

// The place that plugins know is taken only if it is free, and given back.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	at, root, other := filepath.Join(dir, "var", "kubelet"), filepath.Join(dir, "root/agent/kubelet"), filepath.Join(dir, "other/agent/kubelet")
	leads := func() string { to, _ := os.Readlink(at); return to }
	for _, d := range []string{root, other} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := link(at, root); err != nil || leads() != root {
			t.Fatalf("%v: it leads to %q", err, leads())
		}
	}
	if err := link(at, other); err == nil || leads() != root {
		t.Errorf("another's place is taken: %v, it leads to %q", err, leads())
	}
	if err := unlink(at, other); err != nil || leads() != root {
		t.Errorf("another's place is given back: %v", err)
	}
	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := link(at, other); err != nil || leads() != other {
		t.Errorf("a link to nowhere stays: %v", err)
	}
	if err := unlink(at, other); err != nil || leads() != "" {
		t.Errorf("%v: it leads to %q", err, leads())
	}
	if err := unlink(at, other); err != nil {
		t.Error(err)
	}
	if err := os.Symlink(filepath.Join(dir, "unmounted"), at); err != nil {
		t.Fatal(err)
	}
	if err := link(at, root); err == nil {
		t.Error("a link is taken that no node made")
	}
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := link(at, root); err == nil {
		t.Error("a directory is taken")
	}
	if err := unlink(at, root); err != nil {
		t.Error(err)
	}
}

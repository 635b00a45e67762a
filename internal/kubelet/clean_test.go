package kubelet_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"knarr.dev/knarr/internal/kubelet"
)

func TestClean(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "pods", "u", "volumes")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := kubelet.Clean(root, "knarr-clean-test"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pod's directory is left: %v", err)
	}
}

package imagestore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestUsage(t *testing.T) {
	root := t.TempDir()
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), make([]byte, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50 {
		if err := os.Link(filepath.Join(root, "0"), filepath.Join(root, fmt.Sprint("link", i))); err != nil {
			t.Fatal(err)
		}
	}
	bytes, inodes, err := usage(t.Context(), root)
	if err != nil || inodes != 101 || bytes < 100*5000 || bytes > 100*5000*3 {
		t.Errorf("%d bytes, %d inodes, %v", bytes, inodes, err)
	}
	if bytes, inodes, err := usage(t.Context(), filepath.Join(root, "none")); bytes != 0 || inodes != 0 || err != nil {
		t.Error(bytes, inodes, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := usage(ctx, root); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	// Files come and go while they are counted.
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(root, fmt.Sprint("passing", i%20))
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Error(err)
			}
			if err := os.Remove(filepath.Join(root, fmt.Sprint("passing", (i+1)%20))); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		}
	}()
	for range 200 {
		if _, inodes, err := usage(t.Context(), root); err != nil || inodes < 101 || inodes > 130 {
			t.Errorf("%d inodes, %v", inodes, err)
		}
	}
	close(stop)
	<-ended
}

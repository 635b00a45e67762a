package etcd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"knarr.dev/knarr/internal/store"
)

// TestQuietWhenWell: a start on an empty disk, a write, an end and a start
// again warn of nothing.
func TestQuietWhenWell(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	for range 2 {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
		s, err := Open(context.Background(), Config{Dir: dir, SocketDir: t.TempDir(), Log: log})
		if err != nil {
			t.Fatal(err)
		}
		kv, err := s.Get(context.Background(), "/registry/x")
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		if _, err := s.Put(context.Background(), "/registry/x", []byte("1"), kv.Rev); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			// That the machine is slow is true where it is.
			if !strings.Contains(line, "too long") && !strings.Contains(line, "slow") {
				t.Errorf("the log says %s", line)
			}
		}
	}
}

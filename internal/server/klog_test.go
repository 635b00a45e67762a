package server

import (
	"bytes"
	"log/slog"
	"testing"

	"k8s.io/klog/v2"
)

// TestQuietLibraries: what libraries call an error is said at debug only.
func TestQuietLibraries(t *testing.T) {
	for level, want := range map[slog.Level]bool{slog.LevelInfo: false, slog.LevelDebug: true} {
		var out bytes.Buffer
		quietLibraries(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})))
		t.Cleanup(klog.ClearLogger)
		klog.ErrorS(nil, "a client has hung up")
		klog.Warning("and another")
		if said := out.Len() > 0; said != want {
			t.Errorf("at %s: %q", level, out.String())
		}
	}
}

package probe

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
)

// TestExecOutcome: only what the container did counts, not that the runtime
// was away.
func TestExecOutcome(t *testing.T) {
	for _, tc := range []struct {
		name string
		ok   bool
		err  error
		want plan.Outcome
	}{
		{"exits 0", true, nil, plan.Success},
		{"exits 1", false, nil, plan.Failure},
		{"no such program", false, errors.New("no such file"), plan.Failure},
		{"takes too long", false, status.Error(codes.DeadlineExceeded, "timeout"), plan.Failure},
		{"runtime away", false, status.Error(codes.Unavailable, "connection refused"), plan.NoOutcome},
	} {
		p := New(Config{Exec: func(context.Context, string, []string, time.Duration) (string, bool, error) { return "", tc.ok, tc.err }})
		got, _ := p.once(t.Context(), Target{Probe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}})
		if got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

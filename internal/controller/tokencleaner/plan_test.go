package tokencleaner

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/plan"
)

func TestPlan(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	token := func(end string, change func(*corev1.Secret)) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abc123", UID: "u"}, Type: tokenType, Data: map[string][]byte{}}
		if end != "" {
			s.Data[expiration] = []byte(end)
		}
		if change != nil {
			change(s)
		}
		return s
	}
	past, future := now.Format(time.RFC3339), now.Add(time.Hour).Format(time.RFC3339)
	for _, tt := range []struct {
		name   string
		secret *corev1.Secret
		gone   bool
		after  time.Duration
	}{
		{"valid", token(future, nil), false, time.Hour},
		{"expired", token(past, nil), true, 0},
		{"without end", token("", nil), false, 0},
		{"nonsense", token("tomorrow", nil), true, 0},
		{"going already", token(past, func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: now} }), false, 0},
		{"elsewhere", token(past, func(s *corev1.Secret) { s.Namespace = "default" }), false, 0},
		{"no token", token(past, func(s *corev1.Secret) { s.Type = "Opaque" }), false, 0},
	} {
		r := Plan(Observed{tt.secret, now})
		if gone := len(r.Actions) == 1 && r.Actions[0].Verb == plan.Delete && r.Actions[0].UID == "u"; gone != tt.gone || len(r.Actions) > 1 || r.After != tt.after {
			t.Errorf("%s: %+v", tt.name, r)
		}
	}
}

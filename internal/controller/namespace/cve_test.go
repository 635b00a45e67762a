package namespace

import (
	"testing"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// TestCVE2024_7598: as long as a pod of a namespace that goes away may run, what
// holds it stays: network policies above all.
func TestCVE2024_7598(t *testing.T) {
	content := []Content{policies(3), pods(2)}
	for len(content[1].Objects) > 0 {
		for _, a := range Plan(Observed{Namespace: ending(), Content: content, Now: now}).Actions {
			if a.Verb == plan.Delete && a.Ref.Kind != kinds.Pod {
				t.Fatalf("%s is deleted while %d pods are left", a.Ref.Kind, len(content[1].Objects))
			}
		}
		content[1].Objects = content[1].Objects[1:]
	}
	gone := 0
	for _, a := range Plan(Observed{Namespace: ending(), Content: content[:1], Now: now}).Actions {
		if a.Verb == plan.Delete && a.Ref.Kind == kinds.NetworkPolicy {
			gone++
		}
	}
	if gone != 3 {
		t.Errorf("%d policies go afterwards", gone)
	}
}

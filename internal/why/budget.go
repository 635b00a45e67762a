package why

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"knarr.dev/knarr/internal/kinds"
)

// budget: why a disruption budget allows no eviction, so that nodes cannot be
// drained.
func (l *look) budget(b *policyv1.PodDisruptionBudget) *finding {
	s := &b.Status
	if s.ObservedGeneration < b.Generation {
		return about(kinds.PodDisruptionBudget, b, "its newest change has not been taken up yet")
	}
	for i := range s.Conditions {
		if c := &s.Conditions[i]; c.Type == policyv1.DisruptionAllowedCondition && c.Reason == policyv1.SyncFailedReason {
			return about(kinds.PodDisruptionBudget, b, "it allows no eviction, since what it asks for cannot be worked out: %s", c.Message).since(c.LastTransitionTime).
				help("give it a number, not a percentage, or have a controller own its pods")
		}
	}
	switch {
	case s.ExpectedPods == 0:
		return about(kinds.PodDisruptionBudget, b, "it guards nothing: its selector matches no pod").help("correct spec.selector, or make pods with its labels")
	case s.DisruptionsAllowed > 0:
		return nil
	case s.CurrentHealthy < s.ExpectedPods:
		f := about(kinds.PodDisruptionBudget, b, "it allows no eviction: %d of %d pods are healthy, and %d have to be so", s.CurrentHealthy, s.ExpectedPods, s.DesiredHealthy)
		pods, _ := list[*corev1.Pod](l, Want{Kind: kinds.Pod, Namespace: b.Namespace, Labels: selectorOf(b.Spec.Selector).String()})
		return l.blind(byPods(f, pods))
	case s.DesiredHealthy >= s.ExpectedPods:
		return about(kinds.PodDisruptionBudget, b, "it never allows an eviction: all of its %d pods have to be healthy, so that draining a node of theirs does not end", s.ExpectedPods).
			help("lower minAvailable, raise maxUnavailable, or run more pods")
	}
	return nil // an eviction is under way
}

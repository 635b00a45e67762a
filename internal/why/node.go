package why

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
)

func nodeCondition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func nodeReady(n *corev1.Node) bool {
	c := nodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func (l *look) node(n *corev1.Node) *finding {
	switch c := nodeCondition(n, corev1.NodeReady); {
	case c == nil:
		return about(kinds.Node, n, "its kubelet has never reported").since(n.CreationTimestamp).help("see `knarr status` on that machine")
	case c.Status == corev1.ConditionUnknown:
		return about(kinds.Node, n, "its kubelet has stopped to report (%s)", c.Message).since(c.LastTransitionTime).
			help("does the machine run, and does it reach the server? See `knarr status` there")
	case c.Status == corev1.ConditionFalse:
		return about(kinds.Node, n, "it is not ready: %s", c.Message).since(c.LastTransitionTime).help("see `knarr status` on that machine")
	}
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable} {
		if c := nodeCondition(n, t); c != nil && c.Status == corev1.ConditionTrue {
			return about(kinds.Node, n, "%s: %s", t, strings.TrimSuffix(c.Message, ".")).since(c.LastTransitionTime).help("%s", pressureRemedy(t))
		}
	}
	if n.Spec.Unschedulable {
		f := about(kinds.Node, n, "it is cordoned, and takes no new pods").help("`kubectl uncordon %s`", n.Name)
		for _, t := range n.Spec.Taints {
			if t.Key == corev1.TaintNodeUnschedulable && t.TimeAdded != nil {
				f.since(*t.TimeAdded)
			}
		}
		return f
	}
	return nil
}

func pressureRemedy(t corev1.NodeConditionType) string {
	switch t {
	case corev1.NodeMemoryPressure:
		return "have its pods use less memory, or move some away"
	case corev1.NodeDiskPressure:
		return "free some of its disk"
	}
	return ""
}

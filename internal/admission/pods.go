package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
)

// taintNodes keeps pods off a new node until its lifecycle controller has seen
// it ready.
type taintNodes struct{}

func (taintNodes) Name() string { return "TaintNodesByCondition" }

func (taintNodes) Mutate(_ context.Context, r *Request) error {
	node, ok := created[*corev1.Node](r, kinds.Node)
	if !ok {
		return nil
	}
	want := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&want) }) {
		node.Spec.Taints = append(node.Spec.Taints, want)
	}
	return nil
}

func (taintNodes) Validate(context.Context, *Request) error { return nil }

// defaultTolerations lets pods outlast a short absence of their node.
type defaultTolerations struct{}

// tolerateSeconds is upstream's default for both taints.
const tolerateSeconds = 300

func (defaultTolerations) Name() string { return "DefaultTolerationSeconds" }

func (defaultTolerations) Mutate(_ context.Context, r *Request) error {
	pod, ok := created[*corev1.Pod](r, kinds.Pod)
	if !ok {
		return nil
	}
	for _, key := range [...]string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if tolerates(pod.Spec.Tolerations, key) {
			continue
		}
		seconds := int64(tolerateSeconds)
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
	}
	return nil
}

func tolerates(list []corev1.Toleration, key string) bool {
	return slices.ContainsFunc(list, func(t corev1.Toleration) bool {
		return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
	})
}

func (defaultTolerations) Validate(context.Context, *Request) error { return nil }

package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// taintNodes keeps pods off a new node until its lifecycle controller has seen
// it ready.
type taintNodes struct{}

func (taintNodes) Name() string { return "TaintNodesByCondition" }

func (taintNodes) Mutate(_ context.Context, r *Request) error {
	node, ok := r.Object.(*corev1.Node)
	if !ok || r.Operation != Create || r.Ref.Sub != "" {
		return nil
	}
	for _, t := range node.Spec.Taints {
		if t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule {
			return nil
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	return nil
}

func (taintNodes) Validate(context.Context, *Request) error { return nil }

// defaultTolerations lets pods outlast a short absence of their node.
type defaultTolerations struct{}

// tolerateSeconds is upstream's default for both taints.
const tolerateSeconds = 300

func (defaultTolerations) Name() string { return "DefaultTolerationSeconds" }

func (defaultTolerations) Mutate(_ context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || r.Operation != Create || r.Ref.Sub != "" {
		return nil
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
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
	for _, t := range list {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

func (defaultTolerations) Validate(context.Context, *Request) error { return nil }

// priority resolves a pod's priority class.
type priority struct{ view *view.View }

func (priority) Name() string { return "Priority" }

func (p priority) Mutate(_ context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || r.Ref.Sub != "" || r.Operation != Create {
		return nil
	}
	class, err := p.class(r, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		value = class.Value
		pod.Spec.PriorityClassName = class.Name
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(kinds.Pod.GroupResource(), r.Ref.Name, fmt.Errorf(format, args...))
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return refuse("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value)
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return refuse("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, policy)
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// class is the named one, or the global default with the lowest value, or nil.
func (p priority) class(r *Request, name string) (*schedulingv1.PriorityClass, error) {
	s := p.view.Snapshot()
	if name != "" {
		if c := view.Get[*schedulingv1.PriorityClass](s, kinds.PriorityClass, "", name); c != nil {
			return c, nil
		}
		return nil, apierrors.NewForbidden(kinds.Pod.GroupResource(), r.Ref.Name, fmt.Errorf("no PriorityClass with name %v was found", name))
	}
	var best *schedulingv1.PriorityClass
	for c := range view.List[*schedulingv1.PriorityClass](s, kinds.PriorityClass, "") {
		if c.GlobalDefault && (best == nil || c.Value < best.Value) {
			best = c
		}
	}
	return best, nil
}

func (priority) Validate(context.Context, *Request) error { return nil }

package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// priority resolves a pod's priority class, and keeps to one global default.
type priority struct{ c *Config }

func (priority) Name() string { return "Priority" }

func (p priority) Mutate(ctx context.Context, r *Request) error {
	pod, ok := created[*corev1.Pod](r, kinds.Pod)
	if !ok {
		return nil
	}
	class, err := p.class(ctx, r, pod.Spec.PriorityClassName)
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
	if have := pod.Spec.Priority; have != nil && *have != value {
		return forbid(r, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *have, value))
	}
	if have := pod.Spec.PreemptionPolicy; have != nil && *have != policy {
		return forbid(r, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *have, policy))
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// class is the named one, or the global default with the lowest value, or nil.
func (p priority) class(ctx context.Context, r *Request, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" {
		return p.defaultClass(""), nil
	}
	c, err := find[*schedulingv1.PriorityClass](ctx, p.c, kinds.PriorityClass, "", name)
	if err == nil && c == nil {
		err = forbid(r, fmt.Errorf("no PriorityClass with name %v was found", name))
	}
	return c, err
}

// defaultClass is the global default besides the one named, or nil. There may
// be two after a race; upstream takes the lower one.
func (p priority) defaultClass(besides string) *schedulingv1.PriorityClass {
	var best *schedulingv1.PriorityClass
	for _, c := range view.NowList[*schedulingv1.PriorityClass](p.c.View, kinds.PriorityClass, "") {
		if c.GlobalDefault && c.Name != besides && (best == nil || c.Value < best.Value) {
			best = c
		}
	}
	return best
}

func (p priority) Validate(_ context.Context, r *Request) error {
	class, ok := r.Object.(*schedulingv1.PriorityClass)
	if !ok || r.Ref.Kind != kinds.PriorityClass || !class.GlobalDefault {
		return nil
	}
	if old, ok := r.Old.(*schedulingv1.PriorityClass); ok && old.GlobalDefault {
		return nil
	}
	if other := p.defaultClass(class.Name); other != nil {
		return forbid(r, fmt.Errorf("PriorityClass %v is already marked as globalDefault", other.Name))
	}
	return nil
}

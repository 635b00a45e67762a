package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"knarr.dev/knarr/internal/kinds"
)

var (
	errOverhead   = errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	errNoOverhead = errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
)

// runtimeClass gives new pods what their runtime class says: what it costs to
// run them, and where that can be done.
type runtimeClass struct{ c *Config }

func (runtimeClass) Name() string { return "RuntimeClass" }

func (p runtimeClass) Mutate(ctx context.Context, r *Request) error {
	pod, class, err := p.look(ctx, r)
	if err != nil || class == nil {
		return err
	}
	if o := class.Overhead; o != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(o.PodFixed, pod.Spec.Overhead) {
			return forbid(r, errOverhead)
		}
		pod.Spec.Overhead = o.DeepCopy().PodFixed
	}
	s := class.Scheduling
	if s == nil {
		return nil
	}
	selector := maps.Clone(s.NodeSelector)
	if have := pod.Spec.NodeSelector; have != nil {
		for key, value := range s.NodeSelector {
			if own, ok := have[key]; ok && own != value {
				return forbid(r, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own))
			}
		}
		selector = maps.Clone(have)
		maps.Copy(selector, s.NodeSelector)
	}
	pod.Spec.NodeSelector = selector
	pod.Spec.Tolerations = mergeTolerations(slices.Concat(pod.Spec.Tolerations, s.DeepCopy().Tolerations))
	return nil
}

func (p runtimeClass) Validate(ctx context.Context, r *Request) error {
	pod, class, err := p.look(ctx, r)
	switch {
	case err != nil || pod == nil:
		return err
	case class != nil && class.Overhead != nil:
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return forbid(r, errOverhead)
		}
	case pod.Spec.Overhead != nil:
		return forbid(r, errNoOverhead)
	}
	return nil
}

// look finds the new pod of a request and its class; either may be nil.
func (p runtimeClass) look(ctx context.Context, r *Request) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	pod, ok := created[*corev1.Pod](r, kinds.Pod)
	if !ok {
		return nil, nil, nil
	}
	if pod.Spec.RuntimeClassName == nil {
		return pod, nil, nil
	}
	class, err := find[*nodev1.RuntimeClass](ctx, p.c, kinds.RuntimeClass, "", *pod.Spec.RuntimeClassName)
	if err == nil && class == nil {
		err = forbid(r, fmt.Errorf("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName))
	}
	return pod, class, err
}

// mergeTolerations leaves out those that another one covers; of equal ones the
// first stays.
func mergeTolerations(all []corev1.Toleration) []corev1.Toleration {
	var merged []corev1.Toleration
	for i := range all {
		t := &all[i]
		covered := slices.ContainsFunc(merged, func(by corev1.Toleration) bool { return covers(&by, t) })
		for j := i + 1; j < len(all) && !covered; j++ {
			covered = !equality.Semantic.DeepEqual(t, &all[j]) && covers(&all[j], t)
		}
		if !covered {
			merged = append(merged, *t)
		}
	}
	return merged
}

// covers: whatever t tolerates, by does.
func covers(by, t *corev1.Toleration) bool {
	switch {
	case equality.Semantic.DeepEqual(by, t):
		return true
	case t.Key != by.Key && (by.Key != "" || by.Operator != corev1.TolerationOpExists):
		return false
	case t.Effect != by.Effect && by.Effect != "":
		return false
	case by.Effect == corev1.TaintEffectNoExecute && by.TolerationSeconds != nil && (t.TolerationSeconds == nil || *t.TolerationSeconds > *by.TolerationSeconds):
		return false
	}
	switch by.Operator {
	case corev1.TolerationOpEqual, "":
		return t.Operator == corev1.TolerationOpEqual && t.Value == by.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

package why

import (
	"regexp"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
)

var noRequest = regexp.MustCompile(`missing request for (\S+) in container (\S+) of Pod (\S+)`)

func (l *look) autoscaler(h *autoscalingv2.HorizontalPodAutoscaler) *finding {
	for _, t := range []autoscalingv2.HorizontalPodAutoscalerConditionType{autoscalingv2.AbleToScale, autoscalingv2.ScalingActive} {
		for i := range h.Status.Conditions {
			if c := &h.Status.Conditions[i]; c.Type == t && c.Status != corev1.ConditionTrue {
				return l.unscaled(h, c)
			}
		}
	}
	if len(h.Status.Conditions) == 0 {
		return about(kinds.HorizontalPodAutoscaler, h, "it has not been looked at yet").since(h.CreationTimestamp)
	}
	for i := range h.Status.Conditions {
		if c := &h.Status.Conditions[i]; c.Type == autoscalingv2.ScalingLimited && c.Status == corev1.ConditionTrue && c.Reason == "TooManyReplicas" {
			return about(kinds.HorizontalPodAutoscaler, h, "its metrics ask for more pods than its maxReplicas, %d, allow", h.Spec.MaxReplicas).since(c.LastTransitionTime).
				help("raise spec.maxReplicas, or its targets")
		}
	}
	return nil
}

func (l *look) unscaled(h *autoscalingv2.HorizontalPodAutoscaler, c *autoscalingv2.HorizontalPodAutoscalerCondition) *finding {
	f := about(kinds.HorizontalPodAutoscaler, h, "it does not scale (%s): %s", c.Reason, c.Message).since(c.LastTransitionTime)
	k, target, gone := l.target(h)
	ref := &h.Spec.ScaleTargetRef
	switch {
	case gone:
		return f.because(missing(k, h.Namespace, ref.Name, "create it, or correct spec.scaleTargetRef"))
	case k == nil:
		return f
	case c.Reason == "AmbiguousSelector":
		return f.help("leave one autoscaler for these pods, and delete the others")
	case c.Reason == "ScalingDisabled" && target != nil:
		return f.because(about(k, target, "it is scaled to zero, so that autoscaling is off").
			help("`kubectl scale %s/%s -n %s --replicas=1`", k.Singular, ref.Name, h.Namespace))
	}
	if m := noRequest.FindStringSubmatch(c.Message); m != nil && target != nil {
		return f.because(about(k, target, "container %s of its pods requests no %s, of which the autoscaler wants a part", m[2], m[1]).
			help("set resources.requests.%s of container %s", m[1], m[2]))
	}
	if target != nil && l.at(k, target) != nil {
		return f.behind(k, target)
	}
	if strings.HasPrefix(c.Reason, "FailedGet") && strings.Contains(c.Message, "metrics") {
		return f.help("metrics come a minute after the pods have started; of metrics other than cpu and memory: does their adapter run?")
	}
	return l.blind(f)
}

// target is what an autoscaler scales; its kind is nil if it is none that is
// known here.
func (l *look) target(h *autoscalingv2.HorizontalPodAutoscaler) (k *kinds.Kind, o kinds.Object, gone bool) {
	ref := &h.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, nil, false
	}
	if k = kinds.Builtin().ByGVK(gv.WithKind(ref.Kind)); k == nil || !k.Namespaced {
		return nil, nil, false
	}
	o, gone = get[kinds.Object](l, k, h.Namespace, ref.Name)
	return k, o, gone
}

package plan

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// conditions are the kubelet's own; those of others are kept as they are.
func (p *pass) conditions(st *corev1.PodStatus) {
	own := []corev1.PodCondition{
		p.sandboxCondition(),
		p.initializedCondition(st),
		p.ready(st, true),
		p.ready(st, false),
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	if p.in.Evicted != "" {
		own = append(own, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: corev1.PodReasonTerminationByKubelet, Message: p.in.Evicted})
	}
	own = append(own, p.resizeConditions()...)
	mine := map[corev1.PodConditionType]bool{corev1.PodResizePending: true, corev1.PodResizeInProgress: true}
	for _, c := range own {
		mine[c.Type] = true
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = p.pod.Generation
		}
		c.LastTransitionTime = seconds(p.in.Now)
		for _, old := range p.pod.Status.Conditions {
			if old.Type == c.Type {
				if old.Status == c.Status && (!resizes(c.Type) || old.Reason == c.Reason) {
					c.LastTransitionTime = old.LastTransitionTime
				}
				c.LastProbeTime = old.LastProbeTime
			}
		}
		st.Conditions = append(st.Conditions, c)
	}
	for _, old := range p.pod.Status.Conditions {
		if !mine[old.Type] {
			st.Conditions = append(st.Conditions, old)
		}
	}
}

// Owns reports whether the kubelet wrote the condition.
func Owns(c *corev1.PodCondition) bool {
	switch c.Type {
	case corev1.DisruptionTarget: // others may say so too
		return c.Reason == corev1.PodReasonTerminationByKubelet
	case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
		corev1.PodResizePending, corev1.PodResizeInProgress:
		return true
	}
	return false
}

func resizes(t corev1.PodConditionType) bool {
	return t == corev1.PodResizePending || t == corev1.PodResizeInProgress
}

// resizeConditions say what the pod waits for and what is under way; there are
// none when it has what it asks for.
func (p *pass) resizeConditions() []corev1.PodCondition {
	var out []corev1.PodCondition
	if w := p.in.Pending; w != nil {
		out = append(out, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue,
			Reason: corev1.PodReasonDeferred, Message: w.Message, ObservedGeneration: w.Generation})
	}
	if p.out.Resizing {
		c := corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, ObservedGeneration: p.in.Resizing}
		if p.out.ResizeError != "" {
			c.Reason, c.Message = corev1.PodReasonError, p.out.ResizeError
		}
		out = append(out, c)
	}
	return out
}

func truth(ok bool) corev1.ConditionStatus {
	if ok {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func (p *pass) sandboxCondition() corev1.PodCondition {
	return corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: truth(p.box != nil)}
}

func (p *pass) initializedCondition(st *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if st.Phase == corev1.PodSucceeded {
		c.Reason = "PodCompleted"
		return c
	}
	if names := p.uninitialized(); len(names) > 0 {
		c.Status, c.Reason = corev1.ConditionFalse, "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(names, " "))
	}
	return c
}

// ready is the condition Ready, or ContainersReady, which ignores the gates.
func (p *pass) ready(st *corev1.PodStatus, whole bool) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	if whole {
		c.Type = corev1.PodReady
	}
	switch st.Phase {
	case corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case corev1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for i, s := range st.InitContainerStatuses {
		if sidecar(&p.pod.Spec.InitContainers[i]) && !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	for _, s := range st.ContainerStatuses {
		if !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	if len(unready) > 0 {
		c.Reason = "ContainersNotReady"
		c.Message = fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
		return c
	}
	if whole {
		if missing := p.gates(); len(missing) > 0 {
			c.Reason, c.Message = "ReadinessGatesNotReady", strings.Join(missing, ", ")
			return c
		}
	}
	c.Status = corev1.ConditionTrue
	return c
}

// gates that do not hold.
func (p *pass) gates() []string {
	var missing []string
	for _, g := range p.pod.Spec.ReadinessGates {
		at := slices.IndexFunc(p.pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == g.ConditionType })
		switch {
		case at < 0:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case p.pod.Status.Conditions[at].Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, p.pod.Status.Conditions[at].Status))
		}
	}
	return missing
}

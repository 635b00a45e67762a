package kinds

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var podColumns = []Column{
	nameColumn,
	cell("Ready", "string", "The aggregate readiness state of this pod for accepting traffic.", func(p *corev1.Pod) any {
		s := summarize(p)
		return fmt.Sprintf("%d/%d", s.ready, s.containers)
	}),
	cell("Status", "string", "The aggregate status of the containers in this pod.", func(p *corev1.Pod) any { return summarize(p).reason }),
	timed("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
		func(p *corev1.Pod, now time.Time) any {
			s := summarize(p)
			if s.restarts == 0 || s.lastRestart.IsZero() {
				return strconv.Itoa(s.restarts)
			}
			return fmt.Sprintf("%d (%s ago)", s.restarts, since(s.lastRestart, now))
		}),
	ageColumn,
	wide(cell("IP", "string", "Address of the pod.", func(p *corev1.Pod) any {
		if len(p.Status.PodIPs) > 0 {
			return orNone(p.Status.PodIPs[0].IP)
		}
		return none
	})),
	wide(cell("Node", "string", "Node that the pod is bound to.", func(p *corev1.Pod) any { return orNone(p.Spec.NodeName) })),
	wide(cell("Nominated Node", "string", "Node on which room is being made for the pod.", func(p *corev1.Pod) any { return orNone(p.Status.NominatedNodeName) })),
	wide(cell("Readiness Gates", "string", "How many of the pod's own conditions for readiness are met.", func(p *corev1.Pod) any {
		if len(p.Spec.ReadinessGates) == 0 {
			return none
		}
		met := 0
		for _, g := range p.Spec.ReadinessGates {
			if conditionTrue(p, g.ConditionType) {
				met++
			}
		}
		return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
	})),
}

var podTemplateColumns = []Column{
	nameColumn,
	cell("Containers", "string", "Names of each container in the template.", func(t *corev1.PodTemplate) any { return containerNames(t.Template.Spec.Containers) }),
	cell("Images", "string", "Images referenced by each container in the template.", func(t *corev1.PodTemplate) any { return containerImages(t.Template.Spec.Containers) }),
	cell("Pod Labels", "string", "The labels for the pod template.", func(t *corev1.PodTemplate) any { return labels.FormatLabels(t.Template.Labels) }),
}

// podSummary is what one line says of a pod.
type podSummary struct {
	ready, containers, restarts int
	lastRestart                 time.Time
	reason                      string
}

func (s *podSummary) restarted(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && t.FinishedAt.After(s.lastRestart) {
		s.lastRestart = t.FinishedAt.Time
	}
}

func conditionTrue(p *corev1.Pod, t corev1.PodConditionType) bool {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// summarize finds the one word that says best how a pod is: the first init
// container that is not done, else the first container that waits or has
// ended, else the phase; and above all that it is being deleted.
func summarize(p *corev1.Pod) podSummary {
	s := podSummary{containers: len(p.Spec.Containers), reason: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	stays := make(map[string]bool, len(p.Spec.InitContainers))
	for i := range p.Spec.InitContainers {
		if r := p.Spec.InitContainers[i].RestartPolicy; r != nil && *r == corev1.ContainerRestartPolicyAlways {
			stays[p.Spec.InitContainers[i].Name] = true
			s.containers++
		}
	}
	initializing, sidecars := s.initContainers(p, stays)
	if !initializing || conditionTrue(p, corev1.PodInitialized) {
		s.restarts, s.lastRestart = sidecars.restarts, sidecars.lastRestart
		s.mainContainers(p)
	}
	if p.DeletionTimestamp != nil {
		switch ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed; {
		case p.Status.Reason == "NodeLost":
			s.reason = "Unknown"
		case !ended:
			s.reason = "Terminating"
		}
	}
	return s
}

// initContainers reports whether one is not done; sidecars holds the restarts
// of those that stay.
func (s *podSummary) initContainers(p *corev1.Pod, stays map[string]bool) (initializing bool, sidecars podSummary) {
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.restarted(c)
		if stays[c.Name] {
			sidecars.restarted(c)
		}
		ended, waiting := c.State.Terminated, c.State.Waiting
		switch {
		case ended != nil && ended.ExitCode == 0:
			continue
		case stays[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case ended != nil:
			s.reason = "Init:" + ending(ended)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			s.reason = "Init:" + waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true, sidecars
	}
	return false, sidecars
}

func (s *podSummary) mainContainers(p *corev1.Pod) {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.restarted(c)
		switch ended, waiting := c.State.Terminated, c.State.Waiting; {
		case waiting != nil && waiting.Reason != "":
			s.reason = waiting.Reason
		case ended != nil:
			s.reason = ending(ended)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.reason == "Completed" && running {
		s.reason = "NotReady"
		if conditionTrue(p, corev1.PodReady) {
			s.reason = "Running"
		}
	}
}

func ending(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

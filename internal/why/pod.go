package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// endGrace is how long after its grace period a pod may still be about to end.
const endGrace = 30 * time.Second

func (l *look) pod(p *corev1.Pod) *finding {
	switch {
	case p.DeletionTimestamp != nil:
		return l.podEnding(p)
	case p.Status.Phase == corev1.PodSucceeded:
		return nil
	case p.Status.Phase == corev1.PodFailed:
		return l.podFailed(p)
	case p.Spec.NodeName == "":
		return l.unscheduled(p)
	}
	ready := podCondition(p, corev1.PodReady)
	if ready != nil && ready.Status == corev1.ConditionTrue {
		return resize(p)
	}
	if started := p.Status.StartTime != nil; !started || ready != nil && ready.Reason == "NodeNotReady" {
		if f := l.onDeadNode(p); f != nil {
			return f
		}
		if !started {
			return l.blind(about(kinds.Pod, p, "the kubelet of node %s has not taken it up yet", p.Spec.NodeName).since(sinceOf(podCondition(p, corev1.PodScheduled))))
		}
	}
	if f := l.containers(p); f != nil {
		return f
	}
	if f := gates(p); f != nil {
		return f
	}
	f := about(kinds.Pod, p, "it is not ready yet")
	if ready != nil && ready.Message != "" {
		f = about(kinds.Pod, p, "it is not ready: %s", ready.Message)
	}
	return l.blind(f.since(sinceOf(ready)))
}

func podCondition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func sinceOf(c *corev1.PodCondition) metav1.Time {
	if c == nil {
		return metav1.Time{}
	}
	return c.LastTransitionTime
}

func isReady(p *corev1.Pod) bool {
	c := podCondition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// resize of a pod that runs, but not with what it asks for now.
func resize(p *corev1.Pod) *finding {
	if c := podCondition(p, corev1.PodResizePending); c != nil && c.Status == corev1.ConditionTrue {
		return about(kinds.Pod, p, "it runs, but its resize waits (%s): %s", c.Reason, c.Message).since(c.LastTransitionTime).
			help("ask for less, or free what the node lacks")
	}
	if c := podCondition(p, corev1.PodResizeInProgress); c != nil && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonError {
		return about(kinds.Pod, p, "it runs, but its resize fails: %s", c.Message).since(c.LastTransitionTime)
	}
	return nil
}

// onDeadNode: the pod's node is not there, or not ready.
func (l *look) onDeadNode(p *corev1.Pod) *finding {
	n, gone := get[*corev1.Node](l, kinds.Node, "", p.Spec.NodeName)
	switch {
	case gone:
		return about(kinds.Pod, p, "it is bound to node %s, which does not exist", p.Spec.NodeName).since(sinceOf(podCondition(p, corev1.PodReady))).
			because(missing(kinds.Node, "", p.Spec.NodeName, "delete the pod, or bring the node back"))
	case n == nil || nodeReady(n):
		return nil
	}
	return about(kinds.Pod, p, "nobody runs it: its node %s is not ready", n.Name).since(sinceOf(podCondition(p, corev1.PodReady))).behind(kinds.Node, n)
}

// podEnding: what a pod that is being deleted waits for.
func (l *look) podEnding(p *corev1.Pod) *finding {
	due := p.DeletionTimestamp.Add(endGrace)
	asked := *p.DeletionTimestamp
	if g := p.DeletionGracePeriodSeconds; g != nil {
		asked = metav1.NewTime(asked.Add(-time.Duration(*g) * time.Second))
	}
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.Spec.NodeName == ""
	switch {
	case len(p.Finalizers) > 0 && (ended || l.facts.Now.After(due)):
		return l.ending(kinds.Pod, p)
	case !l.facts.Now.After(due):
		return about(kinds.Pod, p, "it is being deleted; its containers have until %s to end", p.DeletionTimestamp.UTC().Format(time.RFC3339)).since(asked)
	}
	if f := l.onDeadNode(p); f != nil {
		f.What = fmt.Sprintf("it is being deleted, but its node %s is not there to end it", p.Spec.NodeName)
		return f.since(asked)
	}
	f := about(kinds.Pod, p, "it is being deleted, but the kubelet of node %s has not ended it", p.Spec.NodeName).since(asked)
	if e := l.told(p, "FailedKillPod", "FailedPreStopHook"); e != nil {
		return f.because(about(kinds.Pod, p, "%s", e.Message).since(began(e)))
	}
	return l.blind(f)
}

func (l *look) podFailed(p *corev1.Pod) *finding {
	s := &p.Status
	f := about(kinds.Pod, p, "it has failed: %s", strings.TrimPrefix(s.Reason+": "+s.Message, ": "))
	switch s.Reason {
	case "Evicted":
		return about(kinds.Pod, p, "the node evicted it: %s", s.Message).help("%s", evictionRemedy(s.Message))
	case "DeadlineExceeded":
		return f.help("raise activeDeadlineSeconds, or make it faster")
	case "":
		if c := podCondition(p, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
			return about(kinds.Pod, p, "it was ended (%s): %s", c.Reason, c.Message).since(c.LastTransitionTime)
		}
		if found := l.failedContainer(p); found != nil {
			return found
		}
		f.What = "it has failed; nothing says why"
		return l.blind(f)
	}
	if strings.HasPrefix(s.Reason, "OutOf") || slices.Contains([]string{"NodeAffinity", "NodePorts", "TaintToleration", "UnexpectedAdmissionError"}, s.Reason) {
		f = about(kinds.Pod, p, "node %s refused it (%s): %s", p.Spec.NodeName, s.Reason, strings.TrimPrefix(s.Message, "Pod was rejected: ")).
			help("do not set spec.nodeName: the scheduler picks a node that has room")
	}
	return f
}

func evictionRemedy(message string) string {
	if strings.Contains(message, "limit") {
		return "raise the limit, or have it write less"
	}
	return "request what it uses, so that it is put where that is to be had"
}

// failedContainer of a pod that is over.
func (l *look) failedContainer(p *corev1.Pod) *finding {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			if t := list[i].State.Terminated; t != nil && t.ExitCode != 0 {
				return l.crash(p, &list[i], t)
			}
		}
	}
	return nil
}

// gates of readiness that do not hold.
func gates(p *corev1.Pod) *finding {
	if c := podCondition(p, corev1.ContainersReady); c == nil || c.Status != corev1.ConditionTrue {
		return nil
	}
	for _, g := range p.Spec.ReadinessGates {
		c := podCondition(p, g.ConditionType)
		if c != nil && c.Status == corev1.ConditionTrue {
			continue
		}
		state := "nobody has set"
		if c != nil {
			state = strings.TrimSuffix(fmt.Sprintf("is %s: %s", c.Status, c.Message), ": ")
		} else {
			return about(kinds.Pod, p, "its containers are ready, but %s the condition of its readiness gate %s", state, g.ConditionType).
				since(sinceOf(podCondition(p, corev1.ContainersReady))).help("whatever is to set the condition %s has to run", g.ConditionType)
		}
		return about(kinds.Pod, p, "its containers are ready, but its readiness gate %s %s", g.ConditionType, state).since(sinceOf(c)).
			help("whatever sets the condition %s says why", g.ConditionType)
	}
	return nil
}

// symptom of a pod that is not ready, by which pods are alike; empty: it is
// well, or over.
func symptom(p *corev1.Pod) string {
	switch {
	case p.DeletionTimestamp != nil:
		return "ending"
	case p.Status.Phase == corev1.PodSucceeded || isReady(p):
		return ""
	case p.Status.Phase == corev1.PodFailed:
		return "failed " + p.Status.Reason
	case p.Spec.NodeName == "":
		return "unscheduled"
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			s := &list[i]
			switch {
			case s.State.Waiting != nil && s.State.Waiting.Reason == "PodInitializing":
			case s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff", s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
				return "crash " + s.Name
			case s.State.Waiting != nil:
				return "waiting " + s.Name + strings.Replace(s.State.Waiting.Reason, "ImagePullBackOff", "ErrImagePull", 1)
			case s.State.Running != nil && !s.Ready:
				return "unready " + s.Name
			}
		}
	}
	return "starting"
}

// worst is a pod with the symptom that most of them have, and how many that
// are. Pods that end anyway count only if there is nothing else.
func worst(pods []*corev1.Pod) (p *corev1.Pod, alike int) {
	count := map[string]int{}
	for _, p := range pods {
		if s := symptom(p); s != "" && s != "ending" {
			count[s]++
		}
	}
	if len(count) == 0 {
		for _, p := range pods {
			if symptom(p) != "" {
				count["ending"]++
			}
		}
	}
	for _, x := range pods {
		s := symptom(x)
		if n := count[s]; s != "" && (n > alike || n == alike && n > 0 && x.Name < p.Name) {
			p, alike = x, n
		}
	}
	return p, alike
}

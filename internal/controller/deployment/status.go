package deployment

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the Progressing condition; kubectl rollout status reads them.
const (
	reasonUpdated   = "ReplicaSetUpdated"
	reasonAvailable = "NewReplicaSetAvailable"
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
)

// countReplicas fills the counters and the Available condition.
func (p *pass) countReplicas() {
	sets := p.all()
	s := &p.status
	s.ObservedGeneration = p.d.Generation
	s.Replicas = sum(sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas })
	s.UpdatedReplicas = 0
	if p.new != nil {
		s.UpdatedReplicas = p.new.Status.Replicas
	}
	s.ReadyReplicas = sum(sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas })
	s.AvailableReplicas = sum(sets, available)
	s.UnavailableReplicas = max(0, sum(sets, wanted)-s.AvailableReplicas)
	s.TerminatingReplicas = new(int32)
	for _, rs := range sets {
		if rs.Status.TerminatingReplicas != nil {
			*s.TerminatingReplicas += *rs.Status.TerminatingReplicas
		}
	}
	_, unavailable := limits(p.d)
	if s.AvailableReplicas >= *p.d.Spec.Replicas-unavailable {
		p.condition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		p.condition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
}

// find returns the condition of that type, or nil.
func find(conditions []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	i := slices.IndexFunc(conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &conditions[i]
}

func (p *pass) progressing() *appsv1.DeploymentCondition {
	return find(p.status.Conditions, appsv1.DeploymentProgressing)
}

// condition sets a condition; with the status and reason that stand it is left
// alone, so that its times say when it began. Without a deadline nobody asked
// for progress.
func (p *pass) condition(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	if t == appsv1.DeploymentProgressing && !p.hasDeadline() {
		return
	}
	old := find(p.status.Conditions, t)
	if old != nil && old.Status == status && old.Reason == reason {
		return
	}
	p.put(t, status, reason, message)
}

// put replaces a condition; the transition time moves with the status only.
func (p *pass) put(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(p.Now)
	c := appsv1.DeploymentCondition{Type: t, Status: status, LastUpdateTime: now, LastTransitionTime: now, Reason: reason, Message: message}
	if old := find(p.status.Conditions, t); old != nil {
		if old.Status == status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	p.status.Conditions = append(p.status.Conditions, c)
}

func (p *pass) remove(t appsv1.DeploymentConditionType) {
	p.status.Conditions = slices.DeleteFunc(p.status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// noDeadline is how clients say that progress is not watched.
const noDeadline = 1<<31 - 1

func (p *pass) hasDeadline() bool {
	return p.d.Spec.ProgressDeadlineSeconds != nil && *p.d.Spec.ProgressDeadlineSeconds != noDeadline
}

// pauseCondition notes pauses and resumptions, so that a paused rollout does
// not time out.
func (p *pass) pauseCondition() {
	c := p.progressing()
	if c != nil && c.Reason == reasonTimedOut {
		return // that progress was lacking stays to be seen
	}
	paused := c != nil && c.Reason == reasonPaused
	if p.d.Spec.Paused && !paused {
		p.condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	} else if !p.d.Spec.Paused && paused {
		p.condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// complete: everything wanted is new and available, and nothing else is left.
func (p *pass) complete() bool {
	s, n := &p.status, *p.d.Spec.Replicas
	return s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n && s.ObservedGeneration >= p.d.Generation
}

// advanced: the status is nearer to complete than the one that stands.
func (p *pass) advanced() bool {
	a, b := &p.status, &p.d.Status
	return a.UpdatedReplicas > b.UpdatedReplicas || a.Replicas-a.UpdatedReplicas < b.Replicas-b.UpdatedReplicas ||
		a.ReadyReplicas > b.ReadyReplicas || a.AvailableReplicas > b.AvailableReplicas
}

// rolloutConditions says how the rollout goes.
func (p *pass) rolloutConditions() {
	what := fmt.Sprintf("Deployment %q", p.d.Name)
	if p.new != nil {
		what = fmt.Sprintf("ReplicaSet %q", p.new.Name)
	}
	c := p.progressing()
	done := c != nil && c.Reason == reasonAvailable && p.status.Replicas == p.status.UpdatedReplicas
	switch {
	case !p.hasDeadline():
		p.remove(appsv1.DeploymentProgressing)
	case done:
	case p.complete():
		p.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, what+" has successfully progressed.")
	case p.advanced():
		// put, not condition: the update time moves with each bit of progress,
		// and the deadline with it.
		p.put(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, what+" is progressing.")
	case p.timedOut():
		p.condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, what+" has timed out progressing.")
	}
	p.failureCondition()
}

// failureCondition copies why a set cannot make its pods, the new one first.
func (p *pass) failureCondition() {
	sets := p.old
	if p.new != nil {
		sets = append([]*appsv1.ReplicaSet{p.new}, sets...)
	}
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				p.condition(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	p.remove(appsv1.DeploymentReplicaFailure)
}

// timedOut: no progress within the deadline.
func (p *pass) timedOut() bool {
	c := p.progressing()
	if c == nil || c.Reason == reasonAvailable {
		return false
	}
	return c.Reason == reasonTimedOut || !p.Now.Before(p.deadlineOf(c))
}

func (p *pass) deadlineOf(c *appsv1.DeploymentCondition) time.Time {
	return c.LastUpdateTime.Add(time.Duration(*p.d.Spec.ProgressDeadlineSeconds) * time.Second)
}

// deadline is when the rollout has to be looked at again although nothing
// happened; 0 if it cannot time out.
func (p *pass) deadline() time.Duration {
	c := p.progressing()
	if c == nil || !p.hasDeadline() || p.d.Spec.Paused || p.d.DeletionTimestamp != nil || c.Reason == reasonAvailable || c.Reason == reasonTimedOut || c.Reason == reasonPaused {
		return 0
	}
	return max(time.Second, p.deadlineOf(c).Sub(p.Now))
}

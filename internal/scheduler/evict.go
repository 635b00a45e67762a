package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// evicted is a pod that had to go, and for whom.
type evicted struct {
	victim *corev1.Pod
	by     *queued
	node   string
}

// settleRoom takes in what a decision means for where a pod is nominated, and
// returns what is to be written of it: nil for nothing.
func (s *Scheduler) settleRoom(w *queued, d *decision, start func(func(context.Context) result)) *string {
	said, none := w.pod.obj.Status.NominatedNodeName, ""
	switch n := s.cluster.nominees[w.pod.obj.UID]; {
	case d.room != nil:
		name := d.room.node.name
		if n != nil && n != d.room.node {
			s.withdraw(w.pod)
		}
		s.yield(w.pod, d.room.node, start)
		s.cluster.nominate(w.pod, name)
		return &name
	case d.lost && (n != nil || said != ""):
		s.withdraw(w.pod)
		return &none
	}
	return nil
}

// yield: pods of less priority that wait for room on the node may not get it
// any more, and had better look elsewhere.
func (s *Scheduler) yield(p *pod, n *node, start func(func(context.Context) result)) {
	for i := len(n.nominated) - 1; i >= 0; i-- {
		other := n.nominated[i]
		w := s.queue.all[other.obj.UID]
		if other.priority() >= p.priority() || w == nil {
			continue
		}
		s.withdraw(other)
		none := ""
		s.writeStatus(w, map[string]any{}, &none, start)
		s.queue.wake(other.obj.UID, s.now(), podUpdate)
	}
}

// makeRoom deletes the pods that must go, each with the condition that says
// why, so that whoever counts failures does not count this one. It does so once
// the nomination is written: nobody goes for a pod that is gone itself.
func (s *Scheduler) makeRoom(w *queued, r *room, start func(func(context.Context) result)) {
	s.metrics.preempted(r)
	for _, v := range r.victims {
		victim := v.obj
		if victim.DeletionTimestamp != nil || s.cluster.doomed[victim.UID] {
			continue // it is going already
		}
		s.cluster.doomed[victim.UID] = true
		s.inFlight++
		e := &evicted{victim, w, r.node.name}
		now := metav1.NewTime(s.now())
		nomination := w.told
		start(func(ctx context.Context) result {
			<-nomination.done
			err := nomination.err
			if err == nil {
				err = s.evict(ctx, victim, w.pod.profile(), now)
			}
			return result{gone: e, pod: victim, node: e.node, err: err}
		})
	}
}

func (s *Scheduler) evict(ctx context.Context, p *corev1.Pod, by string, now metav1.Time) error {
	next := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            by + ": preempting to accommodate a higher priority pod",
		LastTransitionTime: now, ObservedGeneration: p.Generation,
	}
	if old := condition(p, corev1.DisruptionTarget); old != nil && old.Status == next.Status {
		next.LastTransitionTime = old.LastTransitionTime
	}
	if err := s.patch(ctx, p, map[string]any{"conditions": []corev1.PodCondition{next}}); err != nil {
		return err
	}
	_, err := s.client.Delete(ctx, kinds.RefTo(kinds.Pod, p), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	return err
}

// settleVictim takes in what became of a deletion. The view shows the pod
// ending; until then it counts as doomed.
func (s *Scheduler) settleVictim(r result) {
	if r.err == nil {
		s.of(r.gone.by.pod.obj).events.Emit(eventOf(r.pod, corev1.EventTypeNormal, "Preempted", fmt.Sprintf("Preempted by pod %s on node %s", r.gone.by.pod.obj.UID, r.node)))
		return
	}
	// If it is gone already, the view will say so.
	delete(s.cluster.doomed, r.pod.UID)
	if !inCourse(r.err) {
		s.log.Warn("cannot preempt pod", "pod", keyOf(r.pod), "for", keyOf(r.gone.by.pod.obj), "error", r.err)
	}
	s.queue.wake(r.gone.by.pod.obj.UID, s.now(), attemptFailed)
}

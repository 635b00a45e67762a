package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// result of a write.
type result struct {
	bound *queued // of a binding
	gone  *evicted
	began time.Time
	pod   *corev1.Pod
	node  string
	err   error

	reserved *reservation // of the writes of what was promised
	written  []kinds.Object
	by       string // the plugin of upstream's that wrote last
	released bool   // of claims to devices
}

// schedule decides about one pod and starts the write that follows.
func (s *Scheduler) schedule(w *queued, start func(func(context.Context) result)) {
	begin := s.now()
	d, err := s.decide(w.pod)
	s.metrics.decided(w.pod.profile(), s.now().Sub(begin), d, err)
	if err != nil {
		s.queue.retry(w, s.now())
		if d.err != nil {
			s.tell(w, corev1.PodReasonSchedulerError, cut(err.Error()), nil, start)
		}
		return
	}
	if d.node == nil {
		if d.early {
			s.queue.held(w, d.refused)
			if d.soon {
				return
			}
		} else {
			s.queue.failed(w, d.refused, s.now())
		}
		s.tell(w, corev1.PodReasonUnschedulable, d.message(), s.settleRoom(w, &d, start), start)
		if d.room != nil {
			s.makeRoom(w, d.room, start)
		}
		if d.idle != nil {
			s.startDeallocation(w.pod.obj, d.idle, start)
		}
		if d.stale != nil {
			s.startUnmaking(w.pod.obj, d.stale, start)
		}
		return
	}
	// Assumed from here on: the next decision sees it.
	obj, placed := w.pod.obj, *w.pod
	s.assumed[obj.UID] = &placed
	if n := s.cluster.withdraw(w.pod); n != nil && n != d.node {
		s.happened(&event{what: podLeft, node: n, pod: w.pod})
	}
	e := &event{what: podCame, pod: &placed}
	e.node = s.cluster.place(&placed, d.node.name)
	s.happened(e)
	if d.wanted != nil || len(d.grants) > 0 {
		s.reserve(w, &placed, &d, begin, start)
		return
	}
	s.startBinding(w, obj, d.node.name, nil, begin, start)
}

// startBinding of a pod; if that fails, the claims that it was granted for it are
// free again.
func (s *Scheduler) startBinding(w *queued, obj *corev1.Pod, node string, granted []grant, begin time.Time, start func(func(context.Context) result)) {
	s.inFlight++
	told := w.told
	start(func(ctx context.Context) result {
		if told != nil {
			<-told.done // or a late condition would say that the bound pod waits
		}
		binding := s.now()
		err := s.bind(ctx, obj, node)
		status := "Success"
		var released []kinds.Object
		if err != nil {
			status, released = "Error", s.ungrant(ctx, obj, granted)
		}
		s.metrics.point(obj.Spec.SchedulerName, "Bind", status, s.now().Sub(binding))
		return result{bound: w, began: begin, pod: obj, node: node, err: err, written: released}
	})
}

// decide contains a panic to the pod that causes it.
func (s *Scheduler) decide(p *pod) (d decision, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("scheduler panicked", "pod", keyOf(p.obj), "panic", r, "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	d = s.of(p.obj).decider.decide(s.cluster, p)
	return d, d.err
}

func (s *Scheduler) bind(ctx context.Context, p *corev1.Pod, node string) error {
	if done, err := s.outside.bind(ctx, p, node); done {
		return err
	}
	_, err := s.client.Create(ctx, kinds.RefTo(kinds.Pod, p).WithSub("binding"), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
	return err
}

// settle takes in the outcome of a write.
func (s *Scheduler) settle(r result) {
	s.inFlight--
	if r.gone != nil {
		s.settleVictim(r)
		return
	}
	if r.reserved != nil {
		s.settleReserved(r)
		return
	}
	s.wrote(r.written)
	if r.bound == nil {
		if r.err != nil && !inCourse(r.err) {
			what := "cannot write condition"
			if r.released {
				what = "cannot release the pod's claims"
			}
			s.log.Warn(what, "pod", keyOf(r.pod), "error", r.err)
		}
		return
	}
	if r.err == nil {
		s.metrics.bound(r.bound, r.began, s.now())
		s.queue.remove(r.pod.UID)
		s.of(r.pod).events.Emit(eventOf(r.pod, corev1.EventTypeNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s to %s", keyOf(r.pod), r.node)))
		return
	}
	if !s.unplace(r.bound, r.pod, r.began) || inCourse(r.err) {
		return // it is gone or taken, and the view will say so
	}
	s.log.Warn("cannot bind pod", "pod", keyOf(r.pod), "node", r.node, "error", r.err)
	s.of(r.pod).events.Emit(eventOf(r.pod, corev1.EventTypeWarning, "FailedScheduling", fmt.Sprintf("cannot bind to %s: %v", r.node, r.err)))
}

// unplace takes a pod off the node that it was not bound to and has it tried
// again; false: it is not waiting any more.
func (s *Scheduler) unplace(w *queued, obj *corev1.Pod, began time.Time) bool {
	// Unless the view shows it bound all the same, it is not.
	if p := s.assumed[obj.UID]; p != nil {
		delete(s.assumed, obj.UID)
		s.lift(p)
	}
	if s.queue.all[obj.UID] != w {
		return false // deleted, or bound by somebody else
	}
	if name := w.pod.obj.Status.NominatedNodeName; name != "" {
		s.cluster.nominate(w.pod, name) // as its status still says
	}
	s.metrics.attempted(obj.Spec.SchedulerName, "error", s.now().Sub(began))
	s.queue.retry(w, s.now())
	return true
}

func inCourse(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// tell says why a pod has no node: in an event, and in its status if that does
// not say so yet, with what changes about its nomination.
func (s *Scheduler) tell(w *queued, reason, why string, nominated *string, start func(func(context.Context) result)) {
	p := w.pod.obj
	s.of(p).events.Emit(eventOf(p, corev1.EventTypeWarning, "FailedScheduling", why))
	next := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: why,
		LastTransitionTime: metav1.NewTime(s.now()), ObservedGeneration: p.Generation,
	}
	if old := condition(p, corev1.PodScheduled); old != nil && old.Status == next.Status {
		if old.Reason == next.Reason && old.Message == why && nominated == nil {
			return
		}
		next.LastTransitionTime = old.LastTransitionTime
	}
	s.writeStatus(w, map[string]any{"conditions": []corev1.PodCondition{next}}, nominated, start)
}

// writeStatus of a pod that waits, after what is being written of it already.
// nominated, if not nil, is its nominated node, or "" for none.
func (s *Scheduler) writeStatus(w *queued, status map[string]any, nominated *string, start func(func(context.Context) result)) {
	if nominated != nil {
		status["nominatedNodeName"] = nil
		if *nominated != "" {
			status["nominatedNodeName"] = *nominated
		}
	}
	s.inFlight++
	p, before, told := w.pod.obj, w.told, &written{done: make(chan struct{})}
	w.told = told
	start(func(ctx context.Context) result {
		defer close(told.done)
		if before != nil {
			<-before.done
		}
		told.err = s.patch(ctx, p, status)
		return result{pod: p, err: told.err}
	})
}

func (s *Scheduler) patch(ctx context.Context, p *corev1.Pod, status map[string]any) error {
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.UID},
		"status":   status,
	})
	if err != nil {
		return err
	}
	_, err = s.client.Patch(ctx, kinds.RefTo(kinds.Pod, p).WithSub("status"), types.StrategicMergePatchType, data)
	return err
}

func eventOf(p *corev1.Pod, kind, reason, message string) plan.Event {
	return plan.Event{Regarding: kinds.RefTo(kinds.Pod, p), UID: p.UID, Type: kind, Reason: reason, Message: message}
}

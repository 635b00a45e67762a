// Package statefulset keeps the pods of StatefulSets: each has a name, a place
// in an order, and claims of its own.
package statefulset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/history"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// burst bounds the pods that one pass claims, creates or deletes.
const burst = 500

// Observed is what a plan depends on.
type Observed struct {
	Set *appsv1.StatefulSet
	// Owned are the pods that Set controls, Orphans those of its namespace
	// that no controller owns; likewise for its revisions.
	Owned, Orphans             []*corev1.Pod
	Revisions, OrphanRevisions []*appsv1.ControllerRevision
	// Revision and Claim find an object of the namespace by name, anybody's,
	// or nil.
	Revision func(name string) *appsv1.ControllerRevision
	Claim    func(name string) *corev1.PersistentVolumeClaim
	Now      time.Time
}

// pass is one run of the plan.
type pass struct {
	Observed
	set *appsv1.StatefulSet
	// current and update are the names of the revisions that the pods come
	// from and go to.
	current, update string
	revisions       []*appsv1.ControllerRevision
	collisions      *int32
	// pods of the set by ordinal, condemned those that are not wanted, highest
	// first.
	pods      map[int]*corev1.Pod
	condemned []*corev1.Pod
	// leaving are the pods that this pass deletes.
	leaving map[types.UID]bool
	// kept are the pods whose claims this pass has looked at.
	kept    map[types.UID]bool
	first   []plan.Action // what the status speaks of
	actions []plan.Action
	events  []plan.Event
}

// Plan returns what must change so that the pods match o.Set.
func Plan(o Observed) plan.Result {
	selector, err := metav1.LabelSelectorAsSelector(o.Set.Spec.Selector)
	if err != nil || selector.Empty() {
		return plan.Result{} // validation refuses both; never manage by everything
	}
	p := &pass{Observed: o, set: o.Set, pods: map[int]*corev1.Pod{}, leaving: map[types.UID]bool{}, kept: map[types.UID]bool{}}
	p.findRevisions(selector)
	p.claimPods(selector)
	if p.set.DeletionTimestamp == nil {
		p.manage()
	}
	return p.finish()
}

// claimPods adopts orphans that are the set's by labels and name, and releases
// pods that are not any more. Adopted pods count from this pass on.
func (p *pass) claimPods(selector labels.Selector) {
	for _, pod := range p.Owned {
		switch n, ok := p.ordinal(pod.Name); {
		case ok && selector.Matches(labels.Set(pod.Labels)):
			p.add(n, pod)
		case p.set.DeletionTimestamp == nil && pod.DeletionTimestamp == nil && len(p.first) < burst:
			p.first = append(p.first, plan.Disown(kinds.Pod, pod, p.set.UID))
		}
	}
	if p.set.DeletionTimestamp == nil {
		for _, pod := range p.Orphans {
			n, ok := p.ordinal(pod.Name)
			if !ok || pod.DeletionTimestamp != nil || len(p.first) >= burst || !selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			p.add(n, pod)
			p.first = append(p.first, plan.Adopt(kinds.Pod, pod, kinds.StatefulSet, p.set))
		}
	}
	slices.SortFunc(p.condemned, func(a, b *corev1.Pod) int { return p.at(b) - p.at(a) })
}

func (p *pass) add(n int, pod *corev1.Pod) {
	p.pods[n] = pod
	if !p.wants(n) {
		p.condemned = append(p.condemned, pod)
	}
}

// findRevisions finds or makes the revision of the present template, and finds
// the one that the pods come from.
func (p *pass) findRevisions(selector labels.Selector) {
	p.current, p.update, p.collisions = p.set.Status.CurrentRevision, p.set.Status.UpdateRevision, p.set.Status.CollisionCount
	p.revisions = p.Revisions
	if p.set.DeletionTimestamp != nil {
		return
	}
	if p.collisions == nil {
		p.collisions = new(int32)
	}
	s := history.Subject{Kind: kinds.StatefulSet, Set: p.set, Template: &p.set.Spec.Template, HashLabel: history.HashLabel,
		Collisions: p.collisions, Named: p.Revision}
	adopted, actions := s.Adopt(p.OrphanRevisions, selector)
	p.revisions = append(slices.Clone(p.revisions), adopted...)
	present := s.Present(p.revisions)
	p.first = append(append(p.first, actions...), present.Actions...)
	p.update, p.collisions = present.Revision.Name, present.Collisions
	if !slices.ContainsFunc(p.revisions, func(r *appsv1.ControllerRevision) bool { return r.Name == p.current }) {
		p.current = p.update
	}
}

// truncate deletes the oldest revisions beyond the limit that no pod is of.
func (p *pass) truncate() []plan.Action {
	limit := p.set.Spec.RevisionHistoryLimit
	if limit == nil || *limit < 0 || p.set.DeletionTimestamp != nil {
		return nil // negative: all are kept
	}
	live := map[string]bool{p.current: true, p.update: true}
	for _, pod := range p.pods {
		live[revisionOf(pod)] = true
	}
	old := slices.DeleteFunc(slices.Clone(p.revisions), func(r *appsv1.ControllerRevision) bool {
		return live[r.Name] || r.DeletionTimestamp != nil
	})
	return history.Drop(old, len(old)-int(*limit))
}

// finish puts the status before the pods: it speaks of what was observed, and
// must not wait for writes that are refused again and again.
func (p *pass) finish() plan.Result {
	next, after := p.status()
	res := plan.Result{Actions: p.first, Events: p.events, After: after}
	if !apiequality.Semantic.DeepEqual(next, p.set.Status) {
		c := *p.set // everything but the status is shared, and only read
		c.Status = next
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.StatefulSet, p.set).WithSub("status"), Object: &c})
	}
	res.Actions = append(append(res.Actions, p.truncate()...), p.actions...)
	return res
}

// status of the pods, and when a ready one becomes available by time alone.
func (p *pass) status() (appsv1.StatefulSetStatus, time.Duration) {
	s := appsv1.StatefulSetStatus{
		ObservedGeneration: p.set.Generation, CurrentRevision: p.current, UpdateRevision: p.update,
		CollisionCount: p.collisions, Conditions: p.set.Status.Conditions,
	}
	var after time.Duration
	for _, pod := range p.pods {
		s.Replicas++
		if runningAndReady(pod) {
			s.ReadyReplicas++
			if wait := p.untilAvailable(pod); wait <= 0 {
				s.AvailableReplicas++
			} else if after == 0 || wait < after {
				after = wait
			}
		}
		if p.terminating(pod) {
			continue
		}
		if revisionOf(pod) == p.current {
			s.CurrentReplicas++
		}
		if revisionOf(pod) == p.update {
			s.UpdatedReplicas++
		}
	}
	if n := *p.set.Spec.Replicas; s.UpdatedReplicas == n && s.ReadyReplicas == n && s.Replicas == n { // all have come
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
	return s, after
}

func (p *pass) owner() metav1.OwnerReference {
	return *metav1.NewControllerRef(p.set, kinds.StatefulSet.GVK)
}

func (p *pass) event(kind, reason, message string) *plan.Event {
	return &plan.Event{Regarding: kinds.RefTo(kinds.StatefulSet, p.set), UID: p.set.UID, Type: kind, Reason: reason, Message: message}
}

// Package daemonset keeps one pod of a DaemonSet on each node that is fit for
// it.
package daemonset

import (
	"cmp"
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

// burst bounds the pods that one pass creates, and those that it deletes, as
// upstream.
const burst = 250

// Observed is what a plan depends on.
type Observed struct {
	Set *appsv1.DaemonSet
	// Owned are the pods that Set controls, Orphans those of its namespace
	// that no controller owns; likewise for its revisions.
	Owned, Orphans             []*corev1.Pod
	Revisions, OrphanRevisions []*appsv1.ControllerRevision
	// Revision finds one of the namespace by name, anybody's, or nil.
	Revision func(name string) *appsv1.ControllerRevision
	Nodes    []*corev1.Node
	// Wait is how long each failed pod is left alone, for who fails at once
	// would be made anew without end.
	Wait   map[types.UID]time.Duration
	Now    time.Time
	Suffix func() string
}

// place is a node, or what a pod takes for one.
type place struct {
	name string
	node *corev1.Node // nil: gone, or never there
	pods []*corev1.Pod
	// run: it gets a pod; stay: a pod that it has may stay.
	run, stay bool
}

// pass is one run of the plan.
type pass struct {
	Observed
	set        *appsv1.DaemonSet
	where      where
	pods       []*corev1.Pod
	places     []*place
	hash       string          // of the present template
	twins      map[string]bool // other hashes of it
	old        []*appsv1.ControllerRevision
	collisions *int32
	taken      map[string]bool // names of pods
	first      []plan.Action   // what the status speaks of
	creates    []plan.Action
	deletes    []plan.Action
	events     []plan.Event
	after      time.Duration
}

// Plan returns what must change so that the pods match o.Set.
func Plan(o Observed) plan.Result {
	p := &pass{Observed: o, set: o.Set, twins: map[string]bool{}, taken: map[string]bool{}}
	selector, err := metav1.LabelSelectorAsSelector(o.Set.Spec.Selector)
	if err != nil {
		return plan.Result{} // validation refuses it
	}
	if selector.Empty() {
		e := p.event(corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return plan.Result{Events: []plan.Event{*e}}
	}
	// Its history may be going already, without which nothing can be said of
	// its pods.
	if p.set.DeletionTimestamp != nil {
		return plan.Result{}
	}
	p.claimPods(selector)
	if !p.findRevisions(selector) {
		return plan.Result{Actions: p.first}
	}
	p.where = whereOf(p.set)
	p.findPlaces()
	for _, pl := range p.places {
		p.manage(pl)
	}
	if len(p.creates)+len(p.deletes) == 0 && p.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		p.roll()
	}
	return p.finish()
}

// claimPods adopts orphans that match and releases pods that do not match any
// more. Adopted pods count from this pass on.
func (p *pass) claimPods(selector labels.Selector) {
	for _, pod := range p.Owned {
		p.taken[pod.Name] = true
		if selector.Matches(labels.Set(pod.Labels)) {
			p.pods = append(p.pods, pod)
		} else if pod.DeletionTimestamp == nil && len(p.first) < burst {
			p.first = append(p.first, plan.Disown(kinds.Pod, pod, p.set.UID))
		}
	}
	for _, pod := range p.Orphans {
		if pod.DeletionTimestamp != nil || len(p.first) >= burst || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		p.pods = append(p.pods, pod)
		p.first = append(p.first, plan.Adopt(kinds.Pod, pod, kinds.DaemonSet, p.set))
	}
}

// findRevisions finds or makes the revision of the present template. It reports
// false if the revisions have to be put in order first.
func (p *pass) findRevisions(selector labels.Selector) bool {
	const label = appsv1.ControllerRevisionHashLabelKey
	s := history.Subject{Kind: kinds.DaemonSet, Set: p.set, Template: &p.set.Spec.Template, HashLabel: label,
		Collisions: p.set.Status.CollisionCount, Named: p.Revision}
	adopted, actions := s.Adopt(p.OrphanRevisions, selector)
	p.first = append(p.first, actions...)
	revisions := append(slices.Clone(p.Revisions), adopted...)
	ok := true
	for _, r := range revisions {
		if r.Labels[label] == "" && r.DeletionTimestamp == nil { // its name does as well: it is only compared
			c := r.DeepCopy()
			c.Labels = map[string]string{label: r.Name}
			for k, v := range r.Labels {
				if k != label {
					c.Labels[k] = v
				}
			}
			p.first = append(p.first, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.ControllerRevision, r), Object: c})
			ok = false
		}
	}
	if !ok {
		return false
	}
	present := s.Present(revisions)
	p.first = append(p.first, present.Actions...)
	p.hash, p.old, p.collisions = present.Revision.Labels[label], present.Old, present.Collisions
	for _, r := range present.Twins {
		p.twins[r.Labels[label]] = true
	}
	p.mergeTwins(present.Twins)
	return true
}

// mergeTwins leaves one revision of the template, and pods that name it.
func (p *pass) mergeTwins(twins []*appsv1.ControllerRevision) {
	if len(twins) == 0 {
		return
	}
	relabel := 0
	for _, pod := range p.pods {
		if !p.twins[pod.Labels[appsv1.ControllerRevisionHashLabelKey]] || pod.DeletionTimestamp != nil {
			continue
		}
		if relabel++; relabel > burst {
			return // the rest, and then the revisions, in the next pass
		}
		p.first = append(p.first, plan.Action{
			Verb: plan.Patch, Ref: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, PatchType: types.MergePatchType, Parallel: true,
			Data:     []byte(`{"metadata":{"labels":{"` + appsv1.ControllerRevisionHashLabelKey + `":"` + p.hash + `"}}}`),
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		})
	}
	p.first = append(p.first, history.Drop(twins, len(twins))...)
}

// findPlaces files the pods under their nodes, each judged once.
func (p *pass) findPlaces() {
	at := make(map[string]*place, len(p.Nodes))
	for _, n := range p.Nodes {
		pl := &place{name: n.Name, node: n}
		pl.run, pl.stay = p.where.on(n)
		at[n.Name] = pl
		p.places = append(p.places, pl)
	}
	for _, pod := range p.pods {
		name := target(pod)
		if name == "" || ended(pod) && pod.DeletionTimestamp != nil { // only a finalizer holds it
			continue
		}
		pl := at[name]
		if pl == nil {
			pl = &place{name: name}
			at[name] = pl
			p.places = append(p.places, pl)
		}
		pl.pods = append(pl.pods, pod)
		p.untilAvailable(pod)
	}
	slices.SortFunc(p.places, func(a, b *place) int { return cmp.Compare(a.name, b.name) })
	for _, pl := range p.places {
		slices.SortFunc(pl.pods, byAge)
	}
}

// truncate deletes the oldest revisions beyond the limit that no pod is of.
func (p *pass) truncate() []plan.Action {
	if p.set.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	live := map[string]bool{}
	for _, pod := range p.pods {
		live[pod.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	unused := slices.DeleteFunc(slices.Clone(p.old), func(r *appsv1.ControllerRevision) bool {
		return live[r.Labels[appsv1.ControllerRevisionHashLabelKey]]
	})
	return history.Drop(unused, len(p.old)-int(*p.set.Spec.RevisionHistoryLimit))
}

// finish puts the status before the pods: it speaks of what was observed, and
// must not wait for writes that are refused again and again.
func (p *pass) finish() plan.Result {
	res := plan.Result{Actions: p.first, Events: p.events, After: p.after}
	if next := p.status(); !apiequality.Semantic.DeepEqual(next, p.set.Status) {
		c := *p.set // everything but the status is shared, and only read
		c.Status = next
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.DaemonSet, p.set).WithSub("status"), Object: &c})
	}
	res.Actions = append(res.Actions, p.truncate()...)
	res.Actions = append(append(res.Actions, p.creates...), p.deletes...)
	return res
}

// status of the nodes, told by the oldest pod of each.
func (p *pass) status() appsv1.DaemonSetStatus {
	s := appsv1.DaemonSetStatus{ObservedGeneration: p.set.Generation, CollisionCount: p.collisions, Conditions: p.set.Status.Conditions}
	for _, pl := range p.places {
		switch {
		case pl.node == nil:
		case !pl.run && len(pl.pods) > 0:
			s.NumberMisscheduled++
		case pl.run:
			s.DesiredNumberScheduled++
			if len(pl.pods) == 0 {
				continue
			}
			s.CurrentNumberScheduled++
			pod := pl.pods[0]
			if ready(pod) {
				s.NumberReady++
			}
			if p.available(pod) {
				s.NumberAvailable++
			}
			if p.updated(pod) {
				s.UpdatedNumberScheduled++
			}
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s
}

func (p *pass) owner() metav1.OwnerReference {
	return *metav1.NewControllerRef(p.set, kinds.DaemonSet.GVK)
}

func (p *pass) event(kind, reason, message string) *plan.Event {
	return &plan.Event{Regarding: kinds.RefTo(kinds.DaemonSet, p.set), UID: p.set.UID, Type: kind, Reason: reason, Message: message}
}

package scheduler

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// fill reads everything. Pods that wait are taken in by age, so that a restart
// does not turn the queue around.
func (s *Scheduler) fill(snap *view.Snapshot) {
	for _, k := range Kinds() {
		if k == kinds.Pod {
			continue
		}
		for o := range view.List[kinds.Object](snap, k, "") {
			s.observe(view.Change{Kind: k, New: o})
		}
	}
	pods := slices.Collect(view.List[*corev1.Pod](snap, kinds.Pod, ""))
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(keyOf(a), keyOf(b)))
	})
	for _, p := range pods {
		s.observe(view.Change{Kind: kinds.Pod, New: p})
	}
}

// observe takes in one change and wakes the pods that it may help.
func (s *Scheduler) observe(c view.Change) {
	gone := c.New == nil
	switch o := c.Object().(type) {
	case *corev1.Pod:
		s.observePod(c)
	case *corev1.Node:
		s.observeNode(o, gone)
	default:
		if e := s.cluster.take(o, gone); e != nil {
			s.happened(e)
			s.recheck(o)
		}
	}
}

// take follows an object that is neither a pod nor a node, and returns what it
// may mean for pods that wait; nil: nothing.
func (c *cluster) take(o kinds.Object, gone bool) *event {
	c.version++
	switch o := o.(type) {
	case *corev1.Service:
		c.setService(o, gone)
	case *corev1.Namespace:
		if gone {
			delete(c.namespaces, o.Name)
		} else if c.setNamespace(o.Name, o.Labels) {
			return &event{what: namespaceChanged, name: o.Name}
		}
	case *policyv1.PodDisruptionBudget:
		c.setBudget(o, gone)
	default:
		if e, ok := c.takeStorage(o, gone); ok {
			return e
		}
		if e, ok := c.takeDevices(o, gone); ok {
			return e
		}
		c.setOwner(o, gone)
	}
	return nil
}

func (s *Scheduler) happened(e *event) {
	s.queue.happened(s.now(), eventNames[e.what], func(p *pod, refused uint32) bool {
		return s.of(p.obj).decider.helps(s.cluster, p, refused, e)
	})
}

func (s *Scheduler) observeNode(o *corev1.Node, gone bool) {
	if gone {
		if n := s.cluster.dropNode(o.Name); n != nil {
			s.happened(&event{what: nodeChanged, node: n, name: n.name})
			s.recheck(o)
			for _, p := range n.nominated {
				s.queue.wake(p.obj.UID, s.now(), eventNames[nodeChanged]) // no room is made there any more
			}
		}
		return
	}
	var old *corev1.Node
	if n := s.cluster.byName[o.Name]; n != nil {
		old = n.obj
	}
	n, _ := s.cluster.setNode(o)
	if old == nil || !sameNode(old, o) {
		s.happened(&event{what: nodeChanged, node: n, name: n.name})
		s.recheck(o)
	}
}

// sameNode: a node's status changes often, but seldom in what pods ask for.
func sameNode(a, b *corev1.Node) bool {
	return a.Spec.Unschedulable == b.Spec.Unschedulable && maps.Equal(a.Labels, b.Labels) &&
		apiequality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) &&
		apiequality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable)
}

func (s *Scheduler) observePod(c view.Change) {
	if c.Old != nil && (c.New == nil || c.Old.GetUID() != c.New.GetUID()) {
		s.forgetPod(c.Old.(*corev1.Pod))
	}
	if c.New == nil {
		return
	}
	p := c.New.(*corev1.Pod)
	if p.DeletionTimestamp != nil {
		delete(s.cluster.doomed, p.UID)
	}
	switch {
	case ended(p):
		s.forgetPod(p)
	case p.Spec.NodeName != "":
		s.observePlaced(p)
	default:
		s.observePending(p)
	}
}

// forgetPod: it holds nothing any more, and wants nothing.
func (s *Scheduler) forgetPod(p *corev1.Pod) {
	s.unqueue(p.UID)
	delete(s.assumed, p.UID)
	delete(s.cluster.doomed, p.UID)
	s.lift(s.cluster.pods[p.UID])
}

// unqueue forgets a pod that is not to be scheduled, or no longer by us.
func (s *Scheduler) unqueue(uid types.UID) {
	if r := s.reserved[uid]; r != nil {
		s.abandon(r)
	}
	if w := s.queue.all[uid]; w != nil {
		s.queue.remove(uid)
		s.withdraw(w.pod)
	}
}

// withdraw gives up the room that is kept for a pod: others may have it.
func (s *Scheduler) withdraw(p *pod) {
	if n := s.cluster.withdraw(p); n != nil {
		s.happened(&event{what: podLeft, node: n, pod: p})
	}
}

// lift takes a pod off its node. Those for which it had to go need not wait
// for the end of their back-off.
func (s *Scheduler) lift(p *pod) {
	if p == nil {
		return
	}
	n := p.node
	s.cluster.remove(p)
	for _, waits := range n.nominated {
		if waits.priority() > p.priority() {
			s.queue.hasten(waits.obj.UID, s.now())
		}
	}
	s.happened(&event{what: podLeft, node: n, pod: p})
}

func (s *Scheduler) observePlaced(obj *corev1.Pod) {
	s.unqueue(obj.UID)
	delete(s.assumed, obj.UID)
	have := s.cluster.pods[obj.UID]
	switch {
	case have != nil && have.node.name != obj.Spec.NodeName:
		s.lift(have) // somebody else bound it elsewhere
		have = nil
	case have != nil && sameForUs(have.obj, obj):
		have.obj = obj
		return
	}
	e := &event{what: podCame}
	if have != nil {
		e.what, e.old = podChanged, have.obj
		s.cluster.remove(have)
	}
	e.pod = placed(obj)
	e.node = s.cluster.place(e.pod, obj.Spec.NodeName)
	s.happened(e)
}

func (s *Scheduler) observePending(obj *corev1.Pod) {
	w := s.queue.all[obj.UID]
	if w == nil && s.assumed[obj.UID] != nil {
		return // bound; the view is about to show it
	}
	profile := s.of(obj)
	if profile == nil || obj.DeletionTimestamp != nil || len(obj.Spec.SchedulingGates) > 0 {
		s.unqueue(obj.UID)
		return
	}
	if w == nil {
		p := profile.decider.classes.pending(obj)
		s.queue.add(p, s.now())
		s.nominated(p, "")
		return
	}
	before := w.pod.obj.Status.NominatedNodeName
	if sameForUs(w.pod.obj, obj) {
		next := *w.pod
		next.obj = obj // with its newest conditions
		w.pod = &next
	} else {
		s.queue.add(profile.decider.classes.pending(obj), s.now())
	}
	s.nominated(w.pod, before)
}

// nominated takes in where a pod's status says that room is made for it, if
// that has changed. What we have decided ourselves stands until then.
func (s *Scheduler) nominated(p *pod, before string) {
	now := p.obj.Status.NominatedNodeName
	switch n := s.cluster.nominees[p.obj.UID]; {
	case now != before && now == "":
		s.withdraw(p)
	case now != before:
		if n != nil && n.name != now {
			s.withdraw(p)
		}
		s.cluster.nominate(p, now)
	case n != nil:
		s.cluster.nominate(p, n.name) // in its newest form
	}
}

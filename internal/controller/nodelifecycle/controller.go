package nodelifecycle

import (
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Config of the controller. Every value may be zero for upstream's default.
type Config struct {
	// GracePeriod is how long a node may be silent before it counts as
	// unreachable. 0: 40 s, four heartbeats of the kubelet's lease.
	GracePeriod time.Duration
	// StartupGracePeriod is how long a new node may take to report. 0: 60 s.
	StartupGracePeriod time.Duration
	// EvictionInterval is the least time between two nodes being given up, so
	// that a fault of ours does not move everything at once. 0: 10 s.
	EvictionInterval time.Duration
	// SlowEvictionInterval holds instead while most of a large cluster is not
	// ready. 0: 100 s. A cluster of up to LargeCluster nodes (0: 50) gives up
	// none then.
	SlowEvictionInterval time.Duration
	LargeCluster         int
	// UnhealthyShare of nodes that are not ready is "most". 0: 0.55.
	UnhealthyShare float64
}

// LeaseNamespace is where kubelets renew the lease that is their heartbeat.
const LeaseNamespace = corev1.NamespaceNodeLease

// Controller judges all nodes. The view needs view.PodsByNode. Leases do not
// wake it: a node is looked at again when its silence would be too long.
func Controller(c Config) reconcile.Controller {
	l := limits(c)
	m := &memory{nodes: map[string]*sighting{}}
	return reconcile.Controller{
		Name: "node-lifecycle-controller", For: kinds.Node,
		Watches: []reconcile.Watch{
			{Kind: kinds.Pod, Keys: podKeys},
			{Kind: kinds.Node, Keys: otherKeys},
		},
		Reads: []*kinds.Kind{kinds.Lease},
		Writes: []reconcile.Write{
			{Kind: kinds.Node, Verbs: []plan.Verb{plan.Patch}},
			{Kind: kinds.Node, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
			{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Delete}},
			{Kind: kinds.Pod, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
		},
		Plan:    reconcile.Pair(func(in reconcile.Input) (Observed, bool) { return observe(in, m, l) }, Plan),
		Workers: 4,
	}
}

func limits(c Config) Limits {
	l := Limits{c.GracePeriod, c.StartupGracePeriod, c.EvictionInterval, c.SlowEvictionInterval, c.LargeCluster, c.UnhealthyShare}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&l.Grace, 40 * time.Second}, {&l.StartupGrace, time.Minute}, {&l.EvictInterval, 10 * time.Second}, {&l.SlowInterval, 100 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if l.LargeCluster == 0 {
		l.LargeCluster = 50
	}
	if l.UnhealthyShare == 0 {
		l.UnhealthyShare = 0.55
	}
	return l
}

func observe(in reconcile.Input, m *memory, l Limits) (Observed, bool) {
	n := view.Get[*corev1.Node](in.View, kinds.Node, "", in.Key.Name)
	if n == nil {
		m.forget(in.Key.Name)
		return Observed{}, false
	}
	lease := view.Get[*coordinationv1.Lease](in.View, kinds.Lease, LeaseNamespace, n.Name)
	o := Observed{Node: n, Now: in.Now, Limits: l}
	o.LastSeen, o.Never = m.lastSeen(n, heartbeat(n, lease), in.Now)
	o.Since = func(t corev1.Taint) time.Time { return m.since(n, t, in.Now) }
	m.keep(n)
	if ready(n) != corev1.ConditionTrue {
		o.Census = census(in.View, n)
	}
	if ready(n) == corev1.ConditionUnknown || hasNoExecute(n) {
		o.Pods = slices.Collect(view.By[*corev1.Pod](in.View, view.PodsByNode, n.Name))
	}
	return o, true
}

// heartbeat is the newest sign of life, by the node's clock.
func heartbeat(n *corev1.Node, lease *coordinationv1.Lease) time.Time {
	var at time.Time
	if c := condition(n, corev1.NodeReady); c != nil && c.Status != corev1.ConditionUnknown {
		at = c.LastHeartbeatTime.Time
	}
	if lease != nil && lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(at) {
		at = lease.Spec.RenewTime.Time
	}
	return at
}

func census(s *view.Snapshot, self *corev1.Node) Census {
	var c Census
	for n := range view.List[*corev1.Node](s, kinds.Node, "") {
		if ready(n) == corev1.ConditionTrue {
			c.Ready++
			continue
		}
		c.NotReady++
		for _, t := range n.Spec.Taints {
			if n.Name != self.Name && givenUp(t) && t.TimeAdded != nil && t.TimeAdded.After(c.LastEviction) {
				c.LastEviction = t.TimeAdded.Time
			}
		}
	}
	return c
}

func hasNoExecute(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute })
}

func tolerates(tol *corev1.Toleration, t *corev1.Taint) bool {
	return tol.ToleratesTaint(klog.Logger{}, t, true)
}

// podKeys is the pod's node, if that is one that pods may have to leave.
func podKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	p, ok := c.New.(*corev1.Pod)
	if !ok || p.Spec.NodeName == "" || p.DeletionTimestamp != nil {
		return nil
	}
	n := view.Get[*corev1.Node](s, kinds.Node, "", p.Spec.NodeName)
	if n == nil || ready(n) != corev1.ConditionUnknown && !hasNoExecute(n) {
		return nil
	}
	return []reconcile.Key{{Name: n.Name}}
}

// otherKeys are the nodes that are not ready, when another one becomes ready
// or stops to be: it decides whether they may be given up.
func otherKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	before, after := corev1.ConditionStatus(""), corev1.ConditionStatus("")
	if c.Old != nil {
		before = ready(c.Old.(*corev1.Node))
	}
	if c.New != nil {
		after = ready(c.New.(*corev1.Node))
	}
	if before == after || c.Old == nil && after != corev1.ConditionTrue {
		return nil
	}
	var keys []reconcile.Key
	for n := range view.List[*corev1.Node](s, kinds.Node, "") {
		if ready(n) != corev1.ConditionTrue && n.Name != c.Object().GetName() {
			keys = append(keys, reconcile.Key{Name: n.Name})
		}
	}
	return keys
}

// memory holds what objects do not say: when something was first seen here.
// Heartbeats carry the node's clock, which may be wrong; and after a time
// without a control plane every heartbeat is old without the nodes' fault.
type memory struct {
	mu    sync.Mutex
	nodes map[string]*sighting
}

type sighting struct {
	uid    types.UID
	beat   time.Time     // the newest heartbeat, by the node's clock
	offset time.Duration // our clock minus the node's, as far as is known at most
	taints map[corev1.Taint]time.Time
}

func (m *memory) of(n *corev1.Node) *sighting {
	s := m.nodes[n.Name]
	if s == nil || s.uid != n.UID {
		s = &sighting{uid: n.UID, taints: map[corev1.Taint]time.Time{}}
		m.nodes[n.Name] = s
	}
	return s
}

// lastSeen is when the heartbeat reached us. It is not watched: the offset
// between the clocks is what the fastest delivery so far has shown, and turns
// the heartbeat's own time into ours.
func (m *memory) lastSeen(n *corev1.Node, beat, now time.Time) (at time.Time, never bool) {
	if beat.IsZero() {
		return n.CreationTimestamp.Time, true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.of(n)
	if offset := now.Sub(beat); s.beat.IsZero() || beat.Before(s.beat) || offset < s.offset {
		s.offset = offset // the first one, or the node's clock has been set
	}
	s.beat = beat
	return beat.Add(s.offset), false
}

// since is when a taint was added, or first seen here.
func (m *memory) since(n *corev1.Node, t corev1.Taint, now time.Time) time.Time {
	if t.TimeAdded != nil {
		return t.TimeAdded.Time
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.of(n)
	at, ok := s.taints[t]
	if !ok {
		at = now
		s.taints[t] = at
	}
	return at
}

// keep forgets taints that the node no longer has.
func (m *memory) keep(n *corev1.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.of(n)
	for t := range s.taints {
		if !slices.Contains(n.Spec.Taints, t) {
			delete(s.taints, t)
		}
	}
}

func (m *memory) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.nodes, name)
}

package podgc

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Config of the controller. Every value may be zero for upstream's default.
type Config struct {
	// FinishedThreshold is how many pods that have ended are kept for their
	// logs. 0: 12500; below zero: all.
	FinishedThreshold int
	// Quarantine is how long a node may be absent before its pods are deleted:
	// it may have been deleted to register anew. 0: 40 s.
	Quarantine time.Duration
}

// Controller deletes leftover pods. Its keys are the names of nodes, existing
// or not, and the empty name for what belongs to no node. The view needs
// view.PodsByNode and view.FinishedPods.
func Controller(c Config) reconcile.Controller {
	if c.FinishedThreshold == 0 {
		c.FinishedThreshold = 12500
	}
	if c.Quarantine == 0 {
		c.Quarantine = 40 * time.Second
	}
	m := &memory{gone: map[string]time.Time{}}
	return reconcile.Controller{
		Name: "pod-garbage-collector", For: kinds.Node,
		Watches: []reconcile.Watch{{Kind: kinds.Pod, Keys: podKeys}},
		Writes: []reconcile.Write{
			{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Delete}},
			{Kind: kinds.Pod, Sub: "status", Verbs: []plan.Verb{plan.Patch}},
		},
		Plan: func(in reconcile.Input) plan.Result {
			if in.Key.Name == "" {
				return PlanLeftover(Leftover{
					Unbound:   slices.Collect(view.By[*corev1.Pod](in.View, view.PodsByNode, "")),
					Finished:  slices.Collect(view.By[*corev1.Pod](in.View, view.FinishedPods, "")),
					Threshold: c.FinishedThreshold,
				})
			}
			o := Node{
				Name: in.Key.Name, Node: view.Get[*corev1.Node](in.View, kinds.Node, "", in.Key.Name), Now: in.Now, Grace: c.Quarantine,
				Pods: slices.Collect(view.By[*corev1.Pod](in.View, view.PodsByNode, in.Key.Name)),
			}
			o.Gone = m.since(o.Name, o.Node == nil && len(o.Pods) > 0, in.Now)
			return PlanNode(o)
		},
	}
}

// podKeys wakes what a pod's change may call for: nothing, mostly.
func podKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	p, ok := c.New.(*corev1.Pod)
	if !ok {
		return nil
	}
	var keys []reconcile.Key
	was, _ := c.Old.(*corev1.Pod)
	if p.Spec.NodeName == "" && p.DeletionTimestamp != nil || ended(p) && (was == nil || !ended(was)) {
		keys = append(keys, reconcile.Key{})
	}
	if p.Spec.NodeName != "" {
		n := view.Get[*corev1.Node](s, kinds.Node, "", p.Spec.NodeName)
		if n == nil || p.DeletionTimestamp != nil && !isReady(n) {
			keys = append(keys, reconcile.Key{Name: p.Spec.NodeName})
		}
	}
	return keys
}

// memory holds since when nodes have been missing, which no object says.
type memory struct {
	mu   sync.Mutex
	gone map[string]time.Time
}

func (m *memory) since(name string, missing bool, now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !missing {
		delete(m.gone, name)
		return time.Time{}
	}
	at, ok := m.gone[name]
	if !ok {
		at = now
		m.gone[name] = at
	}
	return at
}

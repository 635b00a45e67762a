package daemonset

import (
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many sets at once, as upstream.
const workers = 2

// Controller keeps the pods of DaemonSets. The view needs view.PodsByOwner,
// view.PodOrphans, view.RevisionsByOwner and view.RevisionOrphans.
func Controller() reconcile.Controller {
	m := &memory{sets: map[reconcile.Key]*failures{}}
	adopters := reconcile.Adopters(kinds.DaemonSet, func(o kinds.Object) *metav1.LabelSelector { return o.(*appsv1.DaemonSet).Spec.Selector })
	return reconcile.Controller{
		Name: "daemon-set-controller", Reporter: "daemonset-controller", For: kinds.DaemonSet, Owns: []*kinds.Kind{kinds.Pod}, Workers: workers,
		Watches: []reconcile.Watch{
			{Kind: kinds.Pod, Keys: adopters},
			{Kind: kinds.ControllerRevision, Keys: adopters},
			{Kind: kinds.ControllerRevision, Keys: reconcile.ChangedOwners(kinds.DaemonSet)},
			{Kind: kinds.Node, Keys: affected},
		},
		Writes: []reconcile.Write{
			{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Create, plan.Patch, plan.Delete}},
			{Kind: kinds.ControllerRevision, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Patch, plan.Delete}},
			{Kind: kinds.DaemonSet, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: reconcile.Pair(func(in reconcile.Input) (Observed, bool) { return observe(in, m) }, Plan),
	}
}

// affected finds the sets for which a node is another one than before.
func affected(s *view.Snapshot, c view.Change) []reconcile.Key {
	before, _ := c.Old.(*corev1.Node)
	after, _ := c.New.(*corev1.Node)
	if before != nil && after != nil && apiequality.Semantic.DeepEqual(before.Labels, after.Labels) &&
		apiequality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) {
		return nil // as most are: only its status
	}
	var keys []reconcile.Key
	for set := range view.List[*appsv1.DaemonSet](s, kinds.DaemonSet, "") {
		w := whereOf(set)
		ran, stayed := w.on(before)
		if run, stay := w.on(after); run != ran || stay != stayed {
			keys = append(keys, reconcile.KeyOf(set))
		}
	}
	return keys
}

func observe(in reconcile.Input, m *memory) (Observed, bool) {
	set := view.Get[*appsv1.DaemonSet](in.View, kinds.DaemonSet, in.Key.Namespace, in.Key.Name)
	if set == nil || set.Spec.Selector == nil {
		m.forget(in.Key)
		return Observed{}, false
	}
	o := Observed{
		Set: set, Now: in.Now, Suffix: in.Suffix,
		Owned:           slices.Collect(view.By[*corev1.Pod](in.View, view.PodsByOwner, string(set.UID))),
		Orphans:         slices.Collect(view.By[*corev1.Pod](in.View, view.PodOrphans, set.Namespace)),
		Revisions:       slices.Collect(view.By[*appsv1.ControllerRevision](in.View, view.RevisionsByOwner, string(set.UID))),
		OrphanRevisions: slices.Collect(view.By[*appsv1.ControllerRevision](in.View, view.RevisionOrphans, set.Namespace)),
		Nodes:           slices.Collect(view.List[*corev1.Node](in.View, kinds.Node, "")),
		Revision: func(name string) *appsv1.ControllerRevision {
			return view.Get[*appsv1.ControllerRevision](in.View, kinds.ControllerRevision, set.Namespace, name)
		},
	}
	o.Wait = m.waits(set, o.Owned, in.Now)
	return o, true
}

// A pod that failed is deleted at once the first time, and then after these
// waits, which double; upstream's values.
const (
	firstWait   = time.Second
	longestWait = 15 * time.Minute
)

// memory holds what objects do not say: how often pods have failed lately.
type memory struct {
	mu   sync.Mutex
	sets map[reconcile.Key]*failures
}

// failures of one generation of a set, by node.
type failures struct {
	uid        types.UID
	generation int64
	nodes      map[string]failure
}

// failure is the last one of a node, and how long the next one is to wait.
type failure struct {
	pod  types.UID
	at   time.Time
	wait time.Duration
}

func (m *memory) forget(k reconcile.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sets, k)
}

// waits says how long each failed pod is to be left alone.
func (m *memory) waits(set *appsv1.DaemonSet, pods []*corev1.Pod, now time.Time) map[types.UID]time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := reconcile.KeyOf(set)
	f := m.sets[key]
	if f != nil && (f.uid != set.UID || f.generation != set.Generation) {
		f = nil // another template deserves another try
		delete(m.sets, key)
	}
	waits := map[types.UID]time.Duration{}
	for _, pod := range pods {
		if pod.Status.Phase != corev1.PodFailed || pod.DeletionTimestamp != nil {
			continue
		}
		if f == nil {
			f = &failures{set.UID, set.Generation, map[string]failure{}}
			m.sets[key] = f
		}
		if wait := f.wait(target(pod), pod.UID, now); wait > 0 {
			waits[pod.UID] = wait
		}
	}
	if f != nil {
		for node, last := range f.nodes {
			if now.Sub(last.at) > 2*longestWait { // it has recovered, or is gone
				delete(f.nodes, node)
			}
		}
	}
	return waits
}

// wait of a failed pod, which is the next failure of its node once that is over.
func (f *failures) wait(node string, pod types.UID, now time.Time) time.Duration {
	last, ok := f.nodes[node]
	switch {
	case !ok || now.Sub(last.at) > 2*longestWait:
		f.nodes[node] = failure{pod, now, firstWait}
	case last.pod == pod:
	case now.Sub(last.at) < last.wait:
		return last.at.Add(last.wait).Sub(now)
	default:
		f.nodes[node] = failure{pod, now, min(2*last.wait, longestWait)}
	}
	return 0
}

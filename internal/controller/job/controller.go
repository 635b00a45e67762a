package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many jobs at once, as upstream.
const workers = 5

// Controller keeps the pods of jobs. Its keys are the names of jobs, existing
// or not, and in each namespace the empty name for tracked pods of no job. The
// view needs view.PodsByOwner, view.PodOrphans and view.TrackedPods.
func Controller() reconcile.Controller {
	m, c := &memory{jobs: map[reconcile.Key]*streak{}}, newCounts()
	return reconcile.Controller{
		Name: "job-controller", For: kinds.Job, Owns: []*kinds.Kind{kinds.Pod}, Workers: workers,
		Watches: []reconcile.Watch{{Kind: kinds.Pod, Keys: concerned}, {Kind: kinds.Namespace, Keys: inEnding}},
		Writes: []reconcile.Write{
			{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Create, plan.Delete, plan.Patch}},
			{Kind: kinds.Job, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan:    func(in reconcile.Input) plan.Result { return Plan(observe(in, m)) },
		Metrics: c.all(), Passed: c.passed,
	}
}

// concerned finds who has to look at a pod besides the job that owns it: who
// takes the finalizer off a stray, and the jobs that may adopt an orphan.
func concerned(s *view.Snapshot, c view.Change) []reconcile.Key {
	var keys []reconcile.Key
	for _, o := range []kinds.Object{c.New, c.Old} {
		if o == nil {
			continue
		}
		for _, name := range view.JobsOfTracked(o) {
			if k := (reconcile.Key{Namespace: o.GetNamespace(), Name: name}); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	if !mayBeAdopted(c) {
		return keys
	}
	for j := range view.List[*batchv1.Job](s, kinds.Job, c.New.GetNamespace()) {
		sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
		if err == nil && !sel.Empty() && sel.Matches(labels.Set(c.New.GetLabels())) {
			keys = append(keys, reconcile.KeyOf(j))
		}
	}
	return keys
}

// inEnding finds the jobs of a namespace that begins to end: they must let go what
// they held back.
func inEnding(s *view.Snapshot, c view.Change) []reconcile.Key {
	if c.New == nil || c.New.GetDeletionTimestamp() == nil || c.Old != nil && c.Old.GetDeletionTimestamp() != nil {
		return nil
	}
	var keys []reconcile.Key
	for j := range view.List[*batchv1.Job](s, kinds.Job, c.New.GetName()) {
		keys = append(keys, reconcile.KeyOf(j))
	}
	return keys
}

// mayBeAdopted: it has become an orphan, or is one with other labels.
func mayBeAdopted(c view.Change) bool {
	if c.New == nil || metav1.GetControllerOfNoCopy(c.New) != nil || c.New.GetDeletionTimestamp() != nil {
		return false
	}
	return c.Old == nil || metav1.GetControllerOfNoCopy(c.Old) != nil || !labels.Equals(c.Old.GetLabels(), c.New.GetLabels())
}

func observe(in reconcile.Input, m *memory) Observed {
	ns := in.Key.Namespace
	o := Observed{
		Job: view.Get[*batchv1.Job](in.View, kinds.Job, ns, in.Key.Name), Now: in.Now, Suffix: in.Suffix,
		Failed: in.Failure != nil && in.Failure.Kind == kinds.Pod,
	}
	for p := range view.By[*corev1.Pod](in.View, view.TrackedPods, ns+"/"+in.Key.Name) {
		if o.Job == nil || !metav1.IsControlledBy(p, o.Job) {
			o.Strays = append(o.Strays, p)
		}
	}
	if o.Job == nil {
		m.forget(in.Key)
		return o
	}
	o.Owned = slices.Collect(view.By[*corev1.Pod](in.View, view.PodsByOwner, string(o.Job.UID)))
	if done(o.Job) {
		m.forget(in.Key)
		return o
	}
	if n := view.Get[*corev1.Namespace](in.View, kinds.Namespace, "", ns); n != nil {
		o.Ending = n.DeletionTimestamp != nil
	}
	o.Orphans = slices.Collect(view.By[*corev1.Pod](in.View, view.PodOrphans, ns))
	o.Failures, o.LastFailure = m.recent(in.Key, o.Job, o.Owned)
	return o
}

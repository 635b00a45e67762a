package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/view"
)

// truth is the store's content, read and decoded without any cache.
type truth map[*kinds.Kind][]kinds.Object

func (w *world) truth() (truth, error) {
	page, err := w.store.List(w.ctx, kinds.Root, store.ListOptions{})
	if err != nil {
		return nil, err
	}
	t := truth{}
	for _, kv := range page.KVs {
		k, obj, _, err := w.decode(store.Event{KV: kv})
		if err != nil {
			return nil, err
		}
		if k != nil {
			t[k] = append(t[k], obj)
		}
	}
	return t, nil
}

func all[T kinds.Object](t truth, k *kinds.Kind) []T {
	out := make([]T, 0, len(t[k]))
	for _, o := range t[k] {
		out = append(out, o.(T))
	}
	return out
}

// converged checks everything that must hold once nothing is under way.
func (w *world) converged() error {
	t, err := w.truth()
	if err != nil {
		return err
	}
	for _, check := range []func(truth) error{w.checkWatch, w.checkViews, w.checkNamespaces, w.checkOwners, w.checkPods, w.checkSets, w.checkDeployments, w.checkStatefulSets, w.checkVolumes, w.checkDevices, w.checkDaemonSets, w.checkSlices, w.checkBudgets, w.checkJobs, w.checkSchedules, w.checkAutoscalers, w.checkQuotas, w.checkDrained} {
		if err := check(t); err != nil {
			return err
		}
	}
	return nil
}

// checker is a client that lists once and follows watches from then on, one
// per kind; its content must be the store's.
type checker struct {
	watchers map[*kinds.Kind]*cache.Watcher
	content  map[*kinds.Kind]map[string]int64 // revisions by key
}

func newChecker(w *world) (*checker, error) {
	c := &checker{watchers: map[*kinds.Kind]*cache.Watcher{}, content: map[*kinds.Kind]map[string]int64{}}
	for _, k := range w.kinds {
		l := w.cache.List(k, "")
		c.content[k] = map[string]int64{}
		for it := range l.All() {
			c.content[k][it.Namespace+"/"+it.Name] = it.Rev
		}
		var err error
		if c.watchers[k], err = w.cache.Watch(k, "", l.Rev); err != nil {
			return nil, err
		}
	}
	return c, nil
}

var errWatch = errors.New("a watch lost an event")

// follow takes in what the watches have.
func (c *checker) follow(ks []*kinds.Kind) error {
	for _, k := range ks {
		if err := c.read(k); err != nil {
			return err
		}
	}
	return nil
}

// checkWatch compares what the watches told with what is.
func (w *world) checkWatch(t truth) error {
	c := w.checker
	for _, k := range w.kinds {
		want := map[string]int64{}
		for _, o := range t[k] {
			want[o.GetNamespace()+"/"+o.GetName()] = revision(o)
		}
		if !maps.Equal(want, c.content[k]) {
			return fmt.Errorf("%w: %s: %s", errWatch, k, difference(want, c.content[k]))
		}
	}
	return nil
}

// read takes in what a watch has; it never waits.
func (c *checker) read(k *kinds.Kind) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		events, _, err := c.watchers[k].Next(ctx)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch of %s: %w", k, err)
		}
		for _, e := range events {
			key := e.Item.Namespace + "/" + e.Item.Name
			if e.Type == cache.Deleted {
				delete(c.content[k], key)
			} else {
				c.content[k][key] = e.Rev
			}
		}
	}
}

func difference(want, have map[string]int64) string {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if have[key] != want[key] {
			return fmt.Sprintf("%s is at %d, seen at %d", key, want[key], have[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[key]; !ok {
			return fmt.Sprintf("%s is gone, but still seen", key)
		}
	}
	return "none"
}

// checkViews: every process sees what is.
func (w *world) checkViews(t truth) error {
	for _, p := range w.processes {
		if !p.link.synced() {
			continue
		}
		s := p.view.Snapshot()
		for _, k := range p.kinds {
			want, have := map[string]int64{}, map[string]int64{}
			for _, o := range t[k] {
				want[o.GetNamespace()+"/"+o.GetName()] = revision(o)
			}
			for o := range view.List[kinds.Object](s, k, "") {
				have[o.GetNamespace()+"/"+o.GetName()] = revision(o)
			}
			if !maps.Equal(want, have) {
				return fmt.Errorf("%w: %s's view of %s: %s", errWatch, p.name, k, difference(want, have))
			}
		}
	}
	return nil
}

// checkNamespaces: no namespace is stuck, nothing is in one that is gone.
func (w *world) checkNamespaces(t truth) error {
	there := map[string]bool{}
	for _, ns := range t[kinds.Namespace] {
		if ns.GetDeletionTimestamp() != nil {
			return fmt.Errorf("namespace %s does not go away", ns.GetName())
		}
		there[ns.GetName()] = true
	}
	for _, k := range w.kinds {
		for _, o := range t[k] {
			if k.Namespaced && !there[o.GetNamespace()] {
				return fmt.Errorf("%s %s/%s is in a namespace that is gone", k, o.GetNamespace(), o.GetName())
			}
		}
	}
	return nil
}

// checkOwners: nothing is left that has lost all its owners, and no deletion
// is stuck.
func (w *world) checkOwners(t truth) error {
	uids := map[types.UID]bool{}
	known := map[schema.GroupKind]bool{}
	for _, k := range w.kinds {
		known[k.GVK.GroupKind()] = true
		for _, o := range t[k] {
			uids[o.GetUID()] = true
		}
	}
	for _, k := range w.kinds {
		for _, o := range t[k] {
			if o.GetDeletionTimestamp() != nil && (t.held(o) || t.heldVolume(o)) {
				continue
			}
			if o.GetDeletionTimestamp() != nil && !t.holdsCount(o) {
				return fmt.Errorf("%s %s/%s does not go away: finalizers %v", k, o.GetNamespace(), o.GetName(), o.GetFinalizers())
			}
			alive := len(o.GetOwnerReferences()) == 0
			for _, r := range o.GetOwnerReferences() {
				alive = alive || uids[r.UID] || !known[schema.FromAPIVersionAndKind(r.APIVersion, r.Kind).GroupKind()]
			}
			if !alive {
				return fmt.Errorf("%s %s/%s is left, its owner %s %s is gone", k, o.GetNamespace(), o.GetName(), o.GetOwnerReferences()[0].Kind, o.GetOwnerReferences()[0].Name)
			}
		}
	}
	return nil
}

// reason why a pod has no node, as the scheduler says.
func reason(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Message
		}
	}
	return "not said"
}

// checkPods: bound pods run on nodes that are; those without a node fit on
// none.
func (w *world) checkPods(t truth) error {
	there := map[string]bool{}
	for _, n := range all[*corev1.Node](t, kinds.Node) {
		if len(n.Spec.Taints) > 0 && !drained(n) || !nodeReady(n) {
			return fmt.Errorf("node %s is back, but not ready: taints %v", n.Name, n.Spec.Taints)
		}
		there[n.Name] = !drained(n)
	}
	for _, p := range all[*corev1.Pod](t, kinds.Pod) {
		devices, _ := wantsDevices(p)
		switch {
		case finished(p), t.robbed(p):
		case p.Spec.NodeName == "" && devices: // see checkDevices
		case p.Spec.NodeName == "":
			for _, name := range slices.Sorted(maps.Keys(there)) {
				l := w.audit.at(name)
				if only := promised(p); only != "" && only != name || !there[name] {
					continue
				}
				if l.room(requests(p)) {
					return fmt.Errorf("pod %s/%s waits, but fits on %s: %s", p.Namespace, p.Name, name, reason(p))
				}
			}
		case !there[p.Spec.NodeName]:
			return fmt.Errorf("pod %s/%s is on %s, which is no node", p.Namespace, p.Name, p.Spec.NodeName)
		case !podReady(p):
			return fmt.Errorf("pod %s/%s on %s is not ready", p.Namespace, p.Name, p.Spec.NodeName)
		}
	}
	return nil
}

// waiting: some pod has no node, so something may still time out.
func (w *world) waiting() bool {
	for p := range view.By[*corev1.Pod](w.tap.Snapshot(), view.PodsByNode, "") {
		if !finished(p) {
			return true
		}
	}
	return false
}

// checkSets: each set has as many pods as it wants, and says so.
func (w *world) checkSets(t truth) error {
	pods := map[types.UID]int32{}
	for _, p := range all[*corev1.Pod](t, kinds.Pod) {
		if ref := metav1.GetControllerOf(p); ref != nil && !finished(p) {
			pods[ref.UID]++
		}
	}
	for _, s := range sets(t) {
		n := pods[s.GetUID()]
		if n != s.wanted && !(n < s.wanted && w.limited(s.GetNamespace())) {
			return fmt.Errorf("%s %s/%s has %d pods, wants %d", s.kind, s.GetNamespace(), s.GetName(), n, s.wanted)
		}
		if s.has != n || s.seen != s.GetGeneration() {
			return fmt.Errorf("%s %s/%s has %d pods, its status says %d (generation %d of %d)", s.kind, s.GetNamespace(), s.GetName(), n, s.has, s.seen, s.GetGeneration())
		}
	}
	return nil
}

// checkDeployments: unless it is paused, or has pods that fit nowhere, each is
// rolled out.
func (w *world) checkDeployments(t truth) error {
	stuck := w.waiting()
	for _, d := range all[*appsv1.Deployment](t, kinds.Deployment) {
		if d.Status.ObservedGeneration != d.Generation {
			return fmt.Errorf("deployment %s/%s: status of generation %d, there is %d", d.Namespace, d.Name, d.Status.ObservedGeneration, d.Generation)
		}
		if d.Spec.Paused || stuck || w.limited(d.Namespace) {
			continue
		}
		s, n := d.Status, *d.Spec.Replicas
		if s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n {
			return fmt.Errorf("deployment %s/%s wants %d: %d pods, %d updated, %d available", d.Namespace, d.Name, n, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
		}
	}
	return nil
}

// checkSlices: the endpoint slices of each service list exactly its ready pods.
func (w *world) checkSlices(t truth) error {
	have := map[string][]string{}
	for _, s := range all[*discoveryv1.EndpointSlice](t, kinds.EndpointSlice) {
		key := s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				have[key] = append(have[key], e.Addresses...)
			}
		}
	}
	for _, svc := range all[*corev1.Service](t, kinds.Service) {
		if len(svc.Spec.Selector) == 0 {
			continue
		}
		var want []string
		for _, p := range all[*corev1.Pod](t, kinds.Pod) {
			if p.Namespace == svc.Namespace && podReady(p) && !finished(p) && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(p.Labels)) {
				want = append(want, p.Status.PodIP)
			}
		}
		got := have[svc.Namespace+"/"+svc.Name]
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			return fmt.Errorf("service %s/%s: endpoints %v, ready pods %v", svc.Namespace, svc.Name, got, want)
		}
	}
	return nil
}

// checkBudgets: each disruption budget has counted its pods, and allows no more
// than there are to spare.
func (w *world) checkBudgets(t truth) error {
	for _, b := range all[*policyv1.PodDisruptionBudget](t, kinds.PodDisruptionBudget) {
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			return err
		}
		healthy := int32(0)
		for _, p := range all[*corev1.Pod](t, kinds.Pod) {
			if p.Namespace == b.Namespace && sel.Matches(labels.Set(p.Labels)) && p.DeletionTimestamp == nil && podReady(p) {
				healthy++
			}
		}
		s := b.Status
		if c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition); c != nil && c.Reason == policyv1.SyncFailedReason {
			if s.DisruptionsAllowed != 0 {
				return fmt.Errorf("budget %s/%s allows %d and cannot count", b.Namespace, b.Name, s.DisruptionsAllowed)
			}
			continue
		}
		if s.ObservedGeneration != b.Generation || s.CurrentHealthy != healthy || len(s.DisruptedPods) > 0 || s.DisruptionsAllowed > max(0, healthy-s.DesiredHealthy) {
			return fmt.Errorf("budget %s/%s: status %+v, but %d pods are healthy", b.Namespace, b.Name, s, healthy)
		}
	}
	return nil
}

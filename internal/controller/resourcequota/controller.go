package resourcequota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/quota"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers count for that many quotas at once; upstream's figure.
const workers = 5

// Controller counts the objects of all kinds of the table, and of the custom
// ones that its view holds. Its keys are quotas. It is no controller For them:
// each charge is a change of their status, and must not be counted at once,
// since what was charged for is not there yet.
func Controller(table *kinds.Table) reconcile.Controller {
	c := reconcile.Controller{
		Name: "resourcequota-controller", Workers: workers, Plan: reconcile.Pair(observe, Plan), Reads: []*kinds.Kind{kinds.DeviceClass},
		Watches: []reconcile.Watch{
			{Kind: kinds.ResourceQuota, Keys: quotaKeys},
			{Kind: kinds.CustomResourceDefinition, Keys: definitionKeys},
			{Kind: kinds.Custom, Keys: objectKeys},
		},
		Writes: []reconcile.Write{{Kind: kinds.ResourceQuota, Sub: "status", Verbs: []plan.Verb{plan.Update}}},
	}
	for _, k := range table.All() {
		if quota.Counted(k) && k.StoredAs == nil {
			c.Watches = append(c.Watches, reconcile.Watch{Kind: k, Keys: objectKeys})
		}
	}
	return c
}

// quotaKeys: a quota is counted when it is new or limits something else, and
// when its status says less than it should.
func quotaKeys(_ *view.Snapshot, c view.Change) []reconcile.Key {
	now, ok := c.New.(*corev1.ResourceQuota)
	if !ok {
		return nil
	}
	old, ok := c.Old.(*corev1.ResourceQuota)
	if ok && quota.Same(old.Spec.Hard, now.Spec.Hard) && quota.Same(now.Status.Hard, now.Spec.Hard) && !forgets(old.Status.Used, now.Status.Used) {
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(now)}
}

func forgets(old, now corev1.ResourceList) bool {
	for name := range old {
		if _, ok := now[name]; !ok {
			return true
		}
	}
	return false
}

// objectKeys: the quotas that count less, or other things, than before.
func objectKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	if c.Old == nil || !c.Kind.Namespaced {
		return nil // what is new has been charged
	}
	m, changes := quota.Meter{Around: quota.In{Snapshot: s}}, false
	var keys []reconcile.Key
	for q := range view.List[*corev1.ResourceQuota](s, kinds.ResourceQuota, c.Old.GetNamespace()) {
		if !m.Limits(q.Spec.Hard, c.Kind) {
			continue
		}
		if changes = changes || m.Changes(c.Kind, c.Old, c.New); !changes {
			return nil
		}
		keys = append(keys, reconcile.KeyOf(q))
	}
	return keys
}

// countPrefix is followed by the name of a definition, for custom kinds.
const countPrefix = "count/"

// definitionKeys: the quotas that limit the objects of a definition, and do not
// know yet how many there are.
func definitionKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	if c.New == nil {
		return nil
	}
	name := corev1.ResourceName(countPrefix + c.New.GetName())
	var keys []reconcile.Key
	for q := range view.List[*corev1.ResourceQuota](s, kinds.ResourceQuota, "") {
		_, limited := q.Spec.Hard[name]
		if _, known := q.Status.Used[name]; limited && !known {
			keys = append(keys, reconcile.KeyOf(q))
		}
	}
	return keys
}

func observe(in reconcile.Input) (Observed, bool) {
	if in.Key.Name == "" {
		return Observed{}, false // the singleton's key, which the runtime wakes at the start
	}
	q := view.Get[*corev1.ResourceQuota](in.View, kinds.ResourceQuota, in.Key.Namespace, in.Key.Name)
	if q == nil {
		return Observed{}, false
	}
	o := Observed{Quota: q, Around: quota.In{Snapshot: in.View}, Now: in.Now}
	for _, k := range in.View.Kinds() {
		// A custom kind that came a moment ago is not filled yet.
		if quota.Counted(k) && (!k.Is(kinds.Custom) || in.View.Rev(k) > 0) {
			o.Content = append(o.Content, quota.Content{Kind: k, Objects: view.List[kinds.Object](in.View, k, q.Namespace)})
		}
	}
	o.Awaited = awaited(in.View, q)
	return o, true
}

// awaited: a definition is there and its kind is not, or has no content yet.
func awaited(s *view.Snapshot, q *corev1.ResourceQuota) bool {
	for name := range q.Spec.Hard {
		resource, ok := strings.CutPrefix(string(name), countPrefix)
		if !ok {
			continue
		}
		crd := view.Get[kinds.Object](s, kinds.CustomResourceDefinition, "", resource)
		if crd == nil || crd.GetDeletionTimestamp() != nil {
			continue
		}
		if k := s.ByName(schema.ParseGroupResource(resource)); k == nil || s.Rev(k) == 0 {
			return true
		}
	}
	return false
}

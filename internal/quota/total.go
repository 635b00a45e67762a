package quota

import (
	"iter"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/internal/kinds"
)

// Content is what a namespace holds of one kind.
type Content struct {
	Kind    *kinds.Kind
	Objects iter.Seq[kinds.Object]
}

// Total is what all objects of a namespace use of what the quota limits. It
// says nothing of resources that no kind of the content uses. Next is when the
// first of the pods that are being deleted stops to count; zero: none does.
func (m Meter) Total(q *corev1.ResourceQuota, content []Content) (used corev1.ResourceList, next time.Time, err error) {
	used = corev1.ResourceList{}
	scopes := scopesOf(q)
	var counted []Content
	for _, c := range content {
		names := m.tracked(c.Kind, q.Spec.Hard)
		for _, name := range names {
			used[name] = resource.Quantity{Format: resource.DecimalSI}
		}
		if len(names) > 0 {
			counted = append(counted, c)
		}
	}
	for _, c := range counted {
		for obj := range c.Objects {
			in, err := inScope(scopes, obj)
			if err != nil {
				return nil, time.Time{}, err
			}
			if !in {
				continue
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				if at, ends := overdue(pod); ends && m.runs(pod) && (next.IsZero() || at.Before(next)) {
					next = at
				}
			}
			add(used, only(m.Usage(c.Kind, obj), used))
		}
	}
	return used, next, nil
}

// Changes reports whether a change of an object may change what quotas count,
// besides its creation, which is charged beforehand. Either side may be nil.
func (m Meter) Changes(k *kinds.Kind, old, now kinds.Object) bool {
	if old == nil || now == nil {
		return now == nil
	}
	switch o := old.(type) {
	case *corev1.Pod:
		return podChanges(o, now.(*corev1.Pod)) || !Same(m.Usage(k, old), m.Usage(k, now))
	case *corev1.PersistentVolumeClaim:
		return !sameClasses(o, now.(*corev1.PersistentVolumeClaim)) || !Same(m.Usage(k, old), m.Usage(k, now))
	}
	switch k {
	case kinds.Service, kinds.ResourceClaim:
		return !Same(m.Usage(k, old), m.Usage(k, now))
	}
	return false
}

// podChanges: another set of quotas counts the pod, or it begins to end.
func podChanges(old, now *corev1.Pod) bool {
	return endsByItself(old) != endsByItself(now) || (old.DeletionTimestamp == nil) != (now.DeletionTimestamp == nil)
}

func sameClasses(a, b *corev1.PersistentVolumeClaim) bool {
	same := func(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }
	target := func(c *corev1.PersistentVolumeClaim) string {
		if m := c.Status.ModifyVolumeStatus; m != nil {
			return m.TargetVolumeAttributesClassName
		}
		return ""
	}
	return same(a.Spec.VolumeAttributesClassName, b.Spec.VolumeAttributesClassName) && target(a) == target(b) &&
		same(a.Status.CurrentVolumeAttributesClassName, b.Status.CurrentVolumeAttributesClassName)
}

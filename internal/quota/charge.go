package quota

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
)

// Write is one that may cost something. Old is nil for a creation.
type Write struct {
	Kind        *kinds.Kind
	Sub         string
	Object, Old kinds.Object
}

// Refused says to the client why it may not write.
type Refused struct{ why string }

func (r *Refused) Error() string { return r.why }

func refuse(format string, args ...any) error { return &Refused{fmt.Sprintf(format, args...)} }

// Costs reports whether the write can cost anything; most updates cannot.
func Costs(w *Write) bool {
	switch w.Kind {
	case kinds.Pod:
		if w.Sub == "resize" {
			return w.Old != nil
		}
		if old, ok := w.Old.(*corev1.Pod); ok && w.Sub == "" {
			pod, ok := w.Object.(*corev1.Pod)
			return ok && endsByItself(pod) != endsByItself(old)
		}
	case kinds.PersistentVolumeClaim:
		return w.Sub == "" || w.Sub == "status"
	case kinds.Service, kinds.ResourceClaim:
		return w.Sub == ""
	}
	return w.Sub == "" && w.Old == nil
}

// Charge returns the quotas of the namespace with the write added to what is
// used; those that it does not change are the same pointers. It is refused if
// one of them does not have enough left.
func (m Meter) Charge(quotas []*corev1.ResourceQuota, w *Write) ([]*corev1.ResourceQuota, error) {
	var apply []int
	for i, q := range quotas {
		ok, err := m.applies(q, w)
		if err != nil {
			return nil, err
		}
		if ok {
			apply = append(apply, i)
		}
	}
	if len(apply) == 0 {
		return quotas, nil
	}
	usage := m.Usage(w.Kind, w.Object)
	if bad := negative(usage); len(bad) > 0 {
		return nil, refuse("quota usage is negative for resource(s): %s", joined(bad))
	}
	grown := usage
	if w.Old != nil {
		grown = more(usage, m.Usage(w.Kind, w.Old))
	}
	out := slices.Clone(quotas)
	for _, i := range apply {
		cost := usage
		if w.Old != nil {
			counted, err := inScope(scopesOf(quotas[i]), w.Old)
			if err != nil {
				return nil, err
			}
			if counted {
				cost = grown
			}
		}
		q, err := charge(quotas[i], cost, w.Sub == "status")
		if err != nil {
			return nil, err
		}
		out[i] = q
	}
	return out, nil
}

// applies reports whether the quota counts the object; it is refused if it
// does not say what the quota needs to know, or if nobody has counted yet.
func (m Meter) applies(q *corev1.ResourceQuota, w *Write) (bool, error) {
	names := m.tracked(w.Kind, q.Status.Hard)
	in, err := inScope(scopesOf(q), w.Object)
	if err != nil || !in || len(names) == 0 {
		return false, err
	}
	if pod, ok := w.Object.(*corev1.Pod); ok {
		if missing := unsaid(names, pod); missing != "" {
			return false, refuse("failed quota: %s: must specify %s", q.Name, missing)
		}
	}
	for _, name := range names {
		if _, known := q.Status.Used[name]; !known {
			return false, refuse("status unknown for quota: %s, resources: %s", q.Name, joined(names))
		}
	}
	return true, nil
}

// charge adds the cost to a copy. What has happened already (a status) may
// exceed the quota.
func charge(q *corev1.ResourceQuota, cost corev1.ResourceList, happened bool) (*corev1.ResourceQuota, error) {
	cost = only(cost, q.Status.Hard)
	for name, c := range cost {
		if c.IsZero() {
			delete(cost, name)
		}
	}
	if len(cost) == 0 {
		return q, nil
	}
	used := corev1.ResourceList{}
	add(used, q.Status.Used)
	add(used, cost)
	var exceeded []corev1.ResourceName
	for name := range cost {
		now := used[name]
		if now.Cmp(q.Status.Hard[name]) > 0 {
			exceeded = append(exceeded, name)
		}
	}
	if len(exceeded) > 0 && !happened {
		return nil, refuse("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
			amounts(cost, exceeded), amounts(q.Status.Used, exceeded), amounts(q.Status.Hard, exceeded))
	}
	q = q.DeepCopy()
	q.Status.Used = used
	return q, nil
}

func negative(list corev1.ResourceList) []corev1.ResourceName {
	var out []corev1.ResourceName
	for name, q := range list {
		if q.Sign() < 0 {
			out = append(out, name)
		}
	}
	return out
}

// Limits reports whether something that objects of k use is among the limits.
func (m Meter) Limits(hard corev1.ResourceList, k *kinds.Kind) bool {
	for name := range hard {
		if m.Tracks(k, name) {
			return true
		}
	}
	return false
}

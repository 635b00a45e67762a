// Package quota measures what the objects of a namespace use, for those who
// charge a write (admission) and those who count again (the resource quota
// controller). It is pure.
package quota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// Around is what the usage of an object may depend on besides itself.
type Around interface {
	DeviceClasses() []*resourcev1.DeviceClass
	// Pod is nil if it is absent.
	Pod(namespace, name string) *corev1.Pod
	// ClaimsOf are the claims that a pod controls.
	ClaimsOf(namespace string, pod types.UID) []*resourcev1.ResourceClaim
}

// Meter measures as of a moment: a pod that should be gone by now costs
// nothing.
type Meter struct {
	Around Around
	Now    time.Time
}

// Counted kinds are those of which a namespace may have so many only. Events
// never have been.
func Counted(k *kinds.Kind) bool {
	return k.Namespaced && (k.Stored() || k.StoredAs != nil) && k.Resource != "events"
}

// countName is the name under which the objects of a kind are counted.
func countName(k *kinds.Kind) corev1.ResourceName {
	return corev1.ResourceName("count/" + k.String())
}

// aliases are the older names of some counts.
func alias(k *kinds.Kind) corev1.ResourceName {
	switch k {
	case kinds.ConfigMap:
		return corev1.ResourceConfigMaps
	case kinds.ResourceQuota:
		return corev1.ResourceQuotas
	case kinds.ReplicationController:
		return corev1.ResourceReplicationControllers
	case kinds.Secret:
		return corev1.ResourceSecrets
	}
	return ""
}

// Tracks reports whether objects of k may use some of the resource.
func (m Meter) Tracks(k *kinds.Kind, name corev1.ResourceName) bool {
	if name == countName(k) {
		return true
	}
	switch k {
	case kinds.Pod:
		return podResource(name)
	case kinds.Service:
		return name == corev1.ResourceServices || name == corev1.ResourceServicesNodePorts || name == corev1.ResourceServicesLoadBalancers
	case kinds.PersistentVolumeClaim:
		return volumeResource(name)
	case kinds.ResourceClaim:
		return m.deviceResource(name)
	}
	return name == alias(k) && name != ""
}

// tracked are the resources of a list that objects of k may use, sorted.
func (m Meter) tracked(k *kinds.Kind, list corev1.ResourceList) []corev1.ResourceName {
	var out []corev1.ResourceName
	for name := range list {
		if m.Tracks(k, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Usage is what one object costs; nothing else has an influence on quotas.
func (m Meter) Usage(k *kinds.Kind, obj kinds.Object) corev1.ResourceList {
	switch o := obj.(type) {
	case *corev1.Pod:
		return m.pod(o)
	case *corev1.Service:
		return service(o)
	case *corev1.PersistentVolumeClaim:
		return volumeClaim(o)
	case *resourcev1.ResourceClaim:
		return m.deviceClaim(o)
	}
	out := corev1.ResourceList{countName(k): count(1)}
	if a := alias(k); a != "" {
		out[a] = count(1)
	}
	return out
}

func count(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

// Same reports whether two lists say the same amounts.
func Same(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		if other, ok := b[name]; !ok || q.Cmp(other) != 0 {
			return false
		}
	}
	return true
}

// add adds b to a, in place.
func add(a, b corev1.ResourceList) {
	for name, q := range b {
		if have, ok := a[name]; ok {
			have = have.DeepCopy()
			have.Add(q)
			a[name] = have
		} else {
			a[name] = q.DeepCopy()
		}
	}
}

// more is what a costs beyond b: nothing that is not more.
func more(a, b corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range a {
		q = q.DeepCopy()
		if was, ok := b[name]; ok {
			q.Sub(was)
		}
		if q.Sign() > 0 {
			out[name] = q
		}
	}
	return out
}

// only are the entries of a that keep has too.
func only(a, keep corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range a {
		if _, ok := keep[name]; ok {
			out[name] = q.DeepCopy()
		}
	}
	return out
}

func joined(names []corev1.ResourceName) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// amounts says the named amounts of a list.
func amounts(list corev1.ResourceList, names []corev1.ResourceName) string {
	var out []string
	for _, n := range names {
		if q, ok := list[n]; ok {
			out = append(out, string(n)+"="+q.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

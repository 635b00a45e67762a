package quota

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// In looks around in a snapshot. It has to hold pods, classes and claims of
// devices, with view.Owned.
type In struct{ *view.Snapshot }

// DeviceClasses implements Around.
func (s In) DeviceClasses() []*resourcev1.DeviceClass {
	return slices.Collect(view.List[*resourcev1.DeviceClass](s.Snapshot, kinds.DeviceClass, ""))
}

// Pod implements Around.
func (s In) Pod(namespace, name string) *corev1.Pod {
	return view.Get[*corev1.Pod](s.Snapshot, kinds.Pod, namespace, name)
}

// ClaimsOf implements Around.
func (s In) ClaimsOf(namespace string, pod types.UID) []*resourcev1.ResourceClaim {
	var out []*resourcev1.ResourceClaim
	for c := range view.ByOf[*resourcev1.ResourceClaim](s.Snapshot, view.Owned, kinds.ResourceClaim, string(pod)) {
		if c.Namespace == namespace {
			out = append(out, c)
		}
	}
	return out
}

package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var (
	deploymentScale = scale(func(d *appsv1.Deployment) *scaled {
		return &scaled{&d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector}
	})
	replicaSetScale = scale(func(rs *appsv1.ReplicaSet) *scaled {
		return &scaled{&rs.Spec.Replicas, rs.Status.Replicas, rs.Spec.Selector}
	})
	statefulSetScale = scale(func(sts *appsv1.StatefulSet) *scaled {
		return &scaled{&sts.Spec.Replicas, sts.Status.Replicas, sts.Spec.Selector}
	})
	controllerScale = scale(func(rc *corev1.ReplicationController) *scaled {
		return &scaled{&rc.Spec.Replicas, rc.Status.Replicas, &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}}
	})
)

// scaled are the parts of a kind that a Scale shows.
type scaled struct {
	spec     **int32
	status   int32
	selector *metav1.LabelSelector
}

func scale[T Object](of func(T) *scaled) *Scale {
	return &Scale{
		Spec: func(o Object) int32 {
			if n := *of(o.(T)).spec; n != nil {
				return *n
			}
			return 0
		},
		Status: func(o Object) int32 { return of(o.(T)).status },
		Selector: func(o Object) string {
			s, err := metav1.LabelSelectorAsSelector(of(o.(T)).selector)
			if err != nil { // validation does not let such a selector in
				return labels.Nothing().String()
			}
			return s.String()
		},
		Set: func(o Object, n int32) { *of(o.(T)).spec = &n },
	}
}

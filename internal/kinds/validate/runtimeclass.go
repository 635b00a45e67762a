package validate

import (
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// RuntimeClass judges a new runtime class.
func RuntimeClass(rc *nodev1.RuntimeClass) field.ErrorList {
	e := meta(&rc.ObjectMeta, false, subdomain)
	e.runtimeClass(rc)
	return e.list
}

// RuntimeClassUpdate judges a changed one; how its pods are run stays.
func RuntimeClassUpdate(rc, old *nodev1.RuntimeClass) field.ErrorList {
	e := metaUpdate(&rc.ObjectMeta, &old.ObjectMeta)
	e.runtimeClass(rc)
	e.immutable(field.NewPath("handler"), rc.Handler, old.Handler)
	return e.list
}

func (e *errors) runtimeClass(rc *nodev1.RuntimeClass) {
	e.name(field.NewPath("handler"), rc.Handler, label)
	if o := rc.Overhead; o != nil {
		s := &podScope{errors: e}
		s.containerResources(field.NewPath("overhead"), &corev1.ResourceRequirements{Limits: o.PodFixed})
	}
	s := rc.Scheduling
	if s == nil {
		return
	}
	p := field.NewPath("scheduling")
	e.labels(p.Child("nodeSelector"), s.NodeSelector)
	e.tolerations(p.Child("tolerations"), s.Tolerations)
	seen := map[corev1.Toleration]bool{}
	for i, t := range s.Tolerations {
		unique(e, seen, p.Child("tolerations").Index(i), corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}, t)
	}
}

package defaults

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// or fills a field that is zero.
func or[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// set fills a pointer that is nil.
func set[T any](p **T, value T) {
	if *p == nil {
		v := value // so that nothing is allocated where the field is there
		*p = &v
	}
}

// fill adds what list lacks.
func fill(list, from corev1.ResourceList) {
	for name, q := range from {
		if _, ok := list[name]; !ok {
			list[name] = q.DeepCopy()
		}
	}
}

// resourceList rounds up to thousandths: nothing finer is accounted for.
func resourceList(lists ...corev1.ResourceList) {
	for _, list := range lists {
		for name, q := range list {
			if !q.RoundUp(resource.Milli) {
				list[name] = q
			}
		}
	}
}

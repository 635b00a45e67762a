package validate

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds/defaults"
)

// change is one mutation of a good object and the errors it must cause, each
// as "path Type" or "path Type: part of the detail".
type change[T any] struct {
	name string
	do   func(T)
	want []string
}

var short = map[field.ErrorType]string{
	field.ErrorTypeRequired: "Required", field.ErrorTypeInvalid: "Invalid", field.ErrorTypeNotSupported: "NotSupported",
	field.ErrorTypeForbidden: "Forbidden", field.ErrorTypeDuplicate: "Duplicate", field.ErrorTypeTooLong: "TooLong",
	field.ErrorTypeTooMany: "TooMany", field.ErrorTypeNotFound: "NotFound", field.ErrorTypeTypeInvalid: "TypeInvalid",
	field.ErrorTypeInternal: "Internal",
}

func compare(t *testing.T, errs field.ErrorList, want []string) {
	t.Helper()
	left := slices.Clone(want)
	for _, e := range errs {
		i := slices.IndexFunc(left, func(w string) bool {
			head, detail, _ := strings.Cut(w, ": ")
			return head == e.Field+" "+short[e.Type] && strings.Contains(e.Detail, detail)
		})
		if i < 0 {
			t.Errorf("unexpected: %s %s: %s", e.Field, short[e.Type], e.Detail)
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, w := range left {
		t.Errorf("missing: %s", w)
	}
}

// creates runs changes of a good object through a rule for new objects.
func creates[T any](t *testing.T, good func() T, fill func(T), rule func(T) field.ErrorList, changes []change[T]) {
	t.Helper()
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			o := good()
			fill(o)
			if c.do != nil {
				c.do(o)
			}
			compare(t, rule(o), c.want)
		})
	}
}

// updates runs changes of a good object through a rule for changed objects.
func updates[T any](t *testing.T, good func() T, fill func(T), rule func(o, old T) field.ErrorList, changes []change[T]) {
	t.Helper()
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			o, old := good(), good()
			fill(o)
			fill(old)
			if c.do != nil {
				c.do(o)
			}
			compare(t, rule(o, old), c.want)
		})
	}
}

func nothing[T any](T) {}

func ptr[T any](v T) *T { return &v }

func named(name, namespace string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: namespace, ResourceVersion: "1", UID: "u"}
}

func goodSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "registry.example/web:1"}}}
}

func goodPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: named("p", "default"), Spec: goodSpec()}
}

func goodTemplate() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: goodSpec()}
}

func goodSelector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
}

func quantities(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func first(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }

var fillPod = defaults.Pod

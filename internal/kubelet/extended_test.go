package kubelet

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

// What others have given the node stays; what is the kubelet's own to say is
// not taken from them.
func TestWithExtended(t *testing.T) {
	own := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
	from := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9"), "hugepages-2Mi": resource.MustParse("4Mi"),
		"example.com/room": resource.MustParse("5"), "kubernetes.io/x": resource.MustParse("1")}
	want := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), "example.com/room": resource.MustParse("5")}
	if got := withExtended(own, from); !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

package hollow

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A hollow node has every driver, but a pod has only claims that are its own.
func TestDevices(t *testing.T) {
	name := "gpu"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "u"}, Spec: corev1.PodSpec{ResourceClaims: []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: &name}}}}
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
	d := devices{func(context.Context, string, string) (*resourcev1.ResourceClaim, error) { return claim, nil }}
	if err := d.Prepare(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "is not allowed to use ResourceClaim gpu") {
		t.Errorf("not reserved: %v", err)
	}
	claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "u"}}
	if err := d.Prepare(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "not allocated") {
		t.Errorf("not allocated: %v", err)
	}
	claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Driver: "any.example"}}}}
	if err := d.Prepare(t.Context(), pod); err != nil {
		t.Error(err)
	}
}

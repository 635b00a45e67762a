package endpointslice

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestCVE2021_25737: a pod's status may say anything; what would lead into a
// node itself is in no slice.
func TestCVE2021_25737(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1"} {
		res := Plan(Observed{Service: service(), Pods: []*corev1.Pod{pod("a", ip), pod("b", "10.244.0.7")}, Suffix: suffixes()})
		for _, s := range apply(nil, res.Actions) {
			for _, e := range s.Endpoints {
				if e.Addresses[0] == ip {
					t.Errorf("%s is an endpoint", ip)
				}
			}
		}
		if len(res.Actions) == 0 {
			t.Error("no slice at all")
		}
	}
}

package kubelet

import "testing"

func TestWithoutCDI(t *testing.T) {
	for of, want := range map[[2]string]bool{
		{"containerd", "1.6.20~ds1"}: true, {"containerd", "v1.6.0"}: true, {"containerd", "1.7.0"}: false, {"containerd", "v2.4.2"}: false,
		{"containerd", "unknown"}: false, {"cri-o", "1.6.0"}: false, {"paper", "1"}: false,
	} {
		if got := withoutCDI(of[0], of[1]); got != want {
			t.Errorf("%s: %t", of, got)
		}
	}
}

package validate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/knarr/internal/kinds/defaults"
)

// TestCVE2021_25737: nobody makes a service lead to the node that proxies it, or
// to what only that reaches.
func TestCVE2021_25737(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "127.1.2.3", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1"} {
		e := &corev1.Endpoints{ObjectMeta: named("e", "default"), Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: ip}}, Ports: []corev1.EndpointPort{{Port: 80}}}}}
		defaults.Endpoints(e)
		if len(Endpoints(e)) == 0 {
			t.Errorf("endpoints at %s", ip)
		}
		s := &discoveryv1.EndpointSlice{ObjectMeta: named("s", "default"), AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}}}}
		if len(ip) > 15 || ip[0] == ':' || ip[0] == 'f' {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		if len(EndpointSlice(s)) == 0 {
			t.Errorf("a slice with %s", ip)
		}
	}
}

// TestCVE2023_2431: an empty profile would mean none.
func TestCVE2023_2431(t *testing.T) {
	empty, good := "", "profiles/a.json"
	for _, place := range []func(*corev1.Pod, *corev1.SeccompProfile){
		func(p *corev1.Pod, s *corev1.SeccompProfile) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: s}
		},
		func(p *corev1.Pod, s *corev1.SeccompProfile) {
			first(p).SecurityContext = &corev1.SecurityContext{SeccompProfile: s}
		},
	} {
		for name, tc := range map[string]struct {
			path *string
			bad  bool
		}{"none": {nil, true}, "empty": {&empty, true}, "a path": {&good, false}} {
			p := goodPod()
			fillPod(p)
			place(p, &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: tc.path})
			if errs := Pod(p); (len(errs) > 0) != tc.bad {
				t.Errorf("%s: %v", name, errs)
			}
		}
	}
}

// TestCVE2024_10220, and CVE-2025-1767: a repository's hooks run on the node.
func TestCVE2024_10220(t *testing.T) {
	p := goodPod()
	p.Spec.Volumes = []corev1.Volume{{Name: "g", VolumeSource: corev1.VolumeSource{GitRepo: &corev1.GitRepoVolumeSource{Repository: "r", Directory: "../.git"}}}}
	fillPod(p)
	if errs := Pod(p); len(errs) == 0 {
		t.Error("a gitRepo volume was taken")
	}
}

package warnings

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
)

// DeviceTaintRule keeps pods away, but evicts nobody yet.
func DeviceTaintRule(r, _ *resourcev1.DeviceTaintRule) []string {
	var l list
	if r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
		l.addf("spec.taint.effect: this version of knarr does not evict pods because of tainted devices yet; no other pods get them")
	}
	return l
}

// ResourceSlice comes from a driver.
func ResourceSlice(s, _ *resourcev1.ResourceSlice) []string {
	var l list
	if d := s.Spec.Driver; d != strings.ToLower(d) {
		l.addf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)
	}
	return l
}

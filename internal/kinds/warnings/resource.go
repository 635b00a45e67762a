package warnings

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
)

// DeviceClass does not stand for an extended resource yet.
func DeviceClass(c, _ *resourcev1.DeviceClass) []string {
	var l list
	if c.Spec.ExtendedResourceName != nil {
		l.addf("spec.extendedResourceName: this version of knarr does not meet requests for extended resources with devices yet; pods have to claim them in spec.resourceClaims")
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

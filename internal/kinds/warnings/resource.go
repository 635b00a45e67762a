package warnings

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
)

// ResourceSlice comes from a driver.
func ResourceSlice(s, _ *resourcev1.ResourceSlice) []string {
	var l list
	if d := s.Spec.Driver; d != strings.ToLower(d) {
		l.addf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)
	}
	return l
}

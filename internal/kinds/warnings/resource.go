package warnings

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
)

// DeviceClass is not allocated from yet.
func DeviceClass(_, old *resourcev1.DeviceClass) []string { return inert("DeviceClass", old == nil) }

// ResourceClaim is not allocated yet.
func ResourceClaim(_, old *resourcev1.ResourceClaim) []string {
	return inert("ResourceClaim", old == nil)
}

// ResourceClaimTemplate is not read yet.
func ResourceClaimTemplate(_, old *resourcev1.ResourceClaimTemplate) []string {
	return inert("ResourceClaimTemplate", old == nil)
}

// DeviceTaintRule evicts nobody yet.
func DeviceTaintRule(_, old *resourcev1.DeviceTaintRule) []string {
	return inert("DeviceTaintRule", old == nil)
}

// ResourceSlice is not allocated from yet.
func ResourceSlice(s, old *resourcev1.ResourceSlice) []string {
	l := list(inert("ResourceSlice", old == nil))
	if d := s.Spec.Driver; d != strings.ToLower(d) {
		l.addf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)
	}
	return l
}

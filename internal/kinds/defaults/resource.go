package defaults

import resourcev1 "k8s.io/api/resource/v1"

// ResourceClaim asks for one device of each kind.
func ResourceClaim(c *resourcev1.ResourceClaim) {
	deviceClaim(&c.Spec.Devices)
	if a := c.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			deviceTolerations(a.Devices.Results[i].Tolerations)
		}
	}
}

// ResourceClaimTemplate likewise.
func ResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) { deviceClaim(&t.Spec.Spec.Devices) }

func deviceClaim(c *resourcev1.DeviceClaim) {
	for i := range c.Requests {
		if x := c.Requests[i].Exactly; x != nil {
			deviceCount(&x.AllocationMode, &x.Count)
			deviceTolerations(x.Tolerations)
		}
		for j := range c.Requests[i].FirstAvailable {
			s := &c.Requests[i].FirstAvailable[j]
			deviceCount(&s.AllocationMode, &s.Count)
			deviceTolerations(s.Tolerations)
		}
	}
}

func deviceCount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	or(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		or(count, 1)
	}
}

func deviceTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		or(&list[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

package prepare

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// The fields that are cleared here are behind gates that upstream has closed
// by default.

// ResourceClaimCreate clears the status.
func ResourceClaimCreate(c *resourcev1.ResourceClaim) {
	fresh(c, false)
	c.Status = resourcev1.ResourceClaimStatus{}
	closedRequests(&c.Spec)
}

// ResourceClaimUpdate keeps the status.
func ResourceClaimUpdate(c, old *resourcev1.ResourceClaim) {
	Keep(c, old)
	c.Status = old.Status
	closedRequests(&c.Spec)
}

// ResourceClaimStatusUpdate keeps everything else, and clears what drivers said
// of devices that are given back.
func ResourceClaimStatusUpdate(c, old *resourcev1.ResourceClaim) {
	statusOnly(c, old)
	c.Spec = old.Spec
	if a := c.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			a.Devices.Results[i].SkipNodeOperations = nil
		}
	}
	has := allocated(c)
	gone := allocated(old).Difference(has)
	if gone.Len() > 0 {
		c.Status.Devices = slices.DeleteFunc(slices.Clone(c.Status.Devices), func(d resourcev1.AllocatedDeviceStatus) bool {
			return gone.Has(share{d.Driver, d.Pool, d.Device, shareOf((*types.UID)(d.ShareID))})
		})
	}
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

// share is a device, or a part of it that is given to one claim.
type share struct{ driver, pool, device, id string }

func shareOf(id *types.UID) string {
	if id == nil {
		return ""
	}
	return string(*id)
}

func allocated(c *resourcev1.ResourceClaim) sets.Set[share] {
	all := sets.New[share]()
	if a := c.Status.Allocation; a != nil {
		for _, r := range a.Devices.Results {
			all.Insert(share{r.Driver, r.Pool, r.Device, shareOf(r.ShareID)})
		}
	}
	return all
}

// ResourceClaimTemplateCreate prepares a new template.
func ResourceClaimTemplateCreate(t *resourcev1.ResourceClaimTemplate) {
	fresh(t, false)
	closedRequests(&t.Spec.Spec)
}

// ResourceClaimTemplateUpdate changes nothing that may change.
func ResourceClaimTemplateUpdate(t, old *resourcev1.ResourceClaimTemplate) {
	Keep(t, old)
	closedRequests(&t.Spec.Spec)
}

func closedRequests(spec *resourcev1.ResourceClaimSpec) {
	for i := range spec.Devices.Requests {
		r := &spec.Devices.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for j := range r.FirstAvailable {
			r.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

// DeviceClassUpdate counts changes.
func DeviceClassUpdate(c, old *resourcev1.DeviceClass) {
	Keep(c, old)
	bump(c, old, differ(c.Spec, old.Spec))
}

// ResourceSliceCreate dates the taints of new devices.
func ResourceSliceCreate(s *resourcev1.ResourceSlice) {
	fresh(s, true)
	closedDevices(&s.Spec)
	dateTaints(&s.Spec, s.CreationTimestamp)
}

// ResourceSliceUpdate keeps what is not the client's.
func ResourceSliceUpdate(s, old *resourcev1.ResourceSlice) {
	Keep(s, old)
	closedDevices(&s.Spec)
}

// ResourceSliceStamp dates taints that have no time yet, and counts changes.
func ResourceSliceStamp(s, old *resourcev1.ResourceSlice, now metav1.Time) {
	dateTaints(&s.Spec, now)
	bump(s, old, differ(s.Spec, old.Spec))
}

func dateTaints(spec *resourcev1.ResourceSliceSpec, at metav1.Time) {
	for i := range spec.Devices {
		for j := range spec.Devices[i].Taints {
			if t := &spec.Devices[i].Taints[j]; t.TimeAdded == nil {
				t.TimeAdded = &at
			}
		}
	}
}

func closedDevices(spec *resourcev1.ResourceSliceSpec) {
	spec.PartitionTypeAttribute, spec.SkipNodeOperations = nil, nil
	for i := range spec.Devices {
		d := &spec.Devices[i]
		d.NodeAllocatableResources = nil
		for name, a := range d.Attributes {
			a.IntValues, a.BoolValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
		for j := range d.ConsumesCounters {
			d.ConsumesCounters[j].CompatibilityGroups = nil
		}
	}
}

// DeviceTaintRuleCreate clears the status and dates the taint.
func DeviceTaintRuleCreate(r *resourcev1.DeviceTaintRule) {
	fresh(r, true)
	r.Status = resourcev1.DeviceTaintRuleStatus{}
	if t := &r.Spec.Taint; t.TimeAdded == nil {
		made := r.CreationTimestamp
		t.TimeAdded = &made
	}
}

// DeviceTaintRuleUpdate keeps the status.
func DeviceTaintRuleUpdate(r, old *resourcev1.DeviceTaintRule) {
	Keep(r, old)
	r.Status = old.Status
}

// DeviceTaintRuleStamp dates a taint that has no time, and one that begins to
// do something else. It counts changes.
func DeviceTaintRuleStamp(r, old *resourcev1.DeviceTaintRule, now metav1.Time) {
	t, was := &r.Spec.Taint, &old.Spec.Taint
	if t.TimeAdded == nil || t.Effect != was.Effect && t.TimeAdded.Equal(was.TimeAdded) {
		t.TimeAdded = &now
	}
	bump(r, old, differ(r.Spec, old.Spec))
}

// DeviceTaintRuleStatusUpdate keeps everything else.
func DeviceTaintRuleStatusUpdate(r, old *resourcev1.DeviceTaintRule) {
	statusOnly(r, old)
	r.Spec = old.Spec
}

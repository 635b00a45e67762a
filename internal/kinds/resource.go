package kinds

import (
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/kinds/warnings"
)

// The kinds of resource.k8s.io: devices, and claims to them.
var (
	DeviceClass = &Kind{
		GVK: resourcev1.SchemeGroupVersion.WithKind("DeviceClass"), Resource: "deviceclasses", Singular: "deviceclass",
		Prefix: "deviceclasses",
		New:    func() Object { return &resourcev1.DeviceClass{} }, NewList: func() runtime.Object { return &resourcev1.DeviceClassList{} },
		PrepareCreate: do(prepare.CreateManaged[*resourcev1.DeviceClass]), PrepareUpdate: doBoth(prepare.DeviceClassUpdate),
		Validate: check(validate.DeviceClass), ValidateUpdate: checkBoth(validate.DeviceClassUpdate),
		Columns: []Column{nameColumn, ageColumn},
	}
	ResourceClaim = &Kind{
		GVK: resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"), Resource: "resourceclaims", Singular: "resourceclaim",
		Namespaced: true, Prefix: "resourceclaims",
		New: func() Object { return &resourcev1.ResourceClaim{} }, NewList: func() runtime.Object { return &resourcev1.ResourceClaimList{} },
		Default:       do(defaults.ResourceClaim),
		PrepareCreate: do(prepare.ResourceClaimCreate), PrepareUpdate: doBoth(prepare.ResourceClaimUpdate),
		Validate: check(validate.ResourceClaim), ValidateUpdate: checkBoth(validate.ResourceClaimUpdate),
		Subresources: map[string]Subresource{"status": status(prepare.ResourceClaimStatusUpdate, validate.ResourceClaimStatusUpdate)},
		Columns: []Column{
			nameColumn,
			cell("State", "string", "Whether it has its devices, and for whom.", func(c *resourcev1.ResourceClaim) any { return claimState(c) }),
			ageColumn,
		},
	}
	ResourceClaimTemplate = &Kind{
		GVK: resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"), Resource: "resourceclaimtemplates", Singular: "resourceclaimtemplate",
		Namespaced: true, Prefix: "resourceclaimtemplates",
		New: func() Object { return &resourcev1.ResourceClaimTemplate{} }, NewList: func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
		Default:       do(defaults.ResourceClaimTemplate),
		PrepareCreate: do(prepare.ResourceClaimTemplateCreate), PrepareUpdate: doBoth(prepare.ResourceClaimTemplateUpdate),
		Validate: check(validate.ResourceClaimTemplate), ValidateUpdate: checkBoth(validate.ResourceClaimTemplateUpdate),
		Columns: []Column{nameColumn, ageColumn},
	}
	ResourceSlice = &Kind{
		GVK: resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"), Resource: "resourceslices", Singular: "resourceslice",
		Prefix: "resourceslices",
		New:    func() Object { return &resourcev1.ResourceSlice{} }, NewList: func() runtime.Object { return &resourcev1.ResourceSliceList{} },
		PrepareCreate: do(prepare.ResourceSliceCreate), PrepareUpdate: doBoth(prepare.ResourceSliceUpdate),
		Stamp:    stamp(prepare.ResourceSliceStamp),
		Validate: check(validate.ResourceSlice), ValidateUpdate: checkBoth(validate.ResourceSliceUpdate),
		Warnings: warn(warnings.ResourceSlice),
		Columns: []Column{
			nameColumn,
			cell("Node", "string", "Node of the devices.", func(s *resourcev1.ResourceSlice) any { return valueOr(s.Spec.NodeName, "") }),
			cell("Driver", "string", "Driver of the devices.", func(s *resourcev1.ResourceSlice) any { return s.Spec.Driver }),
			cell("Pool", "string", "Pool that they are part of.", func(s *resourcev1.ResourceSlice) any { return s.Spec.Pool.Name }),
			ageColumn,
		},
		Fields: selectable{
			resourcev1.ResourceSliceSelectorNodeName: text(func(s *resourcev1.ResourceSlice) string { return valueOr(s.Spec.NodeName, "") }),
			resourcev1.ResourceSliceSelectorDriver:   text(func(s *resourcev1.ResourceSlice) string { return s.Spec.Driver }),
			resourcev1.ResourceSliceSelectorPoolName: text(func(s *resourcev1.ResourceSlice) string { return s.Spec.Pool.Name }),
		},
	}
	DeviceTaintRule = &Kind{
		GVK: resourcev1.SchemeGroupVersion.WithKind("DeviceTaintRule"), Resource: "devicetaintrules", Singular: "devicetaintrule",
		Prefix: "devicetaintrules",
		New:    func() Object { return &resourcev1.DeviceTaintRule{} }, NewList: func() runtime.Object { return &resourcev1.DeviceTaintRuleList{} },
		PrepareCreate: do(prepare.DeviceTaintRuleCreate), PrepareUpdate: doBoth(prepare.DeviceTaintRuleUpdate),
		Stamp:    stamp(prepare.DeviceTaintRuleStamp),
		Validate: check(validate.DeviceTaintRule), ValidateUpdate: checkBoth(validate.DeviceTaintRuleUpdate),
		Subresources: map[string]Subresource{"status": status(prepare.DeviceTaintRuleStatusUpdate, validate.DeviceTaintRuleStatusUpdate)},
		Columns: []Column{
			nameColumn,
			cell("Key", "string", "Key of the taint.", func(r *resourcev1.DeviceTaintRule) any { return r.Spec.Taint.Key }),
			cell("Value", "string", "Value of the taint.", func(r *resourcev1.DeviceTaintRule) any { return r.Spec.Taint.Value }),
			cell("Effect", "string", "What it does to claims that do not tolerate it.", func(r *resourcev1.DeviceTaintRule) any { return string(r.Spec.Taint.Effect) }),
			timed("TimeAdded", "string", "Since when.", func(r *resourcev1.DeviceTaintRule, now time.Time) any {
				if r.Spec.Taint.TimeAdded == nil {
					return ""
				}
				return since(r.Spec.Taint.TimeAdded.Time, now)
			}),
			ageColumn,
		},
		RequireVersion: true,
	}
)

var resourceKinds = []*Kind{
	DeviceClass,
	ResourceClaim,
	ResourceClaimTemplate,
	ResourceSlice,
	DeviceTaintRule,
}

// SelectsDevice reports whether a rule is about a device. What its selector does
// not name is any; without a selector it is about none.
func SelectsDevice(r *resourcev1.DeviceTaintRule, driver, pool, device string) bool {
	s := r.Spec.DeviceSelector
	return s != nil && valueOr(s.Driver, driver) == driver && valueOr(s.Pool, pool) == pool && valueOr(s.Device, device) == device
}

func claimState(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return strings.Join(states, ",")
}

package validate

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds/defaults"
)

func expressions(list ...string) []resourcev1.DeviceSelector {
	var out []resourcev1.DeviceSelector
	for _, x := range list {
		out = append(out, resourcev1.DeviceSelector{CEL: &resourcev1.CELDeviceSelector{Expression: x}})
	}
	return out
}

func opaque(parameters string) resourcev1.DeviceConfiguration {
	return resourcev1.DeviceConfiguration{Opaque: &resourcev1.OpaqueDeviceConfiguration{Driver: "gpu.example", Parameters: runtime.RawExtension{Raw: []byte(parameters)}}}
}

func goodClaim() *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: named("c", "default"), Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
		Requests: []resourcev1.DeviceRequest{
			{Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", Selectors: expressions(`device.driver == "gpu.example" && device.capacity["gpu.example"].memory.isGreaterThan(quantity("1Gi"))`)}},
			{Name: "some", FirstAvailable: []resourcev1.DeviceSubRequest{{Name: "big", DeviceClassName: "gpu"}, {Name: "small", DeviceClassName: "gpu"}}},
		},
		Constraints: []resourcev1.DeviceConstraint{{Requests: []string{"one", "some/big"}, MatchAttribute: ptr(resourcev1.FullyQualifiedName("gpu.example/model"))}},
		Config:      []resourcev1.DeviceClaimConfiguration{{Requests: []string{"some"}, DeviceConfiguration: opaque(`{"a": 1}`)}},
	}}}
}

func TestResourceClaim(t *testing.T) {
	type claim = resourcev1.ResourceClaim
	exactly := func(c *claim) *resourcev1.ExactDeviceRequest { return c.Spec.Devices.Requests[0].Exactly }
	const at = "spec.devices."
	const unknown = " Invalid: must be the name of a request in the claim"
	creates(t, goodClaim, defaults.ResourceClaim, ResourceClaim, []change[*claim]{
		{"good", nil, nil},
		{"nothing", func(c *claim) { c.Spec = resourcev1.ResourceClaimSpec{} }, nil},
		{"no class", func(c *claim) { exactly(c).DeviceClassName = "" }, []string{at + "requests[0].exactly.deviceClassName Required"}},
		{"no class of one of several", func(c *claim) { c.Spec.Devices.Requests[1].FirstAvailable[1].DeviceClassName = "" }, []string{at + "requests[1].firstAvailable[1].deviceClassName Required"}},
		{"neither", func(c *claim) { c.Spec.Devices.Requests[0].Exactly = nil }, []string{at + "requests[0] Required: exactly one of `exactly` or `firstAvailable` is required"}},
		{"both", func(c *claim) { c.Spec.Devices.Requests[1].Exactly = exactly(c) }, []string{at + "requests[1] Invalid: but multiple fields are set"}},
		{"names", func(c *claim) {
			c.Spec.Devices.Requests[0].Name = "A"
			c.Spec.Devices.Requests[1].FirstAvailable[1].Name = "big"
		}, []string{at + "requests[0].name Invalid", at + "requests[1].firstAvailable[1] Duplicate", at + "constraints[0].requests[0]" + unknown}},
		{"same name", func(c *claim) {
			c.Spec.Devices.Requests = append(c.Spec.Devices.Requests, *c.Spec.Devices.Requests[0].DeepCopy())
		}, []string{at + "requests[2] Duplicate"}},
		{"too many", func(c *claim) {
			for i := range 40 {
				c.Spec.Devices.Requests = append(c.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: fmt.Sprint("r", i)})
			}
		}, []string{at + "requests TooMany"}},
		{"counts", func(c *claim) { exactly(c).Count, exactly(c).AllocationMode = 2, resourcev1.DeviceAllocationModeAll },
			[]string{at + "requests[0].exactly.count Invalid: must not be specified when allocationMode is 'All'"}},
		{"negative", func(c *claim) { exactly(c).Count = -1 }, []string{at + "requests[0].exactly.count Invalid: must be greater than zero"}},
		{"mode", func(c *claim) { exactly(c).AllocationMode = "Odd" }, []string{at + "requests[0].exactly.allocationMode NotSupported"}},
		{"tolerations", func(c *claim) {
			exactly(c).Tolerations = []resourcev1.DeviceToleration{{Operator: "Exists", Value: "v"}, {Operator: "Equal", Key: "a b", Value: "_"}, {Operator: "Odd", Effect: "Odd"}}
		}, []string{at + "requests[0].exactly.tolerations[0].value Invalid: must be empty for operator `Exists`", at + "requests[0].exactly.tolerations[1].key Invalid",
			at + "requests[0].exactly.tolerations[1].value Invalid", at + "requests[0].exactly.tolerations[2].operator NotSupported", at + "requests[0].exactly.tolerations[2].effect NotSupported"}},
		{"references", func(c *claim) {
			c.Spec.Devices.Constraints[0].Requests = []string{"some/none", "other", "a/b/c", "one/big"}
		},
			[]string{at + "constraints[0].requests[0]" + unknown, at + "constraints[0].requests[1]" + unknown, at + "constraints[0].requests[2]" + unknown, at + "constraints[0].requests[3]" + unknown}},
		{"constraint", func(c *claim) { c.Spec.Devices.Constraints[0].MatchAttribute = nil }, []string{at + "constraints[0] Required"}},
		{"attribute", func(c *claim) {
			c.Spec.Devices.Constraints[0].MatchAttribute = ptr(resourcev1.FullyQualifiedName("model"))
		}, []string{at + "constraints[0].matchAttribute Invalid: a fully qualified name must be a domain and a name separated by a slash"}},
		{"configuration", func(c *claim) {
			c.Spec.Devices.Config = []resourcev1.DeviceClaimConfiguration{{}, {DeviceConfiguration: opaque("")}, {DeviceConfiguration: opaque("[]")}, {DeviceConfiguration: opaque("{")}, {DeviceConfiguration: opaque("null")},
				{DeviceConfiguration: opaque(`{"a":"` + strings.Repeat("x", 10<<10) + `"}`)}}
			c.Spec.Devices.Config[5].Opaque.Driver = ""
		}, []string{at + "config[0].opaque Required", at + "config[1].opaque.parameters Required", at + "config[2].opaque.parameters Invalid: must be a valid JSON object",
			at + "config[3].opaque.parameters Invalid: error parsing data as JSON", at + "config[4].opaque.parameters Required", at + "config[5].opaque.parameters TooLong", at + "config[5].opaque.driver Required"}},
	})
	updates(t, goodClaim, defaults.ResourceClaim, ResourceClaimUpdate, []change[*claim]{
		{"labels", func(c *claim) { c.Labels = map[string]string{"a": "b"} }, nil},
		{"spec", func(c *claim) { exactly(c).Count = 2 }, []string{"spec Invalid: field is immutable"}},
	})
	template := func() *resourcev1.ResourceClaimTemplate {
		return &resourcev1.ResourceClaimTemplate{ObjectMeta: named("t", "default"), Spec: resourcev1.ResourceClaimTemplateSpec{Spec: goodClaim().Spec}}
	}
	creates(t, template, defaults.ResourceClaimTemplate, ResourceClaimTemplate, []change[*resourcev1.ResourceClaimTemplate]{
		{"good", func(t *resourcev1.ResourceClaimTemplate) { t.Spec.Labels = map[string]string{"a": "b"} }, nil},
		{"odd", func(t *resourcev1.ResourceClaimTemplate) {
			t.Spec.Name, t.Spec.UID = "x", "u"
			t.Spec.Spec.Devices.Requests[0].Exactly.Selectors = expressions("true +")
			t.Spec.Spec.Devices.Config[0].Opaque.Driver = ""
		}, []string{"spec.metadata.name Forbidden: cannot be set", "spec.metadata.uID Forbidden: cannot be set", "spec.spec.devices.requests[0].exactly.selectors[0].cel.expression Invalid: compilation failed", "spec.spec.devices.config[0].opaque.driver Required"}},
	})
	updates(t, template, defaults.ResourceClaimTemplate, ResourceClaimTemplateUpdate, []change[*resourcev1.ResourceClaimTemplate]{
		{"spec", func(t *resourcev1.ResourceClaimTemplate) { t.Spec.Spec.Devices.Requests = nil }, []string{"spec Invalid: field is immutable"}},
	})
}

func TestDeviceExpressions(t *testing.T) {
	class := func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{ObjectMeta: named("gpu", "")} }
	is := func(list ...string) func(*resourcev1.DeviceClass) {
		return func(c *resourcev1.DeviceClass) { c.Spec.Selectors = expressions(list...) }
	}
	const p = "spec.selectors[0].cel.expression "
	creates(t, class, nothing, DeviceClass, []change[*resourcev1.DeviceClass]{
		{"good", is(`device.attributes["a.example"].count > 3`, `device.allowMultipleAllocations == true`), nil},
		{"none", func(c *resourcev1.DeviceClass) { c.Spec.Selectors = make([]resourcev1.DeviceSelector, 1) }, []string{"spec.selectors[0].cel Required"}},
		{"syntax", is("device.driver =="), []string{p + "Invalid: compilation failed"}},
		{"type", is("device.driver"), []string{p + "Invalid: must evaluate to bool"}},
		{"unknown", is("object.spec"), []string{p + "Invalid: undeclared reference"}},
		{"long", is(strings.Repeat("x", 10<<10+1)), []string{p + "TooLong"}},
		{"costly", is(`device.attributes["a"].map(s, device.attributes["b"].map(s, device.attributes["c"].map(s, device.attributes["d"].map(s, device.attributes["e"])))).size() > 0`), []string{p + "Forbidden: too complex, exceeds cost limit"}},
		{"many", is(strings.Fields(strings.Repeat("true"+strings.Repeat("&&true", 1500)+" ", 12))...), []string{"spec.selectors[11].cel.expression Forbidden: all expressions of one object"}},
		{"extended", func(c *resourcev1.DeviceClass) { c.Spec.ExtendedResourceName = ptr("gpu") }, []string{"spec.extendedResourceName Invalid"}},
		{"configuration", func(c *resourcev1.DeviceClass) { c.Spec.Config = make([]resourcev1.DeviceClassConfiguration, 1) }, []string{"spec.config[0].opaque Required"}},
	})
	updates(t, func() *resourcev1.DeviceClass {
		c := class()
		c.Spec.Selectors = expressions("stored before this was wrong")
		return c
	}, nothing, DeviceClassUpdate, []change[*resourcev1.DeviceClass]{
		{"unchanged", func(c *resourcev1.DeviceClass) { c.Spec.ExtendedResourceName = ptr("a.example/gpu") }, nil},
		{"changed", is("wrong now"), []string{p + "Invalid: compilation failed"}},
	})
}

func TestResourceClaimStatus(t *testing.T) {
	type claim = resourcev1.ResourceClaim
	give := func(c *claim) {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "one", Driver: "gpu.example", Pool: "p", Device: "a"}}}}
	}
	consumer := resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "p", UID: "u"}
	const results = "status.allocation.devices.results[0]."
	updates(t, goodClaim, defaults.ResourceClaim, ResourceClaimStatusUpdate, []change[*claim]{
		{"given", func(c *claim) { give(c); c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{consumer} }, nil},
		{"for nothing", func(c *claim) { c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{consumer} }, []string{"status.reservedFor Forbidden: may not be specified when `allocated` is not set"}},
		{"for nobody", func(c *claim) {
			give(c)
			c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{consumer, consumer, {}}
		},
			[]string{"status.reservedFor[1] Duplicate", "status.reservedFor[2].resource Required", "status.reservedFor[2].name Required", "status.reservedFor[2].uid Required"}},
		{"odd", func(c *claim) {
			give(c)
			r := &c.Status.Allocation.Devices.Results[0]
			r.Request, r.Driver, r.Pool, r.Device, r.ShareID = "other", "", "a//b", "A", ptr(types.UID("x"))
			r.BindingConditions, r.BindingFailureConditions = []string{"a", "a", "_"}, []string{"a"}
			c.Status.Allocation.NodeSelector = &corev1.NodeSelector{}
			c.Status.Allocation.Devices.Config = []resourcev1.DeviceAllocationConfiguration{{Source: "Odd", DeviceConfiguration: opaque("{}")}}
		}, []string{results + "request Invalid", results + "driver Required", results + "pool Invalid", results + "device Invalid", results + "shareID Invalid",
			results + "bindingConditions[1] Duplicate", results + "bindingConditions[2] Invalid", results + "bindingFailureConditions[0] Invalid: bindingFailureConditions must not overlap with bindingConditions",
			"status.allocation.nodeSelector.nodeSelectorTerms Required", "status.allocation.devices.config[0].source NotSupported"}},
		{"failure only", func(c *claim) {
			give(c)
			c.Status.Allocation.Devices.Results[0].BindingFailureConditions = []string{"a"}
		},
			[]string{results + "bindingConditions Invalid: bindingConditions are required to use bindingFailureConditions"}},
		{"device", func(c *claim) {
			give(c)
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{
				{Driver: "gpu.example", Pool: "p", Device: "a", Data: &runtime.RawExtension{Raw: []byte(`{}`)}, NetworkData: &resourcev1.NetworkDeviceData{IPs: []string{"10.0.0.1/24", "10.0.0.1"}, InterfaceName: strings.Repeat("x", 257)}},
				{Driver: "gpu.example", Pool: "p", Device: "b", Conditions: []metav1.Condition{{Type: "Ready"}}},
			}
		}, []string{"status.devices[0].networkData.ips[1] Invalid", "status.devices[0].networkData.interfaceName TooLong", "status.devices[1] Invalid: must be an allocated device in the claim",
			"status.devices[1].conditions[0].status Required", "status.devices[1].conditions[0].lastTransitionTime Required", "status.devices[1].conditions[0].reason Required"}},
	})
	given := func() *claim {
		c := goodClaim()
		give(c)
		c.DeletionTimestamp = &metav1.Time{}
		return c
	}
	updates(t, given, defaults.ResourceClaim, ResourceClaimStatusUpdate, []change[*claim]{
		{"another", func(c *claim) { c.Status.Allocation.Devices.Results[0].Device = "b" }, []string{"status.allocation Invalid: field cannot be modified once set"}},
		{"given back", func(c *claim) { c.Status.Allocation = nil }, nil},
		{"late", func(c *claim) { c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{consumer} }, []string{"status.reservedFor Forbidden: new entries may not be added"}},
	})
}

func goodSlice() *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{ObjectMeta: named("s", ""), Spec: resourcev1.ResourceSliceSpec{
		Driver: "gpu.example", Pool: resourcev1.ResourcePool{Name: "n", ResourceSliceCount: 1}, NodeName: ptr("n"),
		Devices: []resourcev1.Device{{
			Name:       "a",
			Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: ptr("m")}, "b.example/version": {VersionValue: ptr("1.2.3-rc.1+b")}},
			Capacity:   map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: resource.MustParse("8Gi")}},
		}},
	}}
}

func TestResourceSlice(t *testing.T) {
	type slice = resourcev1.ResourceSlice
	device := func(s *slice) *resourcev1.Device { return &s.Spec.Devices[0] }
	const one, d = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required", "spec.devices[0]"
	creates(t, goodSlice, nothing, ResourceSlice, []change[*slice]{
		{"good", nil, nil},
		{"pool", func(s *slice) {
			s.Spec.Driver, s.Spec.Pool = "", resourcev1.ResourcePool{Name: "a/B", Generation: -1}
		}, []string{"spec.driver Required", "spec.pool.name Invalid", "spec.pool.resourceSliceCount Invalid: must be greater than zero", "spec.pool.generation Invalid"}},
		{"nowhere", func(s *slice) { s.Spec.NodeName = nil }, []string{"spec Required: " + one}},
		{"everywhere", func(s *slice) {
			s.Spec.AllNodes, s.Spec.NodeSelector = ptr(true), &corev1.NodeSelector{NodeSelectorTerms: make([]corev1.NodeSelectorTerm, 2)}
		},
			[]string{"spec Invalid: " + one + ", but multiple fields are set", "spec.nodeSelector.nodeSelectorTerms Invalid: must have exactly one node selector term"}},
		{"false", func(s *slice) { s.Spec.AllNodes, s.Spec.NodeName = ptr(false), ptr("") },
			[]string{"spec.allNodes Invalid: must be either unset or set to true", "spec.nodeName Invalid: must be either unset or set to a non-empty string", "spec Required"}},
		{"each device", func(s *slice) { s.Spec.NodeName, s.Spec.PerDeviceNodeSelection = nil, ptr(true) }, []string{d + " Required: exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required"}},
		{"each device, two", func(s *slice) {
			s.Spec.NodeName, s.Spec.PerDeviceNodeSelection = nil, ptr(true)
			device(s).NodeName, device(s).AllNodes = ptr("n"), ptr(true)
		}, []string{d + " Invalid: exactly one of"}},
		{"device alone", func(s *slice) { device(s).NodeName = ptr("n") }, []string{d + " Invalid: can only be set if `perDeviceNodeSelection` is set to true"}},
		{"counters and devices", func(s *slice) { s.Spec.SharedCounters = []resourcev1.CounterSet{{}} },
			[]string{"spec Invalid: only one of `sharedCounters` or `devices` is allowed", "spec.sharedCounters[0].name Required", "spec.sharedCounters[0].counters Required"}},
		{"same device", func(s *slice) { s.Spec.Devices = append(s.Spec.Devices, *device(s).DeepCopy()) }, []string{"spec.devices[1] Duplicate"}},
		{"too many", func(s *slice) { s.Spec.Devices = make([]resourcev1.Device, 129) }, []string{"spec.devices TooMany"}},
		{"too many with taints", func(s *slice) {
			s.Spec.Devices = make([]resourcev1.Device, 65)
			device(s).Taints = make([]resourcev1.DeviceTaint, 1)
		}, []string{"spec.devices TooMany", "spec.devices[0].taints[0].effect Required"}},
		{"attributes", func(s *slice) {
			device(s).Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
				"a b": {IntValue: ptr(int64(1))}, "/x": {IntValue: ptr(int64(1))}, "d.example/": {IntValue: ptr(int64(1))}, "none": {}, "two": {BoolValue: ptr(true), IntValue: ptr(int64(1))},
				"long": {StringValue: ptr(strings.Repeat("x", 65))}, "version": {VersionValue: ptr("01.2.3")}, "q/w/e": {BoolValue: ptr(true)},
			}
		}, []string{d + ".attributes Invalid: a valid C identifier", d + ".attributes Invalid: the domain must not be empty", d + ".attributes Invalid: the name must not be empty",
			d + ".attributes[none] Invalid: must specify one of", d + ".attributes[two] Invalid: must specify exactly one of", d + ".attributes[long].string TooLong", d + ".attributes[version].version Invalid: semver.org"}},
		{"long names", func(s *slice) {
			device(s).Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{resourcev1.QualifiedName(strings.Repeat("x", 200)): {VersionValue: ptr("1")}}
		}, []string{d + ".attributes TooLong", d + ".attributes[" + strings.Repeat("x", 47) + "..." + strings.Repeat("x", 46) + "].version Invalid"}},
		{"many", func(s *slice) {
			for i := range 40 {
				device(s).Attributes[resourcev1.QualifiedName(fmt.Sprint("a", i))] = resourcev1.DeviceAttribute{IntValue: ptr(int64(i))}
			}
		}, []string{d + " Invalid: the total number of attributes and capacities must not exceed 32"}},
		{"taints", func(s *slice) { device(s).Taints = []resourcev1.DeviceTaint{{Key: "a b", Value: "_"}} }, []string{d + ".taints[0].key Invalid", d + ".taints[0].value Invalid", d + ".taints[0].effect Required"}},
		{"policy without sharing", func(s *slice) {
			device(s).Capacity["memory"] = resourcev1.DeviceCapacity{RequestPolicy: &resourcev1.CapacityRequestPolicy{}}
		}, []string{d + ".capacity[memory].requestPolicy Forbidden: allowMultipleAllocations must be true"}},
	})
	updates(t, goodSlice, nothing, ResourceSliceUpdate, []change[*slice]{
		{"more", func(s *slice) { s.Spec.Pool.Generation, s.Spec.Pool.ResourceSliceCount = 2, 3 }, nil},
		{"others", func(s *slice) { s.Spec.Pool.Name, s.Spec.Driver, s.Spec.NodeName = "m", "e", ptr("m") },
			[]string{"spec.pool.name Invalid: field is immutable", "spec.driver Invalid: field is immutable", "spec.nodeName Invalid: field is immutable"}},
	})
}

func TestRequestPolicy(t *testing.T) {
	q := func(s string) *resource.Quantity {
		if s == "" {
			return nil
		}
		return ptr(resource.MustParse(s))
	}
	type policy = resourcev1.CapacityRequestPolicy
	within := func(given, lo, hi, step string) *policy {
		return &policy{Default: q(given), ValidRange: &resourcev1.CapacityRequestPolicyRange{Min: q(lo), Max: q(hi), Step: q(step)}}
	}
	of := func(given string, values ...string) *policy {
		p := &policy{Default: q(given)}
		for _, v := range values {
			p.ValidValues = append(p.ValidValues, resource.MustParse(v))
		}
		return p
	}
	both := of("1", "1")
	both.ValidRange = &resourcev1.CapacityRequestPolicyRange{}
	huge := "18446744073709551616" // 2^64: its Value reads as zero
	for _, tc := range []struct {
		name string
		r    *policy
		want []string
	}{
		{"any", &policy{}, nil},
		{"values", of("2", "1", "2"), nil},
		{"both", both, []string{"p Forbidden: exactly one policy can be specified"}},
		{"no default", of("", "1"), []string{"p.default Required: required when validValues is defined"}},
		{"order", of("3", "2", "1", "1", "11"), []string{"p.validValues[1] Invalid: values must be sorted in ascending order", "p.validValues[2] Duplicate", "p.validValues[3] Invalid: option is larger than capacity value: 10", "p.validValues Invalid: default value is not valid according to the requestPolicy"}},
		{"many", of("1", strings.Fields(strings.Repeat("1 ", 11))...), []string{"p.validValues TooMany", "p.validValues Invalid: default value is not valid"}},
		{"range", within("4", "2", "8", "2"), nil},
		{"range without default", within("", "1", "", ""), []string{"p.default Required: required when validRange is defined"}},
		{"range without minimum", within("1", "", "", ""), []string{"p.validRange.min Required"}},
		{"out of range", within("1", "2", "12", ""), []string{"p.validRange.default Invalid: default is less than min: 2", "p.validRange.max Invalid: max is larger than capacity value: 10"}},
		{"minimum above", within("12", "11", "3", ""), []string{"p.validRange.min Invalid: min is larger than capacity value", "p.validRange.max Invalid: min is larger than max", "p.validRange.default Invalid: default is more than max"}},
		{"steps", within("5", "2", "7", "2"), []string{"p.validRange.step Invalid: value is not a multiple of a given step (2) from (2)", "p.validRange.step Invalid"}},
		{"one step", within("2", "2", "", "9"), []string{"p.validRange.step Invalid: one step 11 is larger than capacity value: 10"}},
		{"no step", within("2", "2", "", "0"), []string{"p.validRange.step Invalid: must be greater than zero"}},
		{"halves", within("1500m", "500m", "2500m", "500m"), nil},
		{"halves, not a multiple", within("1600m", "1", "", "500m"), []string{"p.validRange.step Invalid: value is not a multiple"}},
		{"nanos", within("1", "1n", "", ""), []string{"p.validRange.min Invalid: value cannot be represented as a milli value"}},
		{"overflow", within("2", "2", "", huge), []string{"p.validRange.step Invalid: one step", "p.validRange.step Invalid: must not be larger than 9223372036854775807"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := &errors{}
			e.requestPolicy(field.NewPath("p"), resource.MustParse("10"), tc.r)
			compare(t, e.list, tc.want)
		})
	}
}

func TestDeviceTaintRule(t *testing.T) {
	type rule = resourcev1.DeviceTaintRule
	good := func() *rule {
		return &rule{ObjectMeta: named("r", ""), Spec: resourcev1.DeviceTaintRuleSpec{Taint: resourcev1.DeviceTaint{Key: "k", Effect: "NoSchedule"}}}
	}
	creates(t, good, nothing, DeviceTaintRule, []change[*rule]{
		{"good", nil, nil},
		{"odd", func(r *rule) {
			r.Spec.Taint = resourcev1.DeviceTaint{Effect: "Odd"}
			r.Spec.DeviceSelector = &resourcev1.DeviceTaintSelector{Driver: ptr(""), Pool: ptr(""), Device: ptr("A")}
		}, []string{"spec.taint.key Invalid", "spec.taint.key Invalid", "spec.taint.effect NotSupported", "spec.deviceSelector.driver Required", "spec.deviceSelector.pool Required", "spec.deviceSelector.device Invalid"}},
	})
	updates(t, good, nothing, DeviceTaintRuleStatusUpdate, []change[*rule]{
		{"conditions", func(r *rule) { r.Status.Conditions = []metav1.Condition{{}} }, []string{"status.conditions[0].type Required", "status.conditions[0].status Required", "status.conditions[0].reason Required", "status.conditions[0].lastTransitionTime Required"}},
	})
}

package validate

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// version is the pattern that semver.org publishes.
var version = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$`)

const maxValidValues = 10

// ResourceSlice judges a new part of a pool of devices.
func ResourceSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	e := meta(&s.ObjectMeta, false, subdomain)
	declared(e, specPath, resourcev1.Validate_ResourceSliceSpec, &s.Spec, nil)
	e.resourceSlice(&s.Spec, &resourcev1.ResourceSliceSpec{})
	return e.list
}

// ResourceSliceUpdate judges a changed one; whose devices they are stays.
func ResourceSliceUpdate(s, old *resourcev1.ResourceSlice) field.ErrorList {
	e := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	declared(e, specPath, resourcev1.Validate_ResourceSliceSpec, &s.Spec, &old.Spec)
	e.resourceSlice(&s.Spec, &old.Spec)
	e.immutable(specPath.Child("pool", "name"), s.Spec.Pool.Name, old.Spec.Pool.Name)
	e.immutable(specPath.Child("driver"), s.Spec.Driver, old.Spec.Driver)
	e.immutable(specPath.Child("nodeName"), s.Spec.NodeName, old.Spec.NodeName)
	return e.list
}

func (e *errors) resourceSlice(spec, old *resourcev1.ResourceSliceSpec) {
	e.driverName(specPath.Child("driver"), spec.Driver)
	pool := specPath.Child("pool")
	e.poolName(pool.Child("name"), spec.Pool.Name)
	if n := spec.Pool.ResourceSliceCount; n <= 0 {
		e.invalid(pool.Child("resourceSliceCount"), n, notPositive)
	}
	if n := spec.Pool.Generation; n < 0 {
		e.invalid(pool.Child("generation"), n, "must be greater than or equal to zero")
	}
	e.sliceNodes(spec)
	if spec.SharedCounters != nil && spec.Devices != nil {
		e.invalid(specPath, "", "only one of `sharedCounters` or `devices` is allowed")
	}
	for i, c := range spec.SharedCounters {
		if len(spec.SharedCounters) <= resourcev1.ResourceSliceMaxCounterSets {
			e.counters(specPath.Child("sharedCounters").Index(i).Child("counters"), c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet)
		}
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	p := specPath.Child("devices")
	if len(spec.Devices) > most {
		e.add(field.TooMany(p, len(spec.Devices), most))
		return
	}
	before := make(map[string]*resourcev1.Device, len(old.Devices))
	for i := range old.Devices {
		before[old.Devices[i].Name] = &old.Devices[i]
	}
	seen := map[string]bool{}
	for i := range spec.Devices {
		d := &spec.Devices[i]
		e.device(p.Index(i), d, before[d.Name])
		e.deviceNodes(p.Index(i), d, spec.PerDeviceNodeSelection != nil && *spec.PerDeviceNodeSelection)
		unique(e, seen, p.Index(i), d.Name, d.Name)
	}
}

// choice is one of several ways to say the same, of which one must be used.
type choice struct {
	name string
	set  bool
}

// chosen are the names of those that are used.
func chosen(all ...choice) []string {
	var names []string
	for _, c := range all {
		if c.set {
			names = append(names, "`"+c.name+"`")
		}
	}
	return names
}

func braces(names []string) string { return "{" + strings.Join(names, ", ") + "}" }

// onlyTrue is a flag that is true or absent.
func (e *errors) onlyTrue(p *field.Path, b *bool) bool {
	if b != nil && !*b {
		e.invalid(p, *b, "must be either unset or set to true")
	}
	return b != nil && *b
}

// sliceNodes says which nodes can reach the devices, in one way.
func (e *errors) sliceNodes(spec *resourcev1.ResourceSliceSpec) {
	if n := spec.NodeName; n != nil {
		if *n == "" {
			e.invalid(specPath.Child("nodeName"), *n, "must be either unset or set to a non-empty string")
		} else {
			e.dnsSubdomain(specPath.Child("nodeName"), *n)
		}
	}
	if s := spec.NodeSelector; s != nil {
		e.nodeSelector(specPath.Child("nodeSelector"), s)
		if len(s.NodeSelectorTerms) != 1 {
			e.invalid(specPath.Child("nodeSelector", "nodeSelectorTerms"), s.NodeSelectorTerms, "must have exactly one node selector term")
		}
	}
	ways := chosen(choice{"nodeName", spec.NodeName != nil && *spec.NodeName != ""}, choice{"nodeSelector", spec.NodeSelector != nil},
		choice{"allNodes", e.onlyTrue(specPath.Child("allNodes"), spec.AllNodes)},
		choice{"perDeviceNodeSelection", e.onlyTrue(specPath.Child("perDeviceNodeSelection"), spec.PerDeviceNodeSelection)})
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(ways) {
	case 0:
		e.add(field.Required(specPath, one))
	case 1:
	default:
		e.invalid(specPath, braces(ways), one+", but multiple fields are set")
	}
}

// deviceNodes likewise for one device, where the slice leaves it to each.
func (e *errors) deviceNodes(p *field.Path, d *resourcev1.Device, each bool) {
	if !each {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			e.invalid(p, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")
		}
		return
	}
	if n := d.NodeName; n != nil {
		if *n == "" {
			e.invalid(p.Child("nodeName"), *n, "must not be empty")
		} else {
			e.dnsSubdomain(p.Child("nodeName"), *n)
		}
	}
	if d.NodeSelector != nil {
		e.nodeSelector(p.Child("nodeSelector"), d.NodeSelector)
	}
	ways := chosen(choice{"nodeName", d.NodeName != nil && *d.NodeName != ""}, choice{"nodeSelector", d.NodeSelector != nil},
		choice{"allNodes", e.onlyTrue(p.Child("allNodes"), d.AllNodes)})
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch len(ways) {
	case 0:
		e.add(field.Required(p, one))
	case 1:
	default:
		e.invalid(p, braces(ways), one)
	}
}

func (e *errors) device(p *field.Path, d, old *resourcev1.Device) {
	e.dnsLabel(p.Child("name"), d.Name)
	const most = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
	if n := len(d.Attributes) + len(d.Capacity); n > most {
		e.invalid(p, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", most))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		e.deviceField(p.Child("attributes"), name)
		e.attribute(keyed(p.Child("attributes"), name), d.Attributes[name])
	}
	if old == nil || !same(d.Capacity, old.Capacity) {
		shared := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
		for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
			e.deviceField(p.Child("capacity"), name)
			c, at := d.Capacity[name], keyed(p.Child("capacity"), name).Child("requestPolicy")
			switch {
			case c.RequestPolicy == nil:
			case !shared:
				e.forbid(at, "allowMultipleAllocations must be true")
			default:
				e.requestPolicy(at, c.Value, c.RequestPolicy)
			}
		}
	}
	if old == nil || !same(d.Taints, old.Taints) {
		at := p.Child("taints")
		if n := len(d.Taints); n > resourcev1.DeviceTaintsMaxLength {
			e.add(field.TooMany(at, n, resourcev1.DeviceTaintsMaxLength))
		} else {
			for i := range d.Taints {
				e.deviceTaint(at.Index(i), &d.Taints[i])
			}
		}
	}
	for i, c := range d.ConsumesCounters {
		if len(d.ConsumesCounters) <= resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice {
			e.counters(p.Child("consumesCounters").Index(i).Child("counters"), c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption)
		}
	}
	e.bindingConditions(p, d.BindingConditions, d.BindingFailureConditions)
}

func (e *errors) counters(p *field.Path, m map[string]resourcev1.Counter, most int) {
	if len(m) > most {
		e.add(field.TooMany(p, len(m), most))
	}
}

// keyed is the path of an entry, whose name may be as long as a client likes.
func keyed(p *field.Path, name resourcev1.QualifiedName) *field.Path {
	const most = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength
	s := string(name)
	if len(s) > most {
		rest := most - len("...")
		s = s[:(rest+1)/2] + "..." + s[len(s)-rest/2:]
	}
	return p.Key(s)
}

// deviceField is an identifier, perhaps with the domain of a driver.
func (e *errors) deviceField(p *field.Path, name resourcev1.QualifiedName) {
	identifier := func(id string) {
		if len(id) > resourcev1.DeviceMaxIDLength {
			e.add(field.TooLong(p, "", resourcev1.DeviceMaxIDLength))
		}
		e.msgs(p, id, content.IsCIdentifier(id))
	}
	domain, id, split := strings.Cut(string(name), "/")
	switch {
	case !split:
		identifier(string(name))
	case strings.Contains(id, "/"): // upstream takes more than one slash as it is
	default:
		if domain == "" {
			e.invalid(p, "", "the domain must not be empty")
		} else {
			e.driverName(p, domain)
		}
		if id == "" {
			e.invalid(p, "", "the name must not be empty")
		} else {
			identifier(id)
		}
	}
}

func (e *errors) attribute(p *field.Path, a resourcev1.DeviceAttribute) {
	if v := a.StringValue; v != nil && len(*v) > resourcev1.DeviceAttributeMaxValueLength {
		e.add(field.TooLong(p.Child("string"), "", resourcev1.DeviceAttributeMaxValueLength))
	}
	if v := a.VersionValue; v != nil {
		if !version.MatchString(*v) {
			e.invalid(p.Child("version"), *v, "must be a string compatible with semver.org spec 2.0.0")
		}
		if len(*v) > resourcev1.DeviceAttributeMaxValueLength {
			e.add(field.TooLong(p.Child("version"), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
}

// requestPolicy says how much of a capacity one claim can take.
func (e *errors) requestPolicy(p *field.Path, capacity resource.Quantity, r *resourcev1.CapacityRequestPolicy) {
	switch {
	case len(r.ValidValues) > 0 && r.ValidRange != nil:
		e.forbid(p, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)
	case len(r.ValidValues) > 0 && r.Default == nil:
		e.add(field.Required(p.Child("default"), "required when validValues is defined"))
	case len(r.ValidValues) > 0:
		e.validValues(p.Child("validValues"), capacity, *r.Default, r.ValidValues)
	case r.ValidRange != nil && r.Default == nil:
		e.add(field.Required(p.Child("default"), "required when validRange is defined"))
	case r.ValidRange != nil:
		e.validRange(p.Child("validRange"), capacity, *r.Default, r.ValidRange)
	}
}

func (e *errors) validValues(p *field.Path, capacity, given resource.Quantity, values []resource.Quantity) {
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			e.invalid(p.Index(i), values[i].String(), "values must be sorted in ascending order")
		}
	}
	found := false
	if most := maxValidValues; len(values) > most {
		e.add(field.TooMany(p, len(values), most))
	} else {
		seen := map[string]bool{}
		for i, v := range values {
			if v.Cmp(capacity) > 0 {
				e.invalid(p.Index(i), v.String(), "option is larger than capacity value: "+capacity.String())
			}
			found = found || v.Cmp(given) == 0
			key := v.DeepCopy()
			unique(e, seen, p.Index(i), key.AsDec().String(), v.String())
		}
	}
	if !found {
		e.invalid(p, given.String(), "default value is not valid according to the requestPolicy")
	}
}

// bound is one of the figures of a range; q may be absent.
type bound struct {
	name string
	q    *resource.Quantity
}

func (e *errors) validRange(p *field.Path, capacity, given resource.Quantity, r *resourcev1.CapacityRequestPolicyRange) {
	if r.Min == nil {
		e.add(field.Required(p.Child("min"), "required when validRange is defined"))
		return
	}
	larger := func(name string, a, b resource.Quantity, why string) {
		if a.Cmp(b) > 0 {
			e.invalid(p.Child(name), a.String(), why+b.String())
		}
	}
	larger("min", *r.Min, capacity, "min is larger than capacity value: ")
	if given.Cmp(*r.Min) < 0 {
		e.invalid(p.Child("default"), given.String(), "default is less than min: "+r.Min.String())
	}
	if r.Max != nil {
		larger("max", *r.Min, *r.Max, "min is larger than max: ")
		larger("max", *r.Max, capacity, "max is larger than capacity value: ")
		larger("default", given, *r.Max, "default is more than max: ")
	}
	bounds := []bound{{"default", &given}, {"min", r.Min}, {"max", r.Max}, {"step", r.Step}}
	if milli := slices.ContainsFunc(bounds, bound.fractional); milli {
		if e.milliBounds(p, bounds) && r.Step != nil && e.positiveStep(p, capacity, r) {
			e.steps(p.Child("step"), r, given, (*resource.Quantity).MilliValue)
		}
	} else if r.Step != nil && e.positiveStep(p, capacity, r) && e.wholeBounds(p, bounds) {
		e.steps(p.Child("step"), r, given, (*resource.Quantity).Value)
	}
}

func (b bound) fractional() bool {
	if b.q == nil {
		return false
	}
	q := b.q.DeepCopy()
	return !q.RoundUp(0)
}

// milliBounds: thousandths of them all fit an int64.
func (e *errors) milliBounds(p *field.Path, bounds []bound) bool {
	ok := true
	for _, b := range bounds {
		if b.q != nil && b.q.Cmp(*resource.NewMilliQuantity(b.q.MilliValue(), b.q.Format)) != 0 {
			e.invalid(p.Child(b.name), b.q.String(), "value cannot be represented as a milli value")
			ok = false
		}
	}
	return ok
}

// wholeBounds: all of them fit an int64.
func (e *errors) wholeBounds(p *field.Path, bounds []bound) bool {
	ok := true
	for _, b := range bounds {
		switch {
		case b.q == nil:
		case b.q.Sign() < 0:
			e.invalid(p.Child(b.name), b.q.String(), apivalidation.IsNegativeErrorMsg)
			ok = false
		case b.q.CmpInt64(math.MaxInt64) > 0:
			e.invalid(p.Child(b.name), b.q.String(), "must not be larger than 9223372036854775807")
			ok = false
		}
	}
	return ok
}

func (e *errors) positiveStep(p *field.Path, capacity resource.Quantity, r *resourcev1.CapacityRequestPolicyRange) bool {
	if r.Step.Sign() <= 0 {
		e.invalid(p.Child("step"), r.Step.String(), notPositive)
		return false
	}
	sum := r.Min.DeepCopy()
	sum.Add(*r.Step)
	if sum.Cmp(capacity) > 0 {
		e.invalid(p.Child("step"), r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", sum.String(), capacity.String()))
	}
	return true
}

// steps: default and maximum are a number of steps above the minimum. The
// caller has made sure that number does not overflow.
func (e *errors) steps(p *field.Path, r *resourcev1.CapacityRequestPolicyRange, given resource.Quantity, number func(*resource.Quantity) int64) {
	for _, v := range []*resource.Quantity{&given, r.Max} {
		if v != nil && (number(v)-number(r.Min))%number(r.Step) != 0 {
			e.invalid(p, v.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String()))
		}
	}
}

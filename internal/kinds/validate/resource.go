package validate

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	apivalidate "k8s.io/apimachinery/pkg/api/validate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The types of resource.k8s.io come with rules of their own, made from their
// comments: sizes, unique names, formats. Here stands what those do not say.

// closedGates are asked for by the rules of fields that prepare clears.
var closedGates = map[string]bool{"DRAPartitionableDevicesType": false}

// declared judges by the rules that come with the type.
func declared[T any](e *errors, p *field.Path, rules func(context.Context, operation.Operation, *field.Path, *T, *T) field.ErrorList, o, old *T) {
	op := operation.Operation{Type: operation.Create, Options: closedGates}
	if old != nil {
		op.Type = operation.Update
	}
	const beta = true // as upstream enforces them
	e.all(apivalidate.FilterEnforcedDeclarativeErrors(context.Background(), rules(context.Background(), op, p, o, old), beta))
}

// ResourceClaim judges a new claim to devices.
func ResourceClaim(c *resourcev1.ResourceClaim) field.ErrorList {
	e := meta(&c.ObjectMeta, true, subdomain)
	declared(e, specPath, resourcev1.Validate_ResourceClaimSpec, &c.Spec, nil)
	e.deviceClaim(specPath.Child("devices"), &c.Spec.Devices)
	return e.list
}

// ResourceClaimUpdate judges a changed claim; its spec stays.
func ResourceClaimUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	e.immutable(specPath, c.Spec, old.Spec)
	return e.list
}

// ResourceClaimTemplate judges a new template of claims.
func ResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
	e := meta(&t.ObjectMeta, true, subdomain)
	declared(e, specPath, resourcev1.Validate_ResourceClaimTemplateSpec, &t.Spec, nil)
	e.embeddedMeta(specPath.Child("metadata"), &t.Spec.ObjectMeta)
	e.deviceClaim(specPath.Child("spec", "devices"), &t.Spec.Spec.Devices)
	return e.list
}

// ResourceClaimTemplateUpdate judges a changed template; its spec stays.
func ResourceClaimTemplateUpdate(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	e := metaUpdate(&t.ObjectMeta, &old.ObjectMeta)
	e.immutable(specPath, t.Spec, old.Spec)
	return e.list
}

// embeddedMeta allows labels and annotations alone.
func (e *errors) embeddedMeta(p *field.Path, o *metav1.ObjectMeta) {
	e.annotations(p.Child("annotations"), o.Annotations)
	e.labels(p.Child("labels"), o.Labels)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", o.Name != ""}, {"generateName", o.GenerateName != ""}, {"namespace", o.Namespace != ""}, {"selfLink", o.SelfLink != ""},
		{"uID", o.UID != ""}, {"resourceVersion", o.ResourceVersion != ""}, {"generation", o.Generation != 0},
		{"creationTimestamp", !o.CreationTimestamp.IsZero()}, {"deletionTimestamp", o.DeletionTimestamp != nil}, {"deletionGracePeriodSeconds", o.DeletionGracePeriodSeconds != nil},
		{"ownerReferences", len(o.OwnerReferences) > 0}, {"finalizers", len(o.Finalizers) > 0}, {"managedFields", len(o.ManagedFields) > 0},
	} {
		if f.set {
			e.forbid(p.Child(f.name), "cannot be set")
		}
	}
}

// DeviceClass judges a new class.
func DeviceClass(c *resourcev1.DeviceClass) field.ErrorList {
	e := meta(&c.ObjectMeta, false, subdomain)
	declared(e, specPath, resourcev1.Validate_DeviceClassSpec, &c.Spec, nil)
	e.selectors(specPath.Child("selectors"), c.Spec.Selectors)
	e.classConfig(c.Spec.Config)
	return e.list
}

// DeviceClassUpdate judges a changed class. What was compiled once is not
// compiled again.
func DeviceClassUpdate(c, old *resourcev1.DeviceClass) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	declared(e, specPath, resourcev1.Validate_DeviceClassSpec, &c.Spec, &old.Spec)
	if !same(c.Spec.Selectors, old.Spec.Selectors) {
		e.selectors(specPath.Child("selectors"), c.Spec.Selectors)
	}
	if !same(c.Spec.Config, old.Spec.Config) {
		e.classConfig(c.Spec.Config)
	}
	return e.list
}

func (e *errors) classConfig(list []resourcev1.DeviceClassConfiguration) {
	if len(list) > resourcev1.DeviceConfigMaxSize {
		return // declared
	}
	for i := range list {
		e.deviceConfig(specPath.Child("config").Index(i), &list[i].DeviceConfiguration)
	}
}

// requestNames are the requests of a claim with those that each is made of.
type requestNames map[string]sets.Set[string]

func namesOf(c *resourcev1.DeviceClaim) requestNames {
	names := make(requestNames, len(c.Requests))
	for _, r := range c.Requests {
		parts := sets.New[string]()
		for _, s := range r.FirstAvailable {
			parts.Insert(s.Name)
		}
		names[r.Name] = parts
	}
	return names
}

// refs are names of requests, each "request" or "request/subrequest".
func (e *errors) refs(p *field.Path, list []string, names requestNames) {
	if len(list) > resourcev1.DeviceRequestsMaxSize {
		return // declared
	}
	for i, name := range list {
		e.ref(p.Index(i), name, names)
	}
}

func (e *errors) ref(p *field.Path, name string, names requestNames) {
	const unknown = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	segments := strings.Split(name, "/")
	if len(segments) > 2 {
		e.invalid(p, name, unknown)
		return
	}
	for _, s := range segments {
		e.dnsLabel(p, s)
	}
	if parts, ok := names[segments[0]]; !ok || len(segments) == 2 && !parts.Has(segments[1]) {
		e.invalid(p, name, unknown)
	}
}

func (e *errors) deviceClaim(p *field.Path, c *resourcev1.DeviceClaim) {
	names := namesOf(c)
	if len(c.Requests) <= resourcev1.DeviceRequestsMaxSize {
		for i := range c.Requests {
			e.deviceRequest(p.Child("requests").Index(i), &c.Requests[i])
		}
	}
	if len(c.Constraints) <= resourcev1.DeviceConstraintsMaxSize {
		for i, con := range c.Constraints {
			at := p.Child("constraints").Index(i)
			e.refs(at.Child("requests"), con.Requests, names)
			if con.MatchAttribute == nil && con.DistinctAttribute == nil {
				e.add(field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
			}
		}
	}
	if len(c.Config) <= resourcev1.DeviceConfigMaxSize {
		for i := range c.Config {
			at := p.Child("config").Index(i)
			e.refs(at.Child("requests"), c.Config[i].Requests, names)
			e.deviceConfig(at, &c.Config[i].DeviceConfiguration)
		}
	}
}

func (e *errors) deviceRequest(p *field.Path, r *resourcev1.DeviceRequest) {
	e.dnsLabel(p.Child("name"), r.Name)
	switch exactly, first := r.Exactly, r.FirstAvailable; {
	case exactly == nil && len(first) == 0:
		e.add(field.Required(p, "exactly one of `exactly` or `firstAvailable` is required"))
	case exactly != nil && len(first) > 0:
		e.invalid(p, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set")
	case exactly != nil:
		at := p.Child("exactly")
		e.name(at.Child("deviceClassName"), exactly.DeviceClassName, subdomain)
		e.wanted(at, exactly.Selectors, exactly.AllocationMode, exactly.Count, exactly.Tolerations)
	case len(first) <= resourcev1.FirstAvailableDeviceRequestMaxSize:
		for i, s := range first {
			at := p.Child("firstAvailable").Index(i)
			e.dnsLabel(at.Child("name"), s.Name)
			e.wanted(at, s.Selectors, s.AllocationMode, s.Count, s.Tolerations)
		}
	}
}

// wanted is what both kinds of requests have.
func (e *errors) wanted(p *field.Path, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration) {
	e.selectors(p.Child("selectors"), selectors)
	switch at := p.Child("count"); {
	case mode == resourcev1.DeviceAllocationModeAll && count != 0:
		e.invalid(at, count, fmt.Sprintf("must not be specified when allocationMode is '%s'", mode))
	case mode == resourcev1.DeviceAllocationModeExactCount && count <= 0:
		e.invalid(at, count, notPositive)
	}
	e.deviceTolerations(p.Child("tolerations"), tolerations)
}

func (e *errors) deviceTolerations(p *field.Path, list []resourcev1.DeviceToleration) {
	for i, t := range list {
		at := p.Index(i).Child("value")
		switch t.Operator {
		case resourcev1.DeviceTolerationOpExists:
			if t.Value != "" {
				e.invalid(at, t.Value, "must be empty for operator `Exists`")
			}
		case resourcev1.DeviceTolerationOpEqual:
			e.msgs(at, t.Value, validation.IsValidLabelValue(t.Value))
		}
	}
}

func (e *errors) deviceConfig(p *field.Path, c *resourcev1.DeviceConfiguration) {
	if c.Opaque == nil {
		e.required(p.Child("opaque"))
		return
	}
	e.object(p.Child("opaque", "parameters"), c.Opaque.Parameters, resourcev1.OpaqueParametersMaxLength)
}

// object is a JSON object of somebody else's.
func (e *errors) object(p *field.Path, r runtime.RawExtension, most int) {
	const omitted = "<value omitted>"
	if len(r.Raw) == 0 {
		e.required(p)
		return
	}
	if len(r.Raw) > most {
		e.add(field.TooLong(p, "", most))
		return
	}
	var v any
	if err := json.Unmarshal(r.Raw, &v); err != nil {
		e.invalid(p, omitted, "error parsing data as JSON: "+err.Error())
		return
	}
	switch v.(type) {
	case nil:
		e.required(p)
	case map[string]any:
	default:
		e.invalid(p, omitted, "must be a valid JSON object")
	}
}

// deviceID names an allocated device, or one share of it.
func deviceID(driver, pool, device string, share *types.UID) string {
	id := driver + "/" + pool + "/" + device
	if share != nil {
		id += "/" + string(*share)
	}
	return id
}

// ResourceClaimStatusUpdate judges what a claim got, and for whom.
func ResourceClaimStatusUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	declared(e, statusPath, resourcev1.Validate_ResourceClaimStatus, &c.Status, &old.Status)
	status, names := &c.Status, namesOf(&c.Spec.Devices)
	e.reservedFor(statusPath.Child("reservedFor"), c, old)
	allocated := map[string]bool{}
	if a := status.Allocation; a != nil {
		for _, r := range a.Devices.Results {
			allocated[deviceID(r.Driver, r.Pool, r.Device, r.ShareID)] = true
		}
	}
	for i := range status.Devices {
		e.deviceStatus(statusPath.Child("devices").Index(i), &status.Devices[i], allocated)
	}
	if status.Allocation != nil && old.Status.Allocation == nil {
		e.allocation(statusPath.Child("allocation"), status.Allocation, names)
	}
	return e.list
}

func (e *errors) reservedFor(p *field.Path, c, old *resourcev1.ResourceClaim) {
	list := c.Status.ReservedFor
	if len(list) > resourcev1.ResourceClaimReservedForMaxSize {
		return // declared
	}
	for i, r := range list {
		e.need(p.Index(i), "resource", r.Resource, "name", r.Name, "uid", string(r.UID))
	}
	switch {
	case len(list) == 0:
	case c.Status.Allocation == nil:
		e.forbid(p, "may not be specified when `allocated` is not set")
	case c.DeletionTimestamp != nil && len(sets.New(list...).Difference(sets.New(old.Status.ReservedFor...))) > 0:
		e.forbid(p, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set")
	}
}

func (e *errors) deviceStatus(p *field.Path, d *resourcev1.AllocatedDeviceStatus, allocated map[string]bool) {
	e.driverName(p.Child("driver"), d.Driver)
	e.poolName(p.Child("pool"), d.Pool)
	e.dnsLabel(p.Child("device"), d.Device)
	if id := deviceID(d.Driver, d.Pool, d.Device, (*types.UID)(d.ShareID)); !allocated[id] {
		e.invalid(p, id, "must be an allocated device in the claim")
	}
	e.conditions(p.Child("conditions"), d.Conditions, resourcev1.AllocatedDeviceStatusMaxConditions)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		e.object(p.Child("data"), *d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength)
	}
	if n := d.NetworkData; n != nil && len(n.IPs) <= resourcev1.NetworkDeviceDataMaxIPs {
		for i, ip := range n.IPs {
			e.all(validation.IsValidInterfaceAddress(p.Child("networkData", "ips").Index(i), ip))
		}
	}
}

func (e *errors) conditions(p *field.Path, list []metav1.Condition, most int) {
	if len(list) > most {
		e.add(field.TooMany(p, len(list), most))
	}
	e.all(metavalidation.ValidateConditions(list, p))
}

func (e *errors) allocation(p *field.Path, a *resourcev1.AllocationResult, names requestNames) {
	if a.NodeSelector != nil {
		e.nodeSelector(p.Child("nodeSelector"), a.NodeSelector)
	}
	if len(a.Devices.Results) <= resourcev1.AllocationResultsMaxSize {
		for i := range a.Devices.Results {
			r, at := &a.Devices.Results[i], p.Child("devices", "results").Index(i)
			e.ref(at.Child("request"), r.Request, names)
			e.dnsLabel(at.Child("device"), r.Device)
			e.bindingConditions(at, r.BindingConditions, r.BindingFailureConditions)
			e.deviceTolerations(at.Child("tolerations"), r.Tolerations)
		}
	}
	if len(a.Devices.Config) <= 2*resourcev1.DeviceConfigMaxSize {
		for i := range a.Devices.Config {
			c, at := &a.Devices.Config[i], p.Child("devices", "config").Index(i)
			e.refs(at.Child("requests"), c.Requests, names)
			e.deviceConfig(at, &c.DeviceConfiguration)
		}
	}
}

// bindingConditions of success and of failure come together and are distinct.
func (e *errors) bindingConditions(p *field.Path, good, bad []string) {
	const success, failure = "bindingConditions", "bindingFailureConditions"
	if len(good) > resourcev1.BindingConditionsMaxSize || len(bad) > resourcev1.BindingFailureConditionsMaxSize {
		return // declared
	}
	seen, failed := map[string]bool{}, map[string]bool{}
	for i, c := range good {
		e.labelName(p.Child(success).Index(i), c)
		unique(e, seen, p.Child(success).Index(i), c, c)
	}
	for i, c := range bad {
		at := p.Child(failure).Index(i)
		e.labelName(at, c)
		unique(e, failed, at, c, c)
		if seen[c] {
			e.invalid(at, c, "bindingFailureConditions must not overlap with bindingConditions")
		}
	}
	switch {
	case len(good) == 0 && len(bad) > 0:
		e.invalid(p.Child(success), good, "bindingConditions are required to use bindingFailureConditions")
	case len(bad) == 0 && len(good) > 0:
		e.invalid(p.Child(failure), bad, "bindingFailureConditions are required to use bindingConditions")
	}
}

// poolName is one or more subdomains with slashes between.
func (e *errors) poolName(p *field.Path, name string) {
	if name == "" {
		e.required(p)
		return
	}
	if len(name) > resourcev1.PoolNameMaxLength {
		e.add(field.TooLong(p, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		e.dnsSubdomain(p, part)
	}
}

// DeviceTaintRule judges a new rule.
func DeviceTaintRule(r *resourcev1.DeviceTaintRule) field.ErrorList {
	e := meta(&r.ObjectMeta, false, subdomain)
	declared(e, specPath, resourcev1.Validate_DeviceTaintRuleSpec, &r.Spec, nil)
	e.taintRule(&r.Spec)
	return e.list
}

// DeviceTaintRuleUpdate judges a changed rule.
func DeviceTaintRuleUpdate(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
	e := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	declared(e, specPath, resourcev1.Validate_DeviceTaintRuleSpec, &r.Spec, &old.Spec)
	e.taintRule(&r.Spec)
	return e.list
}

// DeviceTaintRuleStatusUpdate judges the conditions.
func DeviceTaintRuleStatusUpdate(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
	e := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	declared(e, statusPath, resourcev1.Validate_DeviceTaintRuleStatus, &r.Status, &old.Status)
	e.conditions(statusPath.Child("conditions"), r.Status.Conditions, resourcev1.DeviceTaintRuleStatusMaxConditions)
	return e.list
}

func (e *errors) taintRule(spec *resourcev1.DeviceTaintRuleSpec) {
	if s, p := spec.DeviceSelector, specPath.Child("deviceSelector"); s != nil {
		if s.Driver != nil {
			e.driverName(p.Child("driver"), *s.Driver)
		}
		if s.Pool != nil {
			e.poolName(p.Child("pool"), *s.Pool)
		}
		if s.Device != nil {
			e.dnsLabel(p.Child("device"), *s.Device)
		}
	}
	e.deviceTaint(specPath.Child("taint"), &spec.Taint)
}

func (e *errors) deviceTaint(p *field.Path, t *resourcev1.DeviceTaint) {
	e.labelName(p.Child("key"), t.Key)
	if t.Value != "" {
		e.msgs(p.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))
	}
}

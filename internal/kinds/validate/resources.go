package validate

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// integerResources are counted, not measured.
var integerResources = map[corev1.ResourceName]bool{
	corev1.ResourcePods: true, corev1.ResourceQuotas: true, corev1.ResourceServices: true,
	corev1.ResourceReplicationControllers: true, corev1.ResourceSecrets: true, corev1.ResourceConfigMaps: true,
	corev1.ResourcePersistentVolumeClaims: true, corev1.ResourceServicesNodePorts: true, corev1.ResourceServicesLoadBalancers: true,
}

// standardResources may be written without a domain.
var standardResources = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceEphemeralStorage: true,
	corev1.ResourceRequestsCPU: true, corev1.ResourceRequestsMemory: true, corev1.ResourceRequestsEphemeralStorage: true,
	corev1.ResourceLimitsCPU: true, corev1.ResourceLimitsMemory: true, corev1.ResourceLimitsEphemeralStorage: true,
	corev1.ResourcePods: true, corev1.ResourceQuotas: true, corev1.ResourceServices: true,
	corev1.ResourceReplicationControllers: true, corev1.ResourceSecrets: true, corev1.ResourceConfigMaps: true,
	corev1.ResourcePersistentVolumeClaims: true, corev1.ResourceStorage: true, corev1.ResourceRequestsStorage: true,
	corev1.ResourceServicesNodePorts: true, corev1.ResourceServicesLoadBalancers: true,
}

func hugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// NativeResource belongs to Kubernetes itself; others are devices and the like,
// which whoever makes them puts into a node's status.
func NativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// extendedResource is a device or the like, counted in whole pieces.
func extendedResource(name corev1.ResourceName) bool {
	if NativeResource(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// overcommit: a container may use more than it requests.
func overcommit(name corev1.ResourceName) bool { return NativeResource(name) && !hugePages(name) }

// quantity is not negative, and whole where only whole pieces exist.
func (e *errors) quantity(p *field.Path, name corev1.ResourceName, q resource.Quantity) {
	if negative(q) {
		e.invalid(p, q.String(), "must be greater than or equal to 0")
	}
	if (integerResources[name] || extendedResource(name)) && q.MilliValue()%1000 != 0 {
		e.invalid(p, q.String(), notInteger)
	}
}

// resourceName is one that nodes, quotas and ranges may list.
func (e *errors) resourceName(p *field.Path, name corev1.ResourceName) {
	if m := validation.IsQualifiedName(string(name)); len(m) > 0 {
		e.msgs(p, name, m)
		return
	}
	if !strings.Contains(string(name), "/") && !standardResources[name] && !hugePages(name) {
		e.invalid(p, name, "must be a standard resource type or fully qualified")
	}
}

// containerResource is one that a container may ask for.
func (e *errors) containerResource(p *field.Path, name corev1.ResourceName) {
	before := len(e.list)
	e.resourceName(p, name)
	switch {
	case !strings.Contains(string(name), "/"):
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		default:
			if !hugePages(name) {
				e.invalid(p, name, "must be a standard resource for containers")
			}
		}
	case !NativeResource(name) && !extendedResource(name):
		e.invalid(p, name, "doesn't follow extended resource name standard")
	}
	if len(e.list) > before {
		return
	}
	if hugePages(name) {
		if _, err := pageSize(name); err != nil {
			e.invalid(p, name, err.Error())
		}
	}
}

func pageSize(name corev1.ResourceName) (resource.Quantity, error) {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err == nil && size.Sign() <= 0 {
		err = fmt.Errorf("resource name: %s is an invalid hugepage resource name", name)
	}
	return size, err
}

func (s *podScope) containerResources(p *field.Path, r *corev1.ResourceRequirements) {
	s.resources(p, r, s.containerResource)
}

// resources of a container or pod; known judges their names.
func (s *podScope) resources(p *field.Path, r *corev1.ResourceRequirements, known func(*field.Path, corev1.ResourceName)) {
	limits, requests := p.Child("limits"), p.Child("requests")
	pages, basic := false, false
	one := func(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
		known(at, name)
		s.quantity(at, name, q)
		if hugePages(name) {
			pages = true
			if size, err := pageSize(name); err == nil && q.Value()%size.Value() != 0 {
				s.invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))
			}
		}
		basic = basic || name == corev1.ResourceCPU || name == corev1.ResourceMemory
	}
	for name, q := range r.Limits {
		one(limits.Key(string(name)), name, q)
	}
	for name, q := range r.Requests {
		one(requests.Key(string(name)), name, q)
		limit, limited := r.Limits[name]
		switch {
		case limited && !overcommit(name) && q.Cmp(limit) != 0:
			s.invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))
		case limited && q.Cmp(limit) > 0:
			s.invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		case !limited && !overcommit(name):
			s.add(field.Required(limits, "Limit must be set for non overcommitable resources"))
		}
	}
	if pages && !basic {
		s.forbid(p, "HugePages require cpu or memory")
	}
}

package validate

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// ServiceCIDR judges new ranges for addresses of services.
func ServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	e := meta(&c.ObjectMeta, false, subdomain)
	e.serviceRanges(&c.Spec)
	return e.list
}

// ServiceCIDRUpdate judges changed ones: a range stays, one of the other IP
// family may be added.
func ServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	p, is, was := specPath.Child("cidrs"), c.Spec.CIDRs, old.Spec.CIDRs
	added := len(was) == 1 && len(is) == 2
	if len(is) != len(was) && !added {
		e.invalid(p, is, apivalidation.FieldImmutableErrorMsg)
		return e.list
	}
	for i := range was {
		if is[i] != was[i] {
			e.invalid(p.Index(i), is[i], apivalidation.FieldImmutableErrorMsg)
		}
	}
	if added {
		e.serviceRanges(&c.Spec)
	}
	return e.list
}

// ServiceCIDRStatusUpdate judges the metadata alone, as upstream does.
func ServiceCIDRStatusUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	return metaUpdate(&c.ObjectMeta, &old.ObjectMeta).list
}

func (e *errors) serviceRanges(spec *networkingv1.ServiceCIDRSpec) {
	p := specPath.Child("cidrs")
	switch n := len(spec.CIDRs); {
	case n == 0:
		e.add(field.Required(p, "at least one CIDR required"))
		return
	case n > 2:
		e.invalid(p, spec, "may only hold up to 2 values")
		return
	}
	for i, c := range spec.CIDRs {
		e.all(validation.IsValidCIDR(p.Index(i), c))
	}
	if len(spec.CIDRs) == 2 {
		a, b := netutils.IPFamilyOfCIDRString(spec.CIDRs[0]), netutils.IPFamilyOfCIDRString(spec.CIDRs[1])
		if a == b && a != netutils.IPFamilyUnknown {
			e.invalid(p, spec.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64")
		}
	}
}

// addressName: an address is its own name, written in the one way that there
// is of writing it.
func addressName(name string, _ bool) []string {
	var out []string
	for _, err := range validation.IsValidIP(nil, name) {
		out = append(out, err.Detail)
	}
	return out
}

// IPAddress judges a new one.
func IPAddress(a *networkingv1.IPAddress) field.ErrorList {
	e := meta(&a.ObjectMeta, false, addressName)
	e.addressParent(a.Spec.ParentRef)
	return e.list
}

// IPAddressUpdate judges a changed one: it stays with whom it belongs to.
func IPAddressUpdate(a, old *networkingv1.IPAddress) field.ErrorList {
	e := metaUpdate(&a.ObjectMeta, &old.ObjectMeta)
	e.addressParent(a.Spec.ParentRef)
	e.immutable(specPath.Child("parentRef"), a.Spec.ParentRef, old.Spec.ParentRef)
	return e.list
}

func (e *errors) addressParent(ref *networkingv1.ParentReference) {
	p := specPath.Child("parentRef")
	if ref == nil {
		e.required(p)
		return
	}
	if ref.Group != "" {
		e.dnsSubdomain(p.Child("group"), ref.Group)
	}
	e.name(p.Child("resource"), ref.Resource, segment)
	e.name(p.Child("name"), ref.Name, segment)
	if ref.Namespace != "" {
		e.msgs(p.Child("namespace"), ref.Namespace, content.IsPathSegmentName(ref.Namespace))
	}
}

func segment(name string, _ bool) []string { return content.IsPathSegmentName(name) }

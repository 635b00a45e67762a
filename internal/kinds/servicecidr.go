package kinds

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
)

// The addresses of services: the ranges that they come from, and one object
// for each address that is taken.
var (
	ServiceCIDR = &Kind{
		GVK: networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"), Resource: "servicecidrs", Singular: "servicecidr",
		Prefix: "servicecidrs",
		New:    func() Object { return &networkingv1.ServiceCIDR{} }, NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		PrepareCreate: do(prepare.ServiceCIDRCreate), PrepareUpdate: doBoth(prepare.ServiceCIDRUpdate),
		Validate: check(validate.ServiceCIDR), ValidateUpdate: checkBoth(validate.ServiceCIDRUpdate),
		Subresources: map[string]Subresource{"status": status(prepare.ServiceCIDRStatusUpdate, validate.ServiceCIDRStatusUpdate)},
		Columns: []Column{
			nameColumn,
			cell("CIDRs", "string", "Ranges of addresses, at most one of each IP family.", func(c *networkingv1.ServiceCIDR) any { return strings.Join(c.Spec.CIDRs, ",") }),
			ageColumn,
		},
	}
	IPAddress = &Kind{
		GVK: networkingv1.SchemeGroupVersion.WithKind("IPAddress"), Resource: "ipaddresses", Singular: "ipaddress", ShortNames: []string{"ip"},
		Prefix: "ipaddresses",
		New:    func() Object { return &networkingv1.IPAddress{} }, NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
		PrepareCreate: do(prepare.Create[*networkingv1.IPAddress]), PrepareUpdate: doBoth(prepare.Keep[*networkingv1.IPAddress]),
		Validate: check(validate.IPAddress), ValidateUpdate: checkBoth(validate.IPAddressUpdate),
		// Upstream writes the age into its rows without naming the column.
		Columns: []Column{
			nameColumn,
			cell("ParentRef", "string", "Whose address it is.", func(a *networkingv1.IPAddress) any { return parentOf(a.Spec.ParentRef) }),
		},
	}
)

var serviceNetworks = []*Kind{ServiceCIDR, IPAddress}

// parentOf is resource.group/namespace/name.
func parentOf(ref *networkingv1.ParentReference) string {
	if ref == nil {
		return none
	}
	s := strings.ToLower(schema.GroupResource{Group: ref.Group, Resource: ref.Resource}.String())
	if ref.Namespace != "" {
		s += "/" + ref.Namespace
	}
	return s + "/" + ref.Name
}

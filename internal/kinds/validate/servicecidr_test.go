package validate

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

func TestServiceCIDR(t *testing.T) {
	type cidr = networkingv1.ServiceCIDR
	good := func() *cidr {
		return &cidr{ObjectMeta: named("c", ""), Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.0.0.0/24"}}}
	}
	set := func(list ...string) func(*cidr) { return func(c *cidr) { c.Spec.CIDRs = list } }
	creates(t, good, nothing, ServiceCIDR, []change[*cidr]{
		{"good", nil, nil},
		{"both families", set("10.0.0.0/24", "fd00::/64"), nil},
		{"none", set(), []string{"spec.cidrs Required: at least one CIDR required"}},
		{"three", set("10.0.0.0/24", "fd00::/64", "10.1.0.0/24"), []string{"spec.cidrs Invalid: may only hold up to 2 values"}},
		{"one family", set("10.0.0.0/24", "10.1.0.0/24"), []string{"spec.cidrs Invalid: may specify no more than one IP for each IP family"}},
		{"host bits", set("10.0.0.1/24"), []string{"spec.cidrs[0] Invalid: must not have bits set beyond the prefix length"}},
		{"leading zeros", set("010.0.0.0/24"), []string{"spec.cidrs[0] Invalid: must not have leading 0s"}},
		{"noise", set("x"), []string{"spec.cidrs[0] Invalid: must be a valid CIDR value"}},
		{"name", func(c *cidr) { c.Name = "A" }, []string{"metadata.name Invalid"}},
	})
	updates(t, good, nothing, ServiceCIDRUpdate, []change[*cidr]{
		{"same", nil, nil},
		{"one family more", set("10.0.0.0/24", "fd00::/64"), nil},
		{"another", set("10.1.0.0/24"), []string{"spec.cidrs[0] Invalid: field is immutable"}},
		{"another and more", set("10.1.0.0/24", "fd00::/64"), []string{"spec.cidrs[0] Invalid: field is immutable"}},
		{"less", set(), []string{"spec.cidrs Invalid: field is immutable"}},
		{"more of the same", set("10.0.0.0/24", "10.1.0.0/24"), []string{"spec.cidrs Invalid: may specify no more than one"}},
	})
}

func TestIPAddress(t *testing.T) {
	type address = networkingv1.IPAddress
	good := func() *address {
		return &address{ObjectMeta: named("10.0.0.1", ""), Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "n", Name: "s"}}}
	}
	name := func(s string) func(*address) { return func(a *address) { a.Name = s } }
	creates(t, good, nothing, IPAddress, []change[*address]{
		{"good", nil, nil},
		{"the other family", name("fd00::1"), nil},
		{"long form", name("fd00:0::1"), []string{`metadata.name Invalid: must be in canonical form ("fd00::1")`}},
		{"no address", name("a"), []string{"metadata.name Invalid: must be a valid IP address"}},
		{"no parent", func(a *address) { a.Spec.ParentRef = nil }, []string{"spec.parentRef Required"}},
		{"empty parent", func(a *address) { a.Spec.ParentRef = &networkingv1.ParentReference{} }, []string{"spec.parentRef.resource Required", "spec.parentRef.name Required"}},
		{"bad parent", func(a *address) {
			a.Spec.ParentRef = &networkingv1.ParentReference{Group: "A", Resource: "a/b", Namespace: "..", Name: "%"}
		}, []string{"spec.parentRef.group Invalid", "spec.parentRef.resource Invalid", "spec.parentRef.namespace Invalid", "spec.parentRef.name Invalid"}},
	})
	updates(t, good, nothing, IPAddressUpdate, []change[*address]{
		{"same", nil, nil},
		{"another parent", func(a *address) { a.Spec.ParentRef.Name = "t" }, []string{"spec.parentRef Invalid: field is immutable"}},
	})
}

package validate

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Node judges a new node.
func Node(node *corev1.Node) field.ErrorList {
	e := meta(&node.ObjectMeta, false, subdomain)
	e.taints(metaPath.Child("taints"), node.Spec.Taints)
	e.nodeResources(node)
	e.podCIDRs(node.Spec.PodCIDRs)
	e.nodeUnsupported(&node.Spec)
	return e.list
}

// NodeUpdate judges a changed node, status and all: nodes write both.
func NodeUpdate(node, old *corev1.Node) field.ErrorList {
	e := metaUpdate(&node.ObjectMeta, &old.ObjectMeta)
	e.nodeResources(node)
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range node.Status.Addresses {
		unique(e, seen, statusPath.Child("addresses").Index(i), a, a)
	}
	if was, is := old.Spec.PodCIDRs, node.Spec.PodCIDRs; len(was) == 0 {
		e.podCIDRs(is)
	} else if !same(was, is) {
		e.forbid(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid")
	}
	if was := old.Spec.ProviderID; was != "" && node.Spec.ProviderID != was {
		e.forbid(specPath.Child("providerID"), "node updates may not change providerID except from \"\" to valid")
	}
	e.taints(metaPath.Child("taints"), node.Spec.Taints)
	if node.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		e.forbid(specPath.Child("externalID"), "may not be updated")
	}
	e.nodeUnsupported(&node.Spec)
	return e.list
}

// NodeStatusUpdate judges what the kubelet reports.
func NodeStatusUpdate(node, old *corev1.Node) field.ErrorList { return NodeUpdate(node, old) }

func (e *errors) nodeUnsupported(spec *corev1.NodeSpec) {
	if spec.ConfigSource != nil {
		e.forbid(specPath.Child("configSource"), "dynamic kubelet configuration was removed from Kubernetes")
	}
	if spec.PodPreemptionPolicy != nil {
		e.forbid(specPath.Child("podPreemptionPolicy"), notYet)
	}
}

func (e *errors) nodeResources(node *corev1.Node) {
	for k, q := range node.Status.Capacity {
		e.quantity(statusPath.Child("capacity", string(k)), k, q)
	}
	for k, q := range node.Status.Allocatable {
		e.quantity(statusPath.Child("allocatable", string(k)), k, q)
	}
}

// podCIDRs: at most one of each family.
func (e *errors) podCIDRs(list []string) {
	p, valid, seen := specPath.Child("podCIDRs"), true, map[string]bool{}
	for i, c := range list {
		valid = e.cidr(p.Index(i), c) && valid
		unique(e, seen, p.Index(i), c, c)
	}
	if len(list) < 2 || !valid {
		return
	}
	if dual, err := netutils.IsDualStackCIDRStrings(list); err != nil || !dual || len(list) > 2 {
		e.invalid(p, list, "may specify no more than one CIDR for each IP family")
	}
}

func (e *errors) taints(p *field.Path, list []corev1.Taint) {
	type pair struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := map[pair]bool{}
	for i := range list {
		t, at := &list[i], p.Index(i)
		e.labelName(at.Child("key"), t.Key)
		if m := validation.IsValidLabelValue(t.Value); len(m) > 0 {
			e.invalid(at.Child("value"), t.Value, strings.Join(m, ";"))
		}
		e.taintEffect(at.Child("effect"), t.Effect)
		k := pair{t.Key, t.Effect}
		if seen[k] {
			dup := field.Duplicate(at, *t)
			dup.Detail = "taints must be unique by key and effect pair"
			e.add(dup)
		}
		seen[k] = true
	}
}

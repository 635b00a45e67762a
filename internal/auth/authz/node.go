package authz

import (
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/auth/podrefs"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// NodeUserPrefix is what the user names of nodes start with.
const NodeUserPrefix = "system:node:"

// NodeOf is the node that a user is the kubelet of.
func NodeOf(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), NodeUserPrefix)
	if !ok || name == "" || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	return name, true
}

var (
	readVerbs  = []string{"get", "list", "watch"}
	writeEvent = []string{"create", "update", "patch"}
)

// nodeRules are what every node may do, whichever it is: what its services and
// routes are made of, and asking who a caller of its kubelet is.
var nodeRules = []struct {
	group, resource string
	verbs           []string
}{
	{"", "services", readVerbs},
	{"", "endpoints", readVerbs},
	{discoveryv1.GroupName, "endpointslices", readVerbs},
	{"", "namespaces", readVerbs}, // the cluster's DNS tells an empty name from none
	{"", "events", writeEvent},
	{eventsv1.GroupName, "events", writeEvent},
	{certificatesv1.GroupName, "certificatesigningrequests", []string{"create", "get", "list", "watch"}},
	{"authentication.k8s.io", "tokenreviews", []string{"create"}},
	{"authorization.k8s.io", "subjectaccessreviews", []string{"create"}},
	{"authorization.k8s.io", "localsubjectaccessreviews", []string{"create"}},
}

// nodeAllows decides what a kubelet may do; the text says why not. What it may
// write of an object is NodeRestriction's to judge.
func nodeAllows(v *view.View, node string, at authorizer.Attributes) (bool, string) {
	if !at.IsResourceRequest() {
		return false, ""
	}
	switch (schema.GroupResource{Group: at.GetAPIGroup(), Resource: at.GetResource()}) {
	case kinds.Node.GroupResource():
		return nodesAllowed(node, at)
	case kinds.Pod.GroupResource():
		return podsAllowed(v, node, at)
	case kinds.Secret.GroupResource():
		return namedRead(v, node, at, kinds.Secret)
	case kinds.ConfigMap.GroupResource():
		return namedRead(v, node, at, kinds.ConfigMap)
	case kinds.PersistentVolumeClaim.GroupResource():
		return individualGet(node, at, func() bool {
			return related(v.Snapshot(), node, kinds.PersistentVolumeClaim, at.GetNamespace(), at.GetName())
		})
	case kinds.PersistentVolume.GroupResource():
		return individualGet(node, at, func() bool { return volumeOf(v.Snapshot(), node, at.GetName()) })
	case kinds.ServiceAccount.GroupResource():
		return tokenAllowed(v, node, at)
	case schema.GroupResource{Group: coordinationv1.GroupName, Resource: kinds.Lease.Resource}:
		return leaseAllowed(node, at)
	}
	for _, r := range nodeRules {
		if r.resource == at.GetResource() && r.group == at.GetAPIGroup() && at.GetSubresource() == "" && slices.Contains(r.verbs, at.GetVerb()) {
			return true, ""
		}
	}
	return false, ""
}

// NodeRules are the part of a node's rights that is the same for all nodes, as
// rules: what ClusterRole system:node shows. The rest is no list of rules.
func NodeRules() []rbacv1.PolicyRule {
	out := make([]rbacv1.PolicyRule, 0, len(nodeRules))
	for _, r := range nodeRules {
		out = append(out, rbacv1.PolicyRule{Verbs: slices.Clone(r.verbs), APIGroups: []string{r.group}, Resources: []string{r.resource}})
	}
	return out
}

func isRead(verb string) bool { return verb == "get" || verb == "list" || verb == "watch" }

func unrelated(node string) string {
	return fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

// nodesAllowed: all nodes are read, because routes between nodes are made of
// them; only its own is written.
func nodesAllowed(node string, at authorizer.Attributes) (bool, string) {
	own := func(ok bool) (bool, string) {
		// Names are not known yet when one is created: NodeRestriction sees it.
		if ok && (at.GetName() == node || at.GetVerb() == "create" && at.GetName() == "") {
			return true, ""
		}
		return false, fmt.Sprintf("node '%s' can only modify its own Node object", node)
	}
	switch at.GetSubresource() {
	case "":
		if isRead(at.GetVerb()) {
			return true, ""
		}
		return own(at.GetVerb() == "create" || at.GetVerb() == "update" || at.GetVerb() == "patch" || at.GetVerb() == "delete")
	case "status":
		return own(at.GetVerb() == "update" || at.GetVerb() == "patch")
	}
	return false, ""
}

// podsAllowed: its own pods, by name or by the field selector that names it.
func podsAllowed(v *view.View, node string, at authorizer.Attributes) (bool, string) {
	verb := at.GetVerb()
	switch at.GetSubresource() {
	case "":
	case "status":
		return verb == "update" || verb == "patch", ""
	case "eviction":
		return verb == "create", ""
	default:
		return false, ""
	}
	switch verb {
	case "get":
		return boundTo(v, node, at)
	case "list", "watch":
		requirements, err := at.GetFieldSelector()
		for _, r := range requirements {
			if err == nil && r.Field == "spec.nodeName" && r.Value == node && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) {
				return true, ""
			}
		}
		if at.GetName() != "" && at.GetNamespace() != "" {
			return boundTo(v, node, at)
		}
		return false, "can only list/watch pods with spec.nodeName field selector"
	case "create", "delete":
		return true, "" // mirror pods and ended ones: NodeRestriction decides
	}
	return false, ""
}

func boundTo(v *view.View, node string, at authorizer.Attributes) (bool, string) {
	p := view.Now[*corev1.Pod](v, kinds.Pod, at.GetNamespace(), at.GetName())
	if p != nil && p.Spec.NodeName == node {
		return true, ""
	}
	return false, unrelated(node)
}

// namedRead: secrets and config maps are read one by one, those that the
// node's pods name. A list or watch names its object by a field selector.
func namedRead(v *view.View, node string, at authorizer.Attributes, k *kinds.Kind) (bool, string) {
	switch {
	case !isRead(at.GetVerb()):
		return false, "can only read resources of this type"
	case at.GetSubresource() != "":
		return false, "cannot read subresource"
	case at.GetNamespace() == "":
		return false, "can only read namespaced object of this type"
	case at.GetName() == "":
		return false, "No Object name found"
	case related(v.Snapshot(), node, k, at.GetNamespace(), at.GetName()):
		return true, ""
	}
	return false, unrelated(node)
}

func individualGet(node string, at authorizer.Attributes, ok func() bool) (bool, string) {
	switch {
	case at.GetVerb() != "get":
		return false, "can only get individual resources of this type"
	case at.GetSubresource() != "":
		return false, "cannot get subresource"
	case at.GetName() == "":
		return false, "No Object name found"
	case ok():
		return true, ""
	}
	return false, unrelated(node)
}

// tokenAllowed: tokens for the accounts that its pods run as.
func tokenAllowed(v *view.View, node string, at authorizer.Attributes) (bool, string) {
	switch {
	case at.GetVerb() != "create" || at.GetName() == "":
		return false, "can only create tokens for individual service accounts"
	case at.GetSubresource() != "token":
		return false, "can only create token subresource of service account"
	case related(v.Snapshot(), node, kinds.ServiceAccount, at.GetNamespace(), at.GetName()):
		return true, ""
	}
	return false, unrelated(node)
}

func leaseAllowed(node string, at authorizer.Attributes) (bool, string) {
	switch verb := at.GetVerb(); {
	case at.GetSubresource() != "":
		return false, ""
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, verb):
		return false, "can only get, create, update, patch, or delete a node lease"
	case at.GetNamespace() != corev1.NamespaceNodeLease:
		return false, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case at.GetName() != node && (verb != "create" || at.GetName() != ""):
		return false, "can only access node lease with the same name as the requesting node"
	}
	return true, ""
}

// related asks for a pod on the node that names the object, directly or, for
// secrets, through a claim and its volume. Mirror pods are written by nodes
// and therefore never lead anywhere (CVE-2025-4563).
func related(s *view.Snapshot, node string, k *kinds.Kind, namespace, name string) bool {
	for p := range pods(s, node) {
		if p.Namespace == namespace && podrefs.Has(p, k, name) {
			return true
		}
	}
	if k != kinds.Secret || !s.Has(kinds.PersistentVolume) || !s.Has(kinds.PersistentVolumeClaim) {
		return false
	}
	for p := range pods(s, node) {
		for kind, claim := range podrefs.All(p) {
			if kind != kinds.PersistentVolumeClaim {
				continue
			}
			pv := boundVolume(s, p.Namespace, claim)
			if pv == nil {
				continue
			}
			for ns, secret := range podrefs.VolumeSecrets(pv) {
				if ns == namespace && secret == name {
					return true
				}
			}
		}
	}
	return false
}

// pods on the node that somebody else than the node has put there.
func pods(s *view.Snapshot, node string) func(func(*corev1.Pod) bool) {
	return func(yield func(*corev1.Pod) bool) {
		for p := range view.By[*corev1.Pod](s, view.PodsByNode, node) {
			if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; !mirror && !yield(p) {
				return
			}
		}
	}
}

// boundVolume is the volume of a claim, if volume and claim agree.
func boundVolume(s *view.Snapshot, namespace, claim string) *corev1.PersistentVolume {
	c := view.Get[*corev1.PersistentVolumeClaim](s, kinds.PersistentVolumeClaim, namespace, claim)
	if c == nil || c.Spec.VolumeName == "" {
		return nil
	}
	pv := view.Get[*corev1.PersistentVolume](s, kinds.PersistentVolume, "", c.Spec.VolumeName)
	if pv == nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Namespace != namespace || pv.Spec.ClaimRef.Name != claim || pv.Spec.ClaimRef.UID != c.UID {
		return nil
	}
	return pv
}

func volumeOf(s *view.Snapshot, node, volume string) bool {
	if !s.Has(kinds.PersistentVolume) || !s.Has(kinds.PersistentVolumeClaim) {
		return false
	}
	for p := range pods(s, node) {
		for kind, claim := range podrefs.All(p) {
			if kind != kinds.PersistentVolumeClaim {
				continue
			}
			if pv := boundVolume(s, p.Namespace, claim); pv != nil && pv.Name == volume {
				return true
			}
		}
	}
	return false
}

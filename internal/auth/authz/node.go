package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/auth/podrefs"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

var errNodeRules = errors.New("node authorizer does not support user rule resolution")

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

// Node is the authorizer of kubelets: each may read what its pods need and
// write what is its own. What it may write of an object is NodeRestriction's to
// judge. It implements Link.
type Node struct {
	view  *view.View
	rules *role // what is the same for all nodes
}

func newNode(v *view.View) *Node {
	return &Node{view: v, rules: compileRole(NodeRules())}
}

// Authorize implements Link.
func (n *Node) Authorize(_ context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
	u := at.GetUser()
	if u == nil || !slices.Contains(u.GetGroups(), user.NodesGroup) || !strings.HasPrefix(u.GetName(), NodeUserPrefix) {
		return authorizer.DecisionNoOpinion, "", nil
	}
	node, ok := NodeOf(u)
	if !ok {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", u.GetName()), nil
	}
	allowed, why := n.allows(node, at)
	if allowed {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, why, nil
}

// RulesFor implements Link: what a node may do is no list of
// rules.
func (n *Node) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, ok := NodeOf(u); ok {
		return nil, nil, true, errNodeRules
	}
	return nil, nil, false, nil
}

// certificateAsked is found by name, because not every server has the kind.
var certificateAsked = schema.GroupResource{Group: certificatesv1.GroupName, Resource: "podcertificaterequests"}

// allows decides what a kubelet may do; the text says why not.
func (n *Node) allows(node string, at authorizer.Attributes) (bool, string) {
	if !at.IsResourceRequest() {
		return false, ""
	}
	v := n.view
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
		claimed := func() bool {
			return related(v.Snapshot(), node, kinds.PersistentVolumeClaim, at.GetNamespace(), at.GetName())
		}
		if at.GetSubresource() == "status" {
			return statusUpdate(node, at, claimed)
		}
		return individualGet(node, at, claimed)
	case kinds.PersistentVolume.GroupResource():
		return individualGet(node, at, func() bool { return volumeOf(v.Snapshot(), node, at.GetName()) })
	case kinds.ServiceAccount.GroupResource():
		if at.GetVerb() == "get" && at.GetSubresource() == "" {
			return namedRead(v, node, at, kinds.ServiceAccount)
		}
		return tokenAllowed(v, node, at)
	case kinds.Lease.GroupResource():
		return leaseAllowed(node, at)
	case kinds.CSINode.GroupResource():
		return csiNodeAllowed(node, at)
	case kinds.ResourceClaim.GroupResource():
		return individualGet(node, at, func() bool { return claims(v.Snapshot(), node, at.GetNamespace(), at.GetName()) })
	case kinds.ResourceSlice.GroupResource():
		return n.sliceAllowed(node, at)
	case kinds.VolumeAttachment.GroupResource():
		return individualGet(node, at, func() bool {
			va := now[*storagev1.VolumeAttachment](v, kinds.VolumeAttachment, at)
			return va != nil && va.Spec.NodeName == node
		})
	case certificateAsked:
		return n.certificateAllowed(node, at)
	}
	return n.rules.allows(at), ""
}

// now is the object that is asked for; nil also if the view does not hold its
// kind.
func now[T kinds.Object](v *view.View, k *kinds.Kind, at authorizer.Attributes) (none T) {
	if !v.Has(k) {
		return none
	}
	return view.Now[T](v, k, at.GetNamespace(), at.GetName())
}

// NodeRules are the rights of nodes as rules, which ClusterRole system:node
// shows. Most of them hold only for what is the node's own.
func NodeRules() []rbacv1.PolicyRule {
	rule := func(group, resources, verbs string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: strings.Split(verbs, " "), APIGroups: strings.Split(group, " "), Resources: strings.Split(resources, " ")}
	}
	return []rbacv1.PolicyRule{
		rule("authentication.k8s.io", "tokenreviews", "create"),
		rule("authorization.k8s.io", "subjectaccessreviews localsubjectaccessreviews", "create"),
		// What services and routes are made of; the cluster's DNS, which runs on
		// nodes, tells an empty name from none by the namespaces.
		rule("", "services endpoints namespaces", "get list watch"),
		rule(discoveryv1.GroupName, "endpointslices", "get list watch"),
		rule("networking.k8s.io", "servicecidrs", "list watch"),
		rule("", "nodes", "create get list watch update patch"),
		rule("", "nodes/status", "update patch"),
		rule(" events.k8s.io", "events", "create update patch"),
		rule("", "pods", "get list watch create delete"),
		rule("", "pods/status", "update patch"),
		rule("", "pods/eviction", "create"),
		rule("", "secrets configmaps", "get list watch"),
		rule("", "persistentvolumeclaims persistentvolumes", "get"),
		rule("", "persistentvolumeclaims/status", "get update patch"),
		rule("", "serviceaccounts", "get"),
		rule("", "serviceaccounts/token", "create"),
		rule(certificatesv1.GroupName, "certificatesigningrequests", "create get list watch"),
		rule(certificatesv1.GroupName, "clustertrustbundles", "get list watch"),
		rule(certificatesv1.GroupName, "podcertificaterequests", "get list watch create"),
		rule(coordinationv1.GroupName, "leases", "get create update patch delete"),
		rule(storagev1.GroupName, "volumeattachments", "get"),
		rule(storagev1.GroupName, "csidrivers", "get watch list"),
		rule(storagev1.GroupName, "csinodes", "get create update patch delete"),
		rule("node.k8s.io", "runtimeclasses", "get list watch"),
		rule(resourcev1.GroupName, "resourceclaims", "get"),
		rule(resourcev1.GroupName, "resourceslices", "deletecollection"),
	}
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
		if selects(at, "spec.nodeName", node) {
			return true, ""
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

func statusUpdate(node string, at authorizer.Attributes, ok func() bool) (bool, string) {
	switch {
	case at.GetVerb() != "update" && at.GetVerb() != "patch":
		return false, "can only get/update/patch this type"
	case at.GetName() == "":
		return false, "No Object name found"
	case ok():
		return true, ""
	}
	return false, unrelated(node)
}

// csiNodeAllowed: its own, which has its name.
func csiNodeAllowed(node string, at authorizer.Attributes) (bool, string) {
	switch verb := at.GetVerb(); {
	case at.GetSubresource() != "":
		return false, "cannot authorize CSINode subresources"
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, verb):
		return false, "can only get, create, update, patch, or delete a CSINode"
	case at.GetName() != node && verb != "create": // then NodeRestriction sees the name
		return false, "can only access CSINode with the same name as the requesting node"
	}
	return true, ""
}

// sliceAllowed: those that say that they are the node's.
func (n *Node) sliceAllowed(node string, at authorizer.Attributes) (bool, string) {
	if at.GetSubresource() != "" {
		return false, "cannot authorize ResourceSlice subresources"
	}
	switch at.GetVerb() {
	case "create": // NodeRestriction sees whose it is
		return true, ""
	case "get", "update", "patch", "delete":
		if at.GetName() == "" {
			return false, "No Object name found"
		}
		if s := now[*resourcev1.ResourceSlice](n.view, kinds.ResourceSlice, at); s != nil && s.Spec.NodeName != nil && *s.Spec.NodeName == node {
			return true, ""
		}
		return false, unrelated(node)
	case "watch", "list", "deletecollection":
		return selects(at, resourcev1.ResourceSliceSelectorNodeName, node), "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return false, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
}

// certificateAllowed: what is asked for the node's own pods.
func (n *Node) certificateAllowed(node string, at authorizer.Attributes) (bool, string) {
	if at.GetSubresource() != "" {
		return false, "nodes may not access the status subresource of PodCertificateRequests"
	}
	switch at.GetVerb() {
	case "create": // NodeRestriction sees for which pod
		return true, ""
	case "get":
		if at.GetName() == "" {
			return false, "No Object name found"
		}
		for _, k := range n.view.Kinds() {
			if k.GroupResource() != certificateAsked {
				continue
			}
			if r := now[*certificatesv1.PodCertificateRequest](n.view, k, at); r != nil && string(r.Spec.NodeName) == node {
				return true, ""
			}
		}
		return false, unrelated(node)
	case "list", "watch":
		return selects(at, "spec.nodeName", node), "can only list/watch podcertificaterequests with nodeName field selector"
	}
	return false, fmt.Sprintf("nodes may not %s podcertificaterequests", at.GetVerb())
}

// selects: the request asks for nothing but what has this value in the field.
func selects(at authorizer.Attributes, field, value string) bool {
	requirements, err := at.GetFieldSelector()
	return err == nil && slices.ContainsFunc(requirements, func(r fields.Requirement) bool {
		return r.Field == field && r.Value == value && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals)
	})
}

// tokenAllowed: tokens for the accounts that its pods run as.
func tokenAllowed(v *view.View, node string, at authorizer.Attributes) (bool, string) {
	switch {
	case at.GetVerb() != "create" || at.GetName() == "":
		return false, "can only create tokens for individual service accounts"
	case at.GetSubresource() != "token":
		return false, "can only create token subresource of serviceaccount"
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

// claims: a pod on the node has the devices of that claim.
func claims(s *view.Snapshot, node, namespace, name string) bool {
	for p := range pods(s, node) {
		if p.Namespace != namespace {
			continue
		}
		for claim := range podrefs.ResourceClaims(p) {
			if claim == name {
				return true
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

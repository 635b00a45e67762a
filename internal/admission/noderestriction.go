package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// nodeRestriction limits what a kubelet writes to its own node and the pods on
// it, whatever the authorizer lets through.
type nodeRestriction struct{ view *view.View }

func (nodeRestriction) Name() string { return "NodeRestriction" }

func (nodeRestriction) Mutate(context.Context, *Request) error { return nil }

func (p nodeRestriction) Validate(_ context.Context, r *Request) error {
	if r.Operation == Connect || !slices.Contains(r.User.GetGroups(), user.NodesGroup) {
		return nil
	}
	node, ok := strings.CutPrefix(r.User.GetName(), "system:node:")
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(r.Ref.Kind.GroupResource(), r.Ref.Name, fmt.Errorf(format, args...))
	}
	if !ok || node == "" {
		return refuse("could not determine node from user %q", r.User.GetName())
	}
	var why string
	switch r.Ref.Kind {
	case kinds.Pod:
		why = p.pod(r, node)
	case kinds.Node:
		why = p.node(r, node)
	case kinds.Lease:
		why = lease(r, node)
	case kinds.ServiceAccount:
		why = p.token(r, node)
	case kinds.PersistentVolumeClaim, kinds.CertificateSigningRequest, kinds.Event, kinds.EventsEvent:
	}
	if why != "" {
		return refuse("%s", why)
	}
	return nil
}

// pod: status of its own pods, their deletion and eviction, mirror pods.
func (p nodeRestriction) pod(r *Request, node string) string {
	switch {
	case r.Operation == Create && r.Ref.Sub == "":
		return mirrorPod(r, node)
	case r.Operation == Create && r.Ref.Sub == "eviction":
		e, ok := r.Object.(*policyv1.Eviction)
		if !ok {
			return "unexpected body of an eviction"
		}
		name := r.Ref.Name
		if e.Name != "" {
			name = e.Name
		}
		pod := view.Get[*corev1.Pod](p.view.Snapshot(), kinds.Pod, r.Ref.Namespace, name)
		if pod == nil || pod.Spec.NodeName != node {
			return fmt.Sprintf("node %q can only evict pods with spec.nodeName set to itself", node)
		}
		return ""
	case r.Operation == Delete:
		if pod, ok := r.Old.(*corev1.Pod); !ok || pod.Spec.NodeName != node {
			return fmt.Sprintf("node %q can only delete pods with spec.nodeName set to itself", node)
		}
		return ""
	case r.Operation == Update && r.Ref.Sub == "status":
		old, ok := r.Old.(*corev1.Pod)
		obj, ok2 := r.Object.(*corev1.Pod)
		if !ok || !ok2 || old.Spec.NodeName != node {
			return fmt.Sprintf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
		}
		if !maps.Equal(old.Labels, obj.Labels) {
			return fmt.Sprintf("node %q cannot update labels through pod status", node)
		}
		if !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, obj.Status.ResourceClaimStatuses) {
			return fmt.Sprintf("node %q cannot update resource claim statuses", node)
		}
		return ""
	}
	return fmt.Sprintf("unexpected operation %q on %s by node %q", r.Operation, r.Ref, node)
}

// mirrorPod shows a static pod; it may refer to nothing in the API
// (CVE-2023-2727, CVE-2025-4563).
func mirrorPod(r *Request, node string) string {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok {
		return "unexpected body of a pod"
	}
	switch {
	case pod.Annotations[corev1.MirrorPodAnnotationKey] == "":
		return fmt.Sprintf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	case pod.Spec.NodeName != node:
		return fmt.Sprintf("node %q can only create pods with spec.nodeName set to itself", node)
	case pod.Spec.ServiceAccountName != "":
		return fmt.Sprintf("node %q can not create pods that reference a service account", node)
	case len(pod.Spec.ResourceClaims) > 0:
		return fmt.Sprintf("node %q can not create pods that reference resource claims", node)
	}
	if len(pod.OwnerReferences) != 1 || pod.OwnerReferences[0].Kind != "Node" || pod.OwnerReferences[0].Name != node ||
		pod.OwnerReferences[0].Controller == nil || !*pod.OwnerReferences[0].Controller {
		return fmt.Sprintf("node %q can only create pods with an owner reference set to itself", node)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil || v.ConfigMap != nil || v.Projected != nil || v.PersistentVolumeClaim != nil {
			return fmt.Sprintf("node %q can not create pods that reference API objects", node)
		}
	}
	if len(pod.Spec.ImagePullSecrets) > 0 || len(pod.Spec.EphemeralContainers) > 0 {
		return fmt.Sprintf("node %q can not create pods that reference API objects", node)
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, f := range c.EnvFrom {
			if f.SecretRef != nil || f.ConfigMapRef != nil {
				return fmt.Sprintf("node %q can not create pods that reference API objects", node)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && (e.ValueFrom.SecretKeyRef != nil || e.ValueFrom.ConfigMapKeyRef != nil) {
				return fmt.Sprintf("node %q can not create pods that reference API objects", node)
			}
		}
	}
	return ""
}

// node: only its own object, without what would move pods or rights.
func (p nodeRestriction) node(r *Request, name string) string {
	if r.Ref.Name != name {
		return fmt.Sprintf("node %q is not allowed to modify node %q", name, r.Ref.Name)
	}
	if r.Operation == Delete {
		return ""
	}
	obj, ok := r.Object.(*corev1.Node)
	if !ok {
		return "unexpected body of a node"
	}
	if obj.Spec.ConfigSource != nil {
		return fmt.Sprintf("node %q is not allowed to use a config source", name)
	}
	if r.Operation == Create {
		if len(obj.OwnerReferences) > 0 { // CVE-2025-5187
			return fmt.Sprintf("node %q is not allowed to create pods or nodes with owner references", name)
		}
		return forbiddenLabels(name, nil, obj.Labels)
	}
	old, ok := r.Old.(*corev1.Node) // the true old object, CVE-2021-25735
	if !ok {
		return "unexpected stored object of a node"
	}
	if !equality.Semantic.DeepEqual(old.OwnerReferences, obj.OwnerReferences) {
		return fmt.Sprintf("node %q is not allowed to modify ownerReferences", name)
	}
	if !equality.Semantic.DeepEqual(old.Spec.Taints, obj.Spec.Taints) {
		return fmt.Sprintf("node %q is not allowed to modify taints", name)
	}
	return forbiddenLabels(name, old.Labels, obj.Labels)
}

// labels that a kubelet may set on its node, besides those of no kubernetes.io.
var kubeletLabels = []string{
	corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

func forbiddenLabels(node string, old, now map[string]string) string {
	var bad []string
	for _, m := range []map[string]string{old, now} {
		for k := range m {
			if a, ok := old[k]; ok {
				if b, ok := now[k]; ok && a == b {
					continue
				}
			}
			if !labelAllowed(k) && !slices.Contains(bad, k) {
				bad = append(bad, k)
			}
		}
	}
	if len(bad) == 0 {
		return ""
	}
	slices.Sort(bad)
	return fmt.Sprintf("is not allowed to modify labels: %s", strings.Join(bad, ", "))
}

func labelAllowed(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	in := func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }
	if in("node-restriction.kubernetes.io") {
		return false
	}
	if !in("kubernetes.io") && !in("k8s.io") {
		return true
	}
	return slices.Contains(kubeletLabels, key) || in("kubelet.kubernetes.io") || in("node.kubernetes.io")
}

func lease(r *Request, node string) string {
	if r.Ref.Namespace != corev1.NamespaceNodeLease {
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	name := r.Ref.Name
	if l, ok := r.Object.(*coordinationv1.Lease); ok && l.Name != "" {
		name = l.Name
	}
	if name != node {
		return "can only access node lease with the same name as the requesting node"
	}
	return ""
}

// token: only for pods that run here, and bound to them.
func (p nodeRestriction) token(r *Request, node string) string {
	if r.Ref.Sub != "token" || r.Operation != Create {
		return fmt.Sprintf("node %q may only request tokens", node)
	}
	req, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return "unexpected body of a token request"
	}
	ref := req.Spec.BoundObjectRef
	switch {
	case ref == nil:
		return "node requested token not bound to a pod"
	case ref.Kind != "Pod" || ref.APIVersion != "v1":
		return "node requested token not bound to a pod"
	case ref.UID == "":
		return "node requested token with a pod binding without a uid"
	}
	pod := view.Get[*corev1.Pod](p.view.Snapshot(), kinds.Pod, r.Ref.Namespace, ref.Name)
	switch {
	case pod == nil:
		return fmt.Sprintf("pod %q not found", ref.Name)
	case pod.UID != ref.UID:
		return fmt.Sprintf("the UID in the bound object reference (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", ref.UID, pod.UID)
	case pod.Spec.NodeName != node:
		return "node requested token bound to a pod scheduled on a different node"
	}
	return ""
}

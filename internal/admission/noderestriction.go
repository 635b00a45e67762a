package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/kinds"
)

// nodeRestriction limits what a kubelet writes to its own node and the pods on
// it, whatever the authorizer lets through.
type nodeRestriction struct{ c *Config }

func (nodeRestriction) Name() string { return "NodeRestriction" }

func (nodeRestriction) Mutate(context.Context, *Request) error { return nil }

// Validate judges the object as it will be stored, against the one that is
// stored (CVE-2021-25735).
func (p nodeRestriction) Validate(ctx context.Context, r *Request) error {
	if r.Operation == Connect || !slices.Contains(r.User.GetGroups(), user.NodesGroup) {
		return nil
	}
	node, ok := authz.NodeOf(r.User)
	if !ok {
		return forbid(r, fmt.Errorf("could not determine node from user %q", r.User.GetName()))
	}
	var why string
	var err error
	switch r.Ref.Kind {
	case kinds.Pod:
		why, err = p.pod(ctx, r, node)
	case kinds.Node:
		why = nodeObject(r, node)
	case kinds.Lease:
		why = lease(r, node)
	case kinds.ServiceAccount:
		why, err = p.token(ctx, r, node)
	case kinds.CertificateSigningRequest:
		why = nodeRequest(r, node)
	case kinds.ResourceSlice:
		why = slice(r, node)
	case kinds.PodCertificateRequest:
		why, err = p.podCertificate(ctx, r, node)
	}
	if err != nil {
		return err
	}
	if why != "" {
		return forbid(r, fmt.Errorf("%s", why))
	}
	return nil
}

// nodeObject: only its own, without what would move pods or rights.
func nodeObject(r *Request, name string) string {
	if r.Ref.Name != name {
		return fmt.Sprintf("node %q is not allowed to modify node %q", name, r.Ref.Name)
	}
	if r.Operation == Delete {
		return ""
	}
	obj, ok := r.Object.(*corev1.Node)
	if !ok {
		return fmt.Sprintf("unexpected type %T", r.Object)
	}
	if r.Operation == Create {
		switch bad := forbiddenLabels(nil, obj.Labels); {
		case obj.Spec.ConfigSource != nil:
			return fmt.Sprintf("node %q is not allowed to create pods with a non-nil configSource", name)
		case len(obj.OwnerReferences) > 0:
			// An owner that does not exist would have the node collected, and
			// come back without its taints and labels (CVE-2025-5187).
			return fmt.Sprintf("node %q is not allowed to set ownerReferences on itself", name)
		case bad != "":
			return fmt.Sprintf("node %q is not allowed to set the following labels: %s", name, bad)
		}
		return ""
	}
	old, ok := r.Old.(*corev1.Node)
	if !ok {
		return fmt.Sprintf("unexpected type %T", r.Old)
	}
	switch bad := forbiddenLabels(old.Labels, obj.Labels); {
	case obj.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(old.Spec.ConfigSource, obj.Spec.ConfigSource):
		return fmt.Sprintf("node %q is not allowed to update configSource to a new non-nil configSource", name)
	case !equality.Semantic.DeepEqual(old.Spec.Taints, obj.Spec.Taints):
		return fmt.Sprintf("node %q is not allowed to modify taints", name)
	case !equality.Semantic.DeepEqual(old.OwnerReferences, obj.OwnerReferences):
		return fmt.Sprintf("node %q is not allowed to modify ownerReferences", name)
	case bad != "":
		return fmt.Sprintf("is not allowed to modify labels: %s", bad)
	}
	return ""
}

// kubeletLabels are those of kubernetes.io and k8s.io that a kubelet may set on
// its node.
var kubeletLabels = []string{
	corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// forbiddenLabels are those that differ and are not the kubelet's to set.
func forbiddenLabels(old, now map[string]string) string {
	var bad []string
	for k, v := range now {
		if was, ok := old[k]; (!ok || was != v) && !labelAllowed(k) {
			bad = append(bad, k)
		}
	}
	for k := range old {
		if _, ok := now[k]; !ok && !labelAllowed(k) {
			bad = append(bad, k)
		}
	}
	slices.Sort(bad)
	return strings.Join(bad, ", ")
}

func labelAllowed(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	in := func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }
	if in(corev1.LabelNamespaceNodeRestriction) {
		return false
	}
	if !in("kubernetes.io") && !in("k8s.io") {
		return true
	}
	return slices.Contains(kubeletLabels, key) || in(corev1.LabelNamespaceSuffixKubelet) || in(corev1.LabelNamespaceSuffixNode)
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

// slice: what is created or deleted, each of many too, is the node's. Of all
// else the authorizer sees it.
func slice(r *Request, node string) string {
	var o runtime.Object
	verb := "create"
	switch r.Operation {
	case Create:
		o = r.Object
	case Delete:
		o, verb = r.Old, "delete"
	default:
		return ""
	}
	s, ok := o.(*resourcev1.ResourceSlice)
	if !ok {
		return fmt.Sprintf("unexpected type %T", o)
	}
	if s.Spec.NodeName == nil || *s.Spec.NodeName != node {
		return fmt.Sprintf("can only %s ResourceSlice with the same NodeName as the requesting node", verb)
	}
	return ""
}

// token: only for pods that run here, bound to them, and for readers that the
// pod names.
func (p nodeRestriction) token(ctx context.Context, r *Request, node string) (string, error) {
	if r.Ref.Sub != "token" || r.Operation != Create {
		return fmt.Sprintf("unexpected operation %q on %s", r.Operation, r.Ref), nil
	}
	req, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return fmt.Sprintf("unexpected type %T", r.Object), nil
	}
	ref := req.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return "node requested token not bound to a pod", nil
	case ref.UID == "":
		return "node requested token with a pod binding without a uid", nil
	}
	pod, err := find[*corev1.Pod](ctx, p.c, kinds.Pod, r.Ref.Namespace, ref.Name)
	if err != nil {
		return "", err
	}
	switch {
	case pod == nil:
		return "", apierrors.NewNotFound(kinds.Pod.GroupResource(), ref.Name)
	case ref.UID != pod.UID:
		return "", apierrors.NewConflict(kinds.Pod.GroupResource(), ref.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", ref.UID, pod.UID))
	case pod.Spec.NodeName != node:
		return "node requested token bound to a pod scheduled on a different node", nil
	}
	if pod.Spec.ServiceAccountName != r.Ref.Name {
		return "node requested token for a service account that the pod does not run as", nil
	}
	for _, a := range req.Spec.Audiences {
		if !names(pod, a) {
			return fmt.Sprintf("audience %q not found in pod spec volume", a), nil
		}
	}
	return "", nil
}

// names reports whether a projected volume of the pod is a token for the
// audience.
func names(pod *corev1.Pod, audience string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
				return true
			}
		}
	}
	return false
}

// nodeRequest: a request for a node's certificate is for the node that asks.
func nodeRequest(r *Request, node string) string {
	csr, ok := r.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || r.Operation != Create {
		return ""
	}
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return ""
	}
	req, err := parseRequest(csr.Spec.Request)
	if err != nil {
		return fmt.Sprintf("unable to parse csr: %v", err)
	}
	if strings.HasPrefix(req.Subject.CommonName, authz.NodeUserPrefix) && req.Subject.CommonName != authz.NodeUserPrefix+node {
		return fmt.Sprintf("can only create a node CSR with CN=%q", authz.NodeUserPrefix+node)
	}
	return ""
}

// parseRequest reads a certificate signing request in PEM.
func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errNotRequest
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

package admission

import (
	"context"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
)

// podCertificate: a node asks for certificates of pods that run on it, for
// what they are and for signers that they name. What may be a view that lags
// is an error that is worth another try, as upstream has it.
func (p nodeRestriction) podCertificate(ctx context.Context, r *Request, node string) (why string, err error) {
	if r.Operation != Create {
		return fmt.Sprintf("unexpected operation %v", r.Operation), nil
	}
	if r.Ref.Sub != "" {
		return fmt.Sprintf("unexpected subresource %v", r.Ref.Sub), nil
	}
	req, ok := r.Object.(*certificatesv1.PodCertificateRequest)
	if !ok {
		return fmt.Sprintf("unexpected type %T", r.Object), nil
	}
	s, ns := &req.Spec, r.Ref.Namespace
	if string(s.NodeName) != node {
		return fmt.Sprintf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", s.NodeName, node), nil
	}
	n, err := find[*corev1.Node](ctx, p.c, kinds.Node, "", node)
	switch {
	case err != nil:
		return "", err
	case n == nil:
		return "", fmt.Errorf("while retrieving node %q named in the PodCertificateRequest: nodes %q not found", node, node)
	case n.UID != s.NodeUID:
		return "", fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node (%q)", ns+"/"+s.PodName, s.NodeUID, n.UID)
	}
	pod, err := find[*corev1.Pod](ctx, p.c, kinds.Pod, ns, s.PodName)
	switch name := ns + "/" + s.PodName; {
	case err != nil:
		return "", err
	case pod == nil:
		return "", fmt.Errorf("while retrieving pod %q named in the PodCertificateRequest: pods %q not found", name, s.PodName)
	case pod.UID != s.PodUID:
		return "", fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", name, s.PodUID, pod.UID)
	case pod.Spec.NodeName != node:
		return fmt.Sprintf("pod %q is not running on node %q named in the PodCertificateRequest", name, node), nil
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return fmt.Sprintf("pod %q is a mirror pod", name), nil
	case pod.Spec.ServiceAccountName != s.ServiceAccountName:
		return fmt.Sprintf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", name, s.ServiceAccountName, pod.Spec.ServiceAccountName), nil
	}
	sa, err := find[*corev1.ServiceAccount](ctx, p.c, kinds.ServiceAccount, ns, s.ServiceAccountName)
	switch {
	case err != nil:
		return "", err
	case sa == nil:
		return "", fmt.Errorf("while retrieving service account %q named in the PodCertificateRequest: serviceaccounts %q not found", ns+"/"+s.ServiceAccountName, s.ServiceAccountName)
	case sa.UID != s.ServiceAccountUID:
		return "", fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account (%q)", ns+"/"+s.PodName, s.ServiceAccountUID, sa.UID)
	}
	if certifiedBy(pod, s.SignerName) || may(ctx, p.c.Authz, r.User, request{
		verb: "request-serviceaccounts-podcertificate-signer", group: certificatesv1.GroupName,
		resource: strings.ReplaceAll(s.SignerName, "/", ":"), namespace: ns, name: s.ServiceAccountName,
	}) {
		return "", nil
	}
	return fmt.Sprintf("pod %q does not mount a podCertificate projected volume for signer %q", ns+"/"+s.PodName, s.SignerName), nil
}

// certifiedBy: a volume of the pod names the signer.
func certifiedBy(pod *corev1.Pod, signer string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.PodCertificate != nil && s.PodCertificate.SignerName == signer {
				return true
			}
		}
	}
	return false
}

// Package csr approves and signs the certificates that nodes ask for, signs
// what administrators have approved, and removes old requests.
package csr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	nodesGroup   = "system:nodes"
	nodePrefix   = "system:node:"
	mastersGroup = "system:masters"

	// Requests are kept this long after their decision, and without one.
	// Upstream's figures.
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
	// patience with a serving request whose addresses the node does not have
	// yet: a kubelet may ask before its first status is written.
	patience = 5 * time.Minute
	// again is when a request that may not be approved yet is looked at again:
	// nothing tells when permissions change.
	again = time.Minute
	// minTTL is the least that the API lets a request ask for.
	minTTL = 10 * time.Minute
)

// Request is what a CSR asks to be certified, read from its PKCS #10 form.
type Request struct {
	CommonName    string
	Organizations []string
	OtherSubject  bool // any other part of a subject
	DNSNames      []string
	IPs           []netip.Addr
	Others        int // SANs of any other sort
}

// Observed is what the fate of a request depends on.
type Observed struct {
	CSR     *certificatesv1.CertificateSigningRequest
	Request *Request // nil: Broken says why
	Broken  string
	// Node is the one that the request is for; nil: none.
	Node *corev1.Node
	// Allowed asks whether the requester may create the subresource of
	// certificatesigningrequests, which stands for approval unseen.
	Allowed func(subresource string) bool
	// Expires is when the certificate that was issued ends; zero: there is none.
	Expires time.Time
	Now     time.Time
	MaxTTL  time.Duration
}

// Issue asks for a certificate; TTL is how long it shall be valid.
type Issue struct {
	TTL time.Duration
}

// Plan decides; the second result is set when the request is to be signed.
func Plan(o Observed) (plan.Result, *Issue) {
	if o.CSR.DeletionTimestamp != nil {
		return plan.Result{}, nil
	}
	left := lifetime(o)
	if left <= 0 {
		return plan.Result{Actions: []plan.Action{{
			Verb: plan.Delete, Ref: kinds.RefTo(kinds.CertificateSigningRequest, o.CSR), UID: o.CSR.UID,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		}}}, nil
	}
	switch {
	case !known(o.CSR.Spec.SignerName), len(o.CSR.Status.Certificate) > 0, has(o.CSR, certificatesv1.CertificateDenied), has(o.CSR, certificatesv1.CertificateFailed):
		return plan.Result{After: left}, nil
	case has(o.CSR, certificatesv1.CertificateApproved):
		if why := unfit(o); why != "" {
			return plan.Result{Actions: []plan.Action{decide(o, "status", certificatesv1.CertificateFailed, "SignerValidationFailure", why)}}, nil
		}
		return plan.Result{After: left}, &Issue{ttl(o)}
	}
	res := review(o)
	if len(res.Actions) == 0 && (res.After == 0 || left < res.After) {
		res.After = left
	}
	return res, nil
}

// known are the signers that this controller is.
func known(signer string) bool {
	return signer == certificatesv1.KubeAPIServerClientSignerName || signer == certificatesv1.KubeAPIServerClientKubeletSignerName ||
		signer == certificatesv1.KubeletServingSignerName
}

func has(c *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(x certificatesv1.CertificateSigningRequestCondition) bool {
		return x.Type == t && x.Status != corev1.ConditionFalse
	})
}

// lifetime is how long the request is kept yet.
func lifetime(o Observed) time.Duration {
	decided := time.Time{}
	for _, c := range o.CSR.Status.Conditions {
		at := c.LastUpdateTime
		if at.IsZero() {
			at = o.CSR.CreationTimestamp
		}
		if at.After(decided) {
			decided = at.Time
		}
	}
	// An approved one that is not signed yet is still under way.
	underWay := has(o.CSR, certificatesv1.CertificateApproved) && len(o.CSR.Status.Certificate) == 0 &&
		!has(o.CSR, certificatesv1.CertificateFailed) && !has(o.CSR, certificatesv1.CertificateDenied)
	if decided.IsZero() || underWay {
		return o.CSR.CreationTimestamp.Add(keepPending).Sub(o.Now)
	}
	left := decided.Add(keepDecided).Sub(o.Now)
	if !o.Expires.IsZero() {
		left = min(left, o.Expires.Sub(o.Now))
	}
	return left
}

// ttl is what the request asks for, within bounds.
func ttl(o Observed) time.Duration {
	s := o.CSR.Spec.ExpirationSeconds
	if s == nil {
		return o.MaxTTL
	}
	return min(max(time.Duration(*s)*time.Second, minTTL), o.MaxTTL)
}

// review decides about a request that nobody has decided about. Requests of
// kube-apiserver-client are for administrators.
func review(o Observed) plan.Result {
	switch o.CSR.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return reviewClient(o)
	case certificatesv1.KubeletServingSignerName:
		return reviewServing(o)
	}
	return plan.Result{}
}

func reviewClient(o Observed) plan.Result {
	if why := unfit(o); why != "" {
		return deny(o, why)
	}
	sub, why := "nodeclient", "the requester may have node client certificates"
	if o.CSR.Spec.Username == o.Request.CommonName {
		sub, why = "selfnodeclient", "the node renews its own client certificate"
	}
	if !o.Allowed(sub) {
		return plan.Result{After: again}
	}
	if sub == "nodeclient" && ready(o.Node) {
		// Whoever may join may not become a node that others already are.
		return deny(o, fmt.Sprintf("node %s is there and ready: choose another name with --node-name, or delete that node first", o.Node.Name))
	}
	return approve(o, why)
}

func ready(n *corev1.Node) bool {
	return n != nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// reviewServing approves certificates for a node's own addresses only: with
// any other it could pose as somebody else to the API server.
func reviewServing(o Observed) plan.Result {
	if why := unfit(o); why != "" {
		return deny(o, why)
	}
	if o.CSR.Spec.Username != o.Request.CommonName || !slices.Contains(o.CSR.Spec.Groups, nodesGroup) {
		return deny(o, "only the node itself may ask for its serving certificate")
	}
	foreign := foreignName(o)
	if foreign == "" {
		return approve(o, "the node asks for its own addresses")
	}
	age := o.Now.Sub(o.CSR.CreationTimestamp.Time)
	if age < patience {
		return plan.Result{After: patience - age}
	}
	return deny(o, fmt.Sprintf("%q is not among the addresses of node %s", foreign, strings.TrimPrefix(o.Request.CommonName, nodePrefix)))
}

// foreignName is a name or address in the request that the node does not have.
func foreignName(o Observed) string {
	var names []string
	var ips []netip.Addr
	if o.Node != nil {
		for _, a := range o.Node.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				ips = append(ips, ip.Unmap())
			} else {
				names = append(names, strings.ToLower(a.Address))
			}
		}
	}
	for _, n := range o.Request.DNSNames {
		if !slices.Contains(names, strings.ToLower(n)) {
			return n
		}
	}
	for _, ip := range o.Request.IPs {
		if !slices.Contains(ips, ip.Unmap()) {
			return ip.String()
		}
	}
	return ""
}

// unfit says why the signer may not sign the request, whoever approved it.
func unfit(o Observed) string {
	if o.Request == nil {
		return o.Broken
	}
	r, client := o.Request, o.CSR.Spec.SignerName != certificatesv1.KubeletServingSignerName
	purpose := certificatesv1.UsageServerAuth
	if client {
		purpose = certificatesv1.UsageClientAuth
	}
	if why := badUsages(o.CSR.Spec.Usages, purpose); why != "" {
		return why
	}
	if o.CSR.Spec.SignerName == certificatesv1.KubeAPIServerClientSignerName {
		if slices.Contains(r.Organizations, mastersGroup) {
			return "no certificate is signed for group " + mastersGroup
		}
		return ""
	}
	switch {
	case !slices.Equal(r.Organizations, []string{nodesGroup}):
		return "the organization must be " + nodesGroup + " alone"
	case !strings.HasPrefix(r.CommonName, nodePrefix) || r.CommonName == nodePrefix:
		return "the common name must be " + nodePrefix + "<name>"
	case r.OtherSubject:
		return "the subject may hold nothing but a common name and an organization"
	case r.Others > 0:
		return "e-mail and URI names are not allowed"
	case client && len(r.DNSNames)+len(r.IPs) > 0:
		return "DNS names and addresses are not allowed in a client certificate"
	case !client && len(r.DNSNames)+len(r.IPs) == 0:
		return "a serving certificate needs a DNS name or an address"
	}
	return ""
}

func badUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) string {
	if !slices.Contains(usages, purpose) {
		return fmt.Sprintf("the usages must include %q", purpose)
	}
	for _, u := range usages {
		if u != purpose && u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment {
			return fmt.Sprintf("usage %q is not allowed", u)
		}
	}
	return ""
}

func approve(o Observed, why string) plan.Result {
	return plan.Result{Actions: []plan.Action{decide(o, "approval", certificatesv1.CertificateApproved, "AutoApproved", why)}}
}

func deny(o Observed, why string) plan.Result {
	return plan.Result{Actions: []plan.Action{decide(o, "approval", certificatesv1.CertificateDenied, "AutoDenied", why)}}
}

func decide(o Observed, sub string, t certificatesv1.RequestConditionType, reason, why string) plan.Action {
	c := o.CSR.DeepCopy()
	now := metav1.NewTime(o.Now)
	c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: why, LastUpdateTime: now, LastTransitionTime: now,
	})
	return plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.CertificateSigningRequest, c).WithSub(sub), Object: c}
}

// Issued writes the certificate, PEM encoded, into the request.
func Issued(c *certificatesv1.CertificateSigningRequest, certificate []byte) plan.Action {
	c = c.DeepCopy()
	c.Status.Certificate = certificate
	return plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.CertificateSigningRequest, c).WithSub("status"), Object: c}
}

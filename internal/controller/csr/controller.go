package csr

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

var (
	errConfig  = errors.New("csr: an authorizer and a signer are needed")
	errNotPEM  = errors.New("the request is not a PEM block of type CERTIFICATE REQUEST")
	errTrailer = errors.New("the request is followed by other data")
)

// Signer makes certificates. It must be quick: no network, no waiting.
type Signer interface {
	// Sign certifies the subject, the names and the public key of the request,
	// which has been checked, for these usages and from now on for ttl. It
	// returns the certificate PEM encoded.
	Sign(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, ttl time.Duration) ([]byte, error)
}

// Config of the controller.
type Config struct {
	Authorizer authorizer.UnconditionalAuthorizer
	Signer     Signer
	// MaxTTL of a certificate, and what a request gets that asks for nothing.
	// 0: one year.
	MaxTTL time.Duration
}

// Controller approves, signs and removes certificate signing requests.
func Controller(c Config) (reconcile.Controller, error) {
	if c.Authorizer == nil || c.Signer == nil {
		return reconcile.Controller{}, errConfig
	}
	if c.MaxTTL == 0 {
		c.MaxTTL = 365 * 24 * time.Hour
	}
	return reconcile.Controller{
		Name: "certificate-controller", For: kinds.CertificateSigningRequest, Workers: 2,
		Watches: []reconcile.Watch{{Kind: kinds.Node, Keys: nodeKeys}},
		Writes: []reconcile.Write{
			{Kind: kinds.CertificateSigningRequest, Verbs: []plan.Verb{plan.Delete}},
			{Kind: kinds.CertificateSigningRequest, Sub: "approval", Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.CertificateSigningRequest, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: c.plan,
	}, nil
}

func (c Config) plan(in reconcile.Input) plan.Result {
	req := view.Get[*certificatesv1.CertificateSigningRequest](in.View, kinds.CertificateSigningRequest, "", in.Key.Name)
	if req == nil {
		return plan.Result{}
	}
	o := Observed{CSR: req, Now: in.Now, Expires: endOf(req.Status.Certificate), MaxTTL: c.MaxTTL, Allowed: func(sub string) bool { return c.allowed(req, sub) }}
	parsed, err := parse(req.Spec.Request)
	if err != nil {
		o.Broken = err.Error()
	} else {
		o.Request = requestOf(parsed)
		if name, ok := strings.CutPrefix(o.Request.CommonName, nodePrefix); ok && name != "" {
			o.Node = view.Get[*corev1.Node](in.View, kinds.Node, "", name)
		}
	}
	res, issue := Plan(o)
	if issue == nil {
		return res
	}
	certificate, err := c.Signer.Sign(parsed, req.Spec.Usages, issue.TTL)
	if err != nil {
		return plan.Result{After: again, Events: []plan.Event{{
			Regarding: kinds.RefTo(kinds.CertificateSigningRequest, req), UID: req.UID, Type: corev1.EventTypeWarning,
			Reason: "SigningFailed", Message: "cannot sign: " + err.Error(),
		}}}
	}
	return plan.Result{Actions: []plan.Action{Issued(req, certificate)}, After: res.After}
}

// allowed asks as the requester; an error is a no.
func (c Config) allowed(req *certificatesv1.CertificateSigningRequest, sub string) bool {
	extra := make(map[string][]string, len(req.Spec.Extra))
	for k, v := range req.Spec.Extra {
		extra[k] = v
	}
	decision, _, err := c.Authorizer.Authorize(context.Background(), authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: req.Spec.Username, UID: req.Spec.UID, Groups: req.Spec.Groups, Extra: extra},
		Verb: "create", APIGroup: certificatesv1.GroupName, APIVersion: "v1",
		Resource: "certificatesigningrequests", Subresource: sub, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// endOf an issued certificate, the first of the chain; zero: none can be read.
func endOf(chain []byte) time.Time {
	block, _ := pem.Decode(chain)
	if block == nil {
		return time.Time{}
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return c.NotAfter
}

// parse reads the request and checks that the requester has the key.
func parse(data []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errNotPEM
	}
	if len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errTrailer
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return r, r.CheckSignature()
}

func requestOf(r *x509.CertificateRequest) *Request {
	out := &Request{
		CommonName: r.Subject.CommonName, Organizations: slices.Clone(r.Subject.Organization), DNSNames: r.DNSNames,
		Others: len(r.EmailAddresses) + len(r.URIs),
	}
	// One name each: every further attribute, say a second common name, is
	// something that another reader may take for the subject.
	out.OtherSubject = len(r.Subject.Names) != 1+len(r.Subject.Organization)
	for _, ip := range r.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			out.IPs = append(out.IPs, a)
		} else {
			out.Others++
		}
	}
	return out
}

// nodeKeys are the undecided requests of a node whose addresses changed.
func nodeKeys(s *view.Snapshot, c view.Change) []reconcile.Key {
	n, ok := c.New.(*corev1.Node)
	if !ok {
		return nil
	}
	if old, ok := c.Old.(*corev1.Node); ok && apiequality.Semantic.DeepEqual(old.Status.Addresses, n.Status.Addresses) {
		return nil
	}
	var keys []reconcile.Key
	for r := range view.List[*certificatesv1.CertificateSigningRequest](s, kinds.CertificateSigningRequest, "") {
		if r.Spec.Username == nodePrefix+n.Name && len(r.Status.Conditions) == 0 {
			keys = append(keys, reconcile.KeyOf(r))
		}
	}
	return keys
}

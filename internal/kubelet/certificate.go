package kubelet

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	kplan "knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

const (
	// lostAfter is how long a request that cannot be seen is waited for, before
	// another one is made. Upstream's figures, here and below.
	lostAfter = 10 * time.Minute
	// overdueAfter its time to be refreshed users are told.
	overdueAfter = 10 * time.Minute
	// spread keeps nodes from asking all at once.
	spread = 5 * time.Minute
)

var errNoCertificate = errors.New("no certificate yet: its PodCertificateRequest waits for its signer")

// certificateKey is one source of one volume of a pod.
type certificateKey struct {
	pod    types.UID
	volume string
	source int
}

// certificate is what a source shows and what has been asked for. Keys are held
// in memory alone: after a restart of the node agent new ones are made.
type certificate struct {
	mu sync.Mutex

	key, chain []byte // PEM; empty: none yet
	refreshAt  time.Time
	notAfter   time.Time
	over       error // denied or failed, for good

	asked    string // name of the request that is under way
	askedKey []byte
	askedAt  time.Time

	toldOverdue, toldExpired bool
}

// step is what to do next about a certificate.
type step int

const (
	show step = iota // what there is; nothing, if there is none
	ask
	accept // the request has been granted
	refuse // it never will be
	lost   // nobody knows the request any more: ask again
)

// next decides, given the request that is under way as it is seen; nil: it is
// not.
func (c *certificate) next(req *certificatesv1.PodCertificateRequest, now time.Time) step {
	switch {
	case c.over != nil:
		return show
	case c.asked == "":
		if len(c.chain) == 0 || !now.Before(c.refreshAt) {
			return ask
		}
		return show
	case req == nil:
		if now.After(c.askedAt.Add(lostAfter)) {
			return lost
		}
		return show
	}
	for _, cond := range req.Status.Conditions {
		switch cond.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			return accept
		case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			return refuse
		}
	}
	return show
}

// Certificate implements volume.Source. It never waits for a signer: whoever
// called is woken when the request changes.
func (s *source) Certificate(ctx context.Context, pod *corev1.Pod, volume string, index int, p *corev1.PodCertificateProjection) (key, chain []byte, err error) {
	if !s.cfg.View.Has(kinds.PodCertificateRequest) {
		return nil, nil, errNoView
	}
	k := certificateKey{pod.UID, volume, index}
	s.mu.Lock()
	c := s.certificates[k]
	if c == nil {
		c = &certificate{}
		s.certificates[k] = c
	}
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := s.cfg.Now()
	var req *certificatesv1.PodCertificateRequest
	if c.asked != "" {
		req = view.Now[*certificatesv1.PodCertificateRequest](s.cfg.View, kinds.PodCertificateRequest, pod.Namespace, c.asked)
	}
	what := c.next(req, now)
	if what == lost {
		c.asked, what = "", ask
	}
	switch what {
	case accept:
		c.take(req)
	case refuse:
		s.refused(pod, c, req)
	case ask:
		err = s.ask(ctx, pod, c, p, now)
	}
	s.tell(pod, c, now)
	switch {
	case c.over != nil:
		return nil, nil, c.over
	case len(c.chain) > 0: // the old one will do while a new one cannot be had
		return c.key, c.chain, nil
	case err != nil:
		return nil, nil, err
	}
	return nil, nil, errNoCertificate
}

// take makes the certificates of a granted request those that are shown.
func (c *certificate) take(req *certificatesv1.PodCertificateRequest) {
	c.key, c.chain = c.askedKey, onlyCertificates(req.Status.CertificateChain)
	if t := req.Status.NotAfter; t != nil {
		c.notAfter = t.Time
	}
	if t := req.Status.BeginRefreshAt; t != nil {
		c.refreshAt = t.Add(rand.N(spread))
	}
	c.asked, c.askedKey, c.toldOverdue, c.toldExpired = "", nil, false, false
}

// onlyCertificates leaves out whatever stands between the blocks.
func onlyCertificates(chain string) []byte {
	var out bytes.Buffer
	rest := []byte(chain)
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return out.Bytes()
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Bytes}))
	}
}

// refused: the pod never gets the certificate, and is told why.
func (s *source) refused(pod *corev1.Pod, c *certificate, req *certificatesv1.PodCertificateRequest) {
	for _, cond := range req.Status.Conditions {
		how, words := "", ""
		switch cond.Type {
		case certificatesv1.PodCertificateRequestConditionTypeDenied:
			how, words = "denied", "was denied"
		case certificatesv1.PodCertificateRequestConditionTypeFailed:
			how, words = "failed", "failed"
		default:
			continue
		}
		c.over = fmt.Errorf("PodCertificateRequest was permanently %s: reason=%q message=%q", how, cond.Reason, cond.Message)
		s.emit(pod, cond.Type, fmt.Sprintf("PodCertificateRequest %s %s, reason=%q, message=%q", req.Namespace+"/"+req.Name, words, cond.Reason, cond.Message))
		return
	}
}

func (s *source) emit(pod *corev1.Pod, reason, message string) {
	s.cfg.Events.Emit(kplan.Event{Regarding: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, Type: corev1.EventTypeWarning, Reason: reason, Message: message})
}

// tell says once that a certificate is late, and that it has ended.
func (s *source) tell(pod *corev1.Pod, c *certificate, now time.Time) {
	if len(c.chain) == 0 || c.over != nil {
		return
	}
	if !c.toldOverdue && now.After(c.refreshAt.Add(overdueAfter)) {
		c.toldOverdue = true
		s.emit(pod, "CertificateOverdueForRefresh", "PodCertificate refresh overdue")
	}
	if !c.toldExpired && now.After(c.notAfter) {
		c.toldExpired = true
		s.emit(pod, "CertificateExpired", "PodCertificate expired")
	}
}

// ask makes a key and a request for it.
func (s *source) ask(ctx context.Context, pod *corev1.Pod, c *certificate, p *corev1.PodCertificateProjection, now time.Time) error {
	got, err := s.cfg.Client.Get(ctx, kinds.Ref{Kind: kinds.ServiceAccount, Namespace: pod.Namespace, Name: pod.Spec.ServiceAccountName})
	if err != nil {
		return fmt.Errorf("while fetching service account: %w", err)
	}
	account, ok := got.(*corev1.ServiceAccount)
	node := view.Now[*corev1.Node](s.cfg.View, kinds.Node, "", s.cfg.NodeName)
	if !ok || node == nil {
		return errors.New("while fetching service account and node: not found")
	}
	key, stub, err := newCertificateKey(p.KeyType)
	if err != nil {
		return fmt.Errorf("while generating keypair: %w", err)
	}
	out, err := s.cfg.Client.Create(ctx, kinds.Ref{Kind: kinds.PodCertificateRequest, Namespace: pod.Namespace}, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "req-", Namespace: pod.Namespace,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: p.SignerName, PodName: pod.Name, PodUID: pod.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID, NodeName: types.NodeName(node.Name), NodeUID: node.UID,
			MaxExpirationSeconds: p.MaxExpirationSeconds, StubPKCS10Request: stub, UnverifiedUserAnnotations: p.UserAnnotations,
		},
	})
	if err != nil {
		return fmt.Errorf("while creating PodCertificateRequest: %w", err)
	}
	req, ok := out.(*certificatesv1.PodCertificateRequest)
	if !ok {
		return fmt.Errorf("while creating PodCertificateRequest: the answer is a %T", out)
	}
	c.asked, c.askedKey, c.askedAt = req.Name, key, now.Add(rand.N(spread))
	return nil
}

// newCertificateKey is a private key, PEM encoded, and an empty request that it
// has signed, which proves that whoever sends it has the key.
func newCertificateKey(keyType string) (key, stub []byte, err error) {
	var k crypto.Signer
	switch keyType {
	case "RSA3072":
		k, err = rsa.GenerateKey(cryptorand.Reader, 3072)
	case "RSA4096":
		k, err = rsa.GenerateKey(cryptorand.Reader, 4096)
	case "ECDSAP256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	case "ECDSAP384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), cryptorand.Reader)
	case "ECDSAP521":
		k, err = ecdsa.GenerateKey(elliptic.P521(), cryptorand.Reader)
	case "ED25519":
		_, k, err = ed25519.GenerateKey(cryptorand.Reader)
	default:
		err = fmt.Errorf("unknown key type %q", keyType)
	}
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	if stub, err = x509.CreateCertificateRequest(cryptorand.Reader, &x509.CertificateRequest{}, k); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), stub, nil
}

// forget what a pod had that is gone.
func (s *source) forget(pod types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.certificates {
		if k.pod == pod {
			delete(s.certificates, k)
		}
	}
}

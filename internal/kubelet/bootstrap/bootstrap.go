// Package bootstrap obtains a node's certificates from the cluster, by signing
// requests, and renews them while the node runs.
package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/pki"
)

const (
	nodeUser  = "system:node:"
	nodeGroup = "system:nodes"

	pollEvery = 100 * time.Millisecond
	// retryEvery is how long a renewal that failed waits.
	retryEvery = time.Minute
)

var errNone = errors.New("bootstrap: there is no certificate yet")

// Config of a Store.
type Config struct {
	Dir      string // client.pem and serving.pem, certificate and key in one, mode 0600
	NodeName string
	IPs      []net.IP
	Log      *slog.Logger
	Now      func() time.Time // optional: time.Now
}

// Store holds the two certificates of a node.
type Store struct {
	cfg     Config
	client  pair
	serving pair
}

// pair is one certificate with its key, in memory and in a file.
type pair struct {
	file   string
	signer string
	usage  certificatesv1.KeyUsage

	mu   sync.Mutex
	cert *tls.Certificate
}

// New reads what is on disk; certificates that have expired or do not belong to
// the node are left for the next request to replace.
func New(cfg Config) (*Store, error) {
	if cfg.Dir == "" || cfg.NodeName == "" {
		return nil, errors.New("bootstrap: a directory and a node name are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg,
		client:  pair{file: filepath.Join(cfg.Dir, "client.pem"), signer: certificatesv1.KubeAPIServerClientKubeletSignerName, usage: certificatesv1.UsageClientAuth},
		serving: pair{file: filepath.Join(cfg.Dir, "serving.pem"), signer: certificatesv1.KubeletServingSignerName, usage: certificatesv1.UsageServerAuth},
	}
	for _, p := range []*pair{&s.client, &s.serving} {
		if err := s.load(p); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// load takes a stored certificate if it is of use.
func (s *Store) load(p *pair) error {
	data, err := os.ReadFile(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return fmt.Errorf("%s is broken; remove it and join again: %w", p.file, err)
	}
	if s.cfg.Now().Before(cert.Leaf.NotAfter) && s.fits(p, cert.Leaf) {
		p.set(&cert)
	}
	return nil
}

// fits: the certificate names this node, and its present addresses.
func (s *Store) fits(p *pair, leaf *x509.Certificate) bool {
	if leaf.Subject.CommonName != nodeUser+s.cfg.NodeName {
		return false
	}
	if p != &s.serving {
		return true
	}
	for _, ip := range s.cfg.IPs {
		if leaf.VerifyHostname(ip.String()) != nil {
			return false
		}
	}
	return true
}

func (p *pair) set(c *tls.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cert = c
}

func (p *pair) get() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cert
}

// GetClientCertificate is for the tls.Config of the node's client. Without a
// certificate it sends none, so that a token can speak instead.
func (s *Store) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if c := s.client.get(); c != nil {
		return c, nil
	}
	return &tls.Certificate{}, nil
}

// GetCertificate is for the tls.Config of the kubelet's server.
func (s *Store) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.serving.get(); c != nil {
		return c, nil
	}
	return nil, errNone
}

// ClientCertificate makes sure that the node has an identity; api is how it
// speaks before it has one. It blocks until the request is answered.
func (s *Store) ClientCertificate(ctx context.Context, api client.Client) error {
	if s.client.get() != nil {
		return nil
	}
	return s.request(ctx, api, &s.client)
}

// ServingCertificate makes sure that the kubelet can serve TLS; api is the
// node's own client. The node has to be registered, with its addresses.
func (s *Store) ServingCertificate(ctx context.Context, api client.Client) error {
	if s.serving.get() != nil {
		return nil
	}
	return s.request(ctx, api, &s.serving)
}

// request asks for a certificate and waits for it.
func (s *Store) request(ctx context.Context, api client.Client, p *pair) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.CertificateRequest{Subject: pkix.Name{CommonName: nodeUser + s.cfg.NodeName, Organization: []string{nodeGroup}}}
	if p == &s.serving {
		t.DNSNames, t.IPAddresses = []string{s.cfg.NodeName}, s.cfg.IPs
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return err
	}
	obj, err := api.Create(ctx, kinds.Ref{Kind: kinds.CertificateSigningRequest}, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: p.signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, p.usage},
		}})
	if err != nil {
		return fmt.Errorf("cannot ask for a certificate: %w", err)
	}
	csr, ok := obj.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return fmt.Errorf("the API server answered with a %T", obj)
	}
	certPEM, err := await(ctx, api, csr.Name)
	if err != nil {
		return err
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return err
	}
	both := append(append([]byte{}, certPEM...), keyPEM...)
	cert, err := tls.X509KeyPair(both, both)
	if err != nil {
		return fmt.Errorf("the cluster issued a certificate that does not fit: %w", err)
	}
	if err := pki.WriteFile(p.file, both); err != nil {
		return err
	}
	p.set(&cert)
	return nil
}

// await polls one request: a joining node may read it, but has no watch yet.
func await(ctx context.Context, api client.Client, name string) ([]byte, error) {
	for {
		obj, err := api.Get(ctx, kinds.Ref{Kind: kinds.CertificateSigningRequest, Name: name})
		var status *apierrors.StatusError
		if errors.As(err, &status) {
			return nil, fmt.Errorf("cannot read the certificate request %s: %w", name, err)
		}
		if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok && err == nil {
			for _, c := range csr.Status.Conditions {
				if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
					return nil, fmt.Errorf("the cluster refused the certificate request %s: %s: %s", name, c.Reason, c.Message)
				}
			}
			if len(csr.Status.Certificate) > 0 {
				return csr.Status.Certificate, nil
			}
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return nil, fmt.Errorf("the certificate request %s was not answered: %w", name, ctx.Err())
		}
	}
}

// Run renews both certificates when 70 to 90 % of their lives are over, and
// obtains the serving one when there is none. It blocks until ctx ends.
func (s *Store) Run(ctx context.Context, api client.Client) error {
	for {
		next := s.cfg.Now().Add(24 * time.Hour)
		for _, p := range []*pair{&s.client, &s.serving} {
			at := s.renewAt(p)
			if !at.After(s.cfg.Now()) {
				if err := s.request(ctx, api, p); err != nil && ctx.Err() == nil {
					s.cfg.Log.Warn("cannot obtain a certificate; it is tried again", "signer", p.signer, "error", err)
					at = s.cfg.Now().Add(retryEvery)
					if p.get() == nil {
						at = s.cfg.Now().Add(time.Second)
					}
				} else {
					at = s.renewAt(p)
				}
			}
			if at.Before(next) {
				next = at
			}
		}
		select {
		case <-time.After(max(next.Sub(s.cfg.Now()), pollEvery)):
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Store) renewAt(p *pair) time.Time {
	c := p.get()
	if c == nil {
		return time.Time{}
	}
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	// Spread, so that the nodes of a cluster do not come at one moment; the
	// same for one certificate whenever it is asked for.
	spread := mathrand.New(mathrand.NewPCG(c.Leaf.SerialNumber.Uint64(), 0)).Float64()
	return c.Leaf.NotBefore.Add(time.Duration(float64(life) * (0.7 + 0.2*spread)))
}

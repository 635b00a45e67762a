package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
)

// signer grants every request at the second look, or denies it.
type signer struct {
	client.Client
	t     *testing.T
	key   *ecdsa.PrivateKey
	life  time.Duration
	deny  bool
	looks int
	made  int
	csr   *certificatesv1.CertificateSigningRequest
}

func newSigner(t *testing.T) *signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t: t, key: key, life: time.Hour}
}

func (s *signer) Create(_ context.Context, _ kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	s.csr = obj.(*certificatesv1.CertificateSigningRequest).DeepCopy()
	s.csr.Name = "csr-x"
	s.looks = 0
	s.made++
	return s.csr, nil
}

func (s *signer) Get(context.Context, kinds.Ref) (runtime.Object, error) {
	if s.looks++; s.looks < 2 {
		return s.csr, nil
	}
	out := s.csr.DeepCopy()
	if s.deny {
		out.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "No"}}
		return out, nil
	}
	block, _ := pem.Decode(out.Spec.Request)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	use := x509.ExtKeyUsageClientAuth
	if out.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		use = x509.ExtKeyUsageServerAuth
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(s.made)), Subject: req.Subject, DNSNames: req.DNSNames, IPAddresses: req.IPAddresses,
		NotBefore: time.Now(), NotAfter: time.Now().Add(s.life), ExtKeyUsage: []x509.ExtKeyUsage{use}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}}, req.PublicKey, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	out.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return out, nil
}

func newStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := New(Config{Dir: dir, NodeName: "n1", IPs: []net.IP{net.IPv4(10, 0, 0, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestObtainAndReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		sig := newSigner(t)
		s := newStore(t, dir)
		if _, err := s.GetCertificate(nil); err == nil {
			t.Error("a certificate out of nothing")
		}
		for _, err := range []error{s.ClientCertificate(t.Context(), sig), s.ServingCertificate(t.Context(), sig)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		c, err := s.GetClientCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Leaf.Subject; got.CommonName != "system:node:n1" || len(got.Organization) != 1 || got.Organization[0] != "system:nodes" {
			t.Errorf("subject %v", got)
		}
		if sv, _ := s.GetCertificate(nil); len(sv.Leaf.IPAddresses) != 1 || sv.Leaf.DNSNames[0] != "n1" {
			t.Errorf("serving names: %v %v", sv.Leaf.IPAddresses, sv.Leaf.DNSNames)
		}
		for _, f := range []string{"client.pem", "serving.pem"} {
			info, err := os.Stat(filepath.Join(dir, f))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", f, info, err)
			}
		}
		// A second start asks nobody; one after the end of the life does.
		again := newStore(t, dir)
		if err := again.ClientCertificate(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Hour)
		made := sig.made
		if err := newStore(t, dir).ClientCertificate(t.Context(), sig); err != nil || sig.made != made+1 {
			t.Errorf("expired: %v, %d requests", err, sig.made-made)
		}
	})
}

func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sig := newSigner(t)
		sig.deny = true
		if err := newStore(t, t.TempDir()).ClientCertificate(t.Context(), sig); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sig := newSigner(t)
		s := newStore(t, t.TempDir())
		if err := s.ClientCertificate(t.Context(), sig); err != nil {
			t.Fatal(err)
		}
		first, _ := s.GetClientCertificate(nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx, sig) }()
		<-time.After(40 * time.Minute)
		if c, _ := s.GetClientCertificate(nil); c != first {
			t.Error("renewed before 70 % of its life")
		}
		<-time.After(15 * time.Minute)
		if c, _ := s.GetClientCertificate(nil); c == first {
			t.Error("not renewed after 90 % of its life")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

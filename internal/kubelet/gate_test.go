package kubelet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"knarr.dev/knarr/internal/kubelet"
)

// issue a certificate, by itself if parent is nil.
func issue(t *testing.T, name string, use x509.ExtKeyUsage, parent *tls.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{use}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: parent == nil, BasicConstraintsValid: true}
	above, by := tmpl, key
	if parent != nil {
		above, by = parent.Leaf, parent.PrivateKey.(*ecdsa.PrivateKey)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, above, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// secure makes a kubelet serve on a loopback port and returns how to ask it.
func secure(t *testing.T, cfg *kubelet.Config) (ask func(cert *tls.Certificate, token, path string) (int, string), ca *tls.Certificate) {
	t.Helper()
	ca = issue(t, "ca", x509.ExtKeyUsageAny, nil)
	serving := issue(t, "node", x509.ExtKeyUsageServerAuth, ca)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen = l
	cfg.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serving, nil }, ClientCAs: pool}
	ask = func(cert *tls.Certificate, token, path string) (int, string) {
		conf := &tls.Config{RootCAs: pool}
		if cert != nil {
			conf.Certificates = []tls.Certificate{*cert}
		}
		tr := &http.Transport{TLSClientConfig: conf}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	return ask, ca
}

// serving is a kubelet without a runtime that answers.
func serving(t *testing.T) (ask func(cert *tls.Certificate, token, path string) (int, string), ca *tls.Certificate) {
	t.Helper()
	a := newAPI()
	cfg := kubelet.Config{NodeName: "node", NodeIP: "127.0.0.1", Client: a, View: a.view, Objects: objects{a},
		RuntimeEndpoint: "unix://" + t.TempDir() + "/none.sock", RootDir: t.TempDir(), PodLogDir: t.TempDir(), CgroupRoot: "knarr-gate-test"}
	ask, ca = secure(t, &cfg)
	k, err := kubelet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ask, ca
}

func TestGate(t *testing.T) {
	ask, ca := serving(t)
	server := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, ca)
	forged := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, issue(t, "other", x509.ExtKeyUsageAny, nil))
	wrong := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageServerAuth, ca)
	somebody := issue(t, "somebody", x509.ExtKeyUsageClientAuth, ca)
	for _, tt := range []struct {
		name  string
		cert  *tls.Certificate
		token string
		path  string
		want  int
	}{
		{"health", server, "", "/healthz", 200},
		{"health for nobody", nil, "", "/healthz", 401},
		{"health without rights", somebody, "", "/healthz", 403},
		{"nobody", nil, "", "/pods", 401},
		{"bad token", nil, "bad", "/pods", 401},
		{"api server", server, "", "/pods", 200},
		{"forged", forged, "", "/pods", 401},
		{"a serving certificate", wrong, "", "/pods", 401},
		{"without rights", somebody, "", "/pods", 403},
		{"token without that right", nil, "good", "/pods", 403},
		{"token with another", nil, "good", "/metrics", 403},
		{"unknown pod", server, "", "/containerLogs/default/none/c", 404},
		{"exec without streams", server, "", "/exec/default/none/c", 400},
		{"exec in nothing", server, "", "/exec/default/none/c?output=1&command=ls", 404},
		{"unknown path", server, "", "/run/default/p/c", 404},
	} {
		if got, body := ask(tt.cert, tt.token, tt.path); got != tt.want {
			t.Errorf("%s: %d %s, want %d", tt.name, got, body, tt.want)
		}
	}
}

package webhook

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// hookServer is a webhook with a certificate for one name.
func hookServer(t *testing.T, name string, h http.HandlerFunc) (s *httptest.Server, bundle []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s = httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

const long = time.Minute

func TestCall(t *testing.T) {
	s, bundle := hookServer(t, "svc.ns.svc", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "https://svc.ns.svc:443/elsewhere", http.StatusTemporaryRedirect)
		case "/elsewhere":
			t.Error("a redirect was followed")
		case "/secret":
			http.Error(w, "hunter2", http.StatusTeapot)
		case "/long":
			chunk := make([]byte, 1<<20)
			for range maxAnswer>>20 + 1 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		default:
			fmt.Fprintf(w, "%s %s %s %s %s %s %s", r.Method, r.Host, r.URL, r.Proto, r.Header.Get("Content-Type"), r.Header.Get("User-Agent"), body)
		}
	})
	_, other := hookServer(t, "svc.ns.svc", nil)
	resolve := func(namespace, name string, port int32) (string, error) {
		if namespace+"/"+name != "ns/svc" && name != "imposter" {
			return "", fmt.Errorf("service %q not found", name)
		}
		if port != 443 && port != 8443 {
			return "", fmt.Errorf("no port %d", port)
		}
		return s.Listener.Addr().String(), nil
	}
	c := New(resolve)
	for _, tt := range []struct {
		name string
		hook Hook
		want string // the answer, or part of the error
		ok   bool
	}{
		{"service", Hook{Service: &Service{Namespace: "ns", Name: "svc", Path: "/a"}, CABundle: bundle},
			"POST svc.ns.svc:443 /a?timeout=60s HTTP/1.1 application/json kube-apiserver-admission hi", true},
		{"port", Hook{Service: &Service{Namespace: "ns", Name: "svc", Port: 8443}, CABundle: bundle},
			"POST svc.ns.svc:8443 /?timeout=60s HTTP/1.1 application/json kube-apiserver-admission hi", true},
		{"no service", Hook{Service: &Service{Namespace: "ns", Name: "gone"}, CABundle: bundle}, `Post "https://gone.ns.svc:443?timeout=60s": service "gone" not found`, false},
		{"another service's certificate", Hook{Service: &Service{Namespace: "ns", Name: "imposter"}, CABundle: bundle}, "certificate is valid for svc.ns.svc, not imposter.ns.svc", false},
		{"another authority", Hook{Service: &Service{Namespace: "ns", Name: "svc"}, CABundle: other}, "x509", false},
		{"the system's authorities", Hook{Service: &Service{Namespace: "ns", Name: "svc"}, CABundle: []byte(" \n")}, "x509", false},
		{"no authority", Hook{Service: &Service{Namespace: "ns", Name: "svc"}, CABundle: []byte("x")}, "no PEM encoded certificates", false},
		{"a URL's name", Hook{URL: s.URL + "/a", CABundle: bundle}, "x509: cannot validate certificate for 127.0.0.1", false},
		{"nothing", Hook{}, "must have either service or URL", false},
		{"redirect", Hook{Service: &Service{Namespace: "ns", Name: "svc", Path: "/redirect"}, CABundle: bundle}, "redirect", false},
		{"status", Hook{Service: &Service{Namespace: "ns", Name: "svc", Path: "/secret"}, CABundle: bundle}, "status code 418", false},
		{"long", Hook{Service: &Service{Namespace: "ns", Name: "svc", Path: "/long"}, CABundle: bundle}, "longer than 67108864 bytes", false},
		{"long for its kind", Hook{Service: &Service{Namespace: "ns", Name: "svc", Path: "/a"}, CABundle: bundle, Longest: 87}, "longer than 87 bytes", false},
		{"just short enough", Hook{Service: &Service{Namespace: "ns", Name: "svc", Path: "/a"}, CABundle: bundle, Longest: 88},
			"POST svc.ns.svc:443 /a?timeout=60s HTTP/1.1 application/json kube-apiserver-admission hi", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.Call(t.Context(), tt.hook, long, []byte("hi"))
			if tt.ok {
				if err != nil || string(got) != tt.want {
					t.Errorf("got %q %v, want %q", got, err, tt.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
		})
	}
}

// A webhook by URL is verified for the URL's host.
func TestURL(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) }))
	defer s.Close()
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	got, err := New(nil).Call(t.Context(), Hook{URL: s.URL, CABundle: bundle}, long, nil)
	if err != nil || string(got) != s.Listener.Addr().String() {
		t.Errorf("%q %v", got, err)
	}
}

func TestTimeout(t *testing.T) {
	told := make(chan string, 1)
	s, bundle := hookServer(t, "svc.ns.svc", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the client go
		told <- r.URL.Query().Get("timeout")
		<-r.Context().Done()
	})
	c := New(func(string, string, int32) (string, error) { return s.Listener.Addr().String(), nil })
	_, err := c.Call(t.Context(), Hook{Service: &Service{Namespace: "ns", Name: "svc"}, CABundle: bundle}, 1500*time.Millisecond, []byte("{}"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `Post "https://svc.ns.svc:443?timeout=2s": context deadline exceeded`) {
		t.Errorf("got %v", err)
	}
	if got := <-told; got != "2s" {
		t.Errorf("the webhook was told %q", got)
	}
}

// Connections are kept, but for a bounded number of identities.
func TestTransports(t *testing.T) {
	c := New(nil)
	for i := range 3 * maxTransports {
		if _, err := c.transport(identity{server: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.transports) != maxTransports {
		t.Errorf("%d transports, want %d", len(c.transports), maxTransports)
	}
	a, err := c.transport(identity{server: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.transport(identity{server: "a"}); err != nil || a != b {
		t.Error("the transport is not used again")
	}
}

package remote

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/metricstest"
)

func TestRequests(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	q := NewRequests()
	c, err := New(Config{Server: srv.URL, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Requests: q})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() {
		t.Helper()
		if _, err := c.Get(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "a", Name: "b"}); err == nil {
			t.Error("a pod of a server without any")
		}
	}
	ask()
	ask()
	host := srv.Listener.Addr().String()
	c.CloseIdle()
	srv.Close()
	ask()
	got := metricstest.Values(t, q)
	want := map[string]float64{"rest_client_requests_total 404 " + host + " GET": 2, "rest_client_requests_total <error> " + host + " GET": 1, "rest_client_request_duration_seconds " + host + " GET": 3}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

package webhook

import (
	"net/http"
	"strings"
	"testing"
)

// TestCVE2020_8561: a webhook's redirect is not followed, and nothing of what it
// answers stands in the error, which is what is logged and told to clients.
func TestCVE2020_8561(t *testing.T) {
	followed := false
	s, bundle := hookServer(t, "svc.ns.svc", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/elsewhere":
			followed = true
		case "/status":
			http.Error(w, "hunter2", http.StatusInternalServerError)
		default:
			w.Header().Set("X-Secret", "hunter2")
			http.Redirect(w, r, "https://svc.ns.svc:443/elsewhere?hunter2", http.StatusPermanentRedirect)
		}
	})
	c := New(func(string, string, int32) (string, error) { return s.Listener.Addr().String(), nil })
	for _, path := range []string{"/redirect", "/status"} {
		answer, err := c.Call(t.Context(), Hook{Service: &Service{Namespace: "ns", Name: "svc", Path: path}, CABundle: bundle}, long, []byte("{}"))
		if err == nil || strings.Contains(err.Error(), "hunter2") || answer != nil {
			t.Errorf("%s: %q %v", path, answer, err)
		}
	}
	if followed {
		t.Error("the redirect was followed")
	}
}

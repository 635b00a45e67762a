package apiserver_test

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/store"
)

// TestUnreadable: what cannot be read is deleted for who may do that, and
// nothing that can be read is.
func TestUnreadable(t *testing.T) {
	const (
		url    = "/api/v1/namespaces/default/secrets"
		unsafe = "?ignoreStoreReadErrorWithClusterBreakingPotential=true"
		option = `{"ignoreStoreReadErrorWithClusterBreakingPotential":true`
		lost   = "/registry/secrets/default/lost"
	)
	may := true
	w := newWorld(t, func(c *apiserver.Config) {
		c.Authz = rights(func(a authorizer.Attributes) bool {
			return a.GetVerb() != "unsafe-delete-ignore-read-errors" || may && a.GetResource() == "secrets" && a.GetName() != "" && a.GetNamespace() == "default"
		})
	})
	w.must(t, 201, "POST", url, `{"metadata":{"name":"good"}}`)
	if _, err := w.store.Put(t.Context(), lost, []byte("k8s:enc:aesgcm:v1:gone:xyz"), 0); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		may                   bool
		method, path, body    string
		code                  int
		reason, message, kind any
	}{
		{false, "DELETE", "/lost" + unsafe, "", 403, "Forbidden", `secrets "lost" is forbidden: not permitted to do "unsafe-delete-ignore-read-errors", reason: `, "Status"},
		{true, "DELETE", "/good" + unsafe, "", 409, "Conflict", `Operation cannot be fulfilled on secrets "good": unsafe deletion is not allowed because the object is decodable from storage`, "Status"},
		{true, "DELETE", "/none" + unsafe, "", 404, "NotFound", `secrets "none" not found`, "Status"},
		{true, "DELETE", "/los" + unsafe, "", 404, "NotFound", `secrets "los" not found`, "Status"},
		{true, "DELETE", unsafe, "", 422, "Invalid", `DeleteOptions.meta.k8s.io "" is invalid: ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: is not allowed with DELETECOLLECTION, try again after removing the option`, "Status"},
		{true, "DELETE", "/lost", option + `,"gracePeriodSeconds":0}`, 422, "Invalid", `DeleteOptions.meta.k8s.io "" is invalid: ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: cannot be set together with .gracePeriodSeconds`, "Status"},
		{true, "DELETE", "/lost", option + `,"dryRun":["All"]}`, 200, nil, nil, "Status"},
	} {
		may = tt.may
		if a := w.must(t, tt.code, tt.method, url+tt.path, tt.body); a.at("reason") != tt.reason || a.at("message") != tt.message || a.at("kind") != tt.kind {
			t.Errorf("%s %s: %s", tt.path, tt.body, a.raw)
		}
		if _, err := w.store.Get(t.Context(), lost); err != nil {
			t.Fatalf("%s %s: it is gone: %v", tt.path, tt.body, err)
		}
	}
	a := w.must(t, 200, "DELETE", url+"/lost", option+`}`)
	if a.at("status") != "Success" || a.at("details.name") != "lost" || a.at("details.kind") != "Secret" {
		t.Errorf("%s", a.raw)
	}
	if _, err := w.store.Get(t.Context(), lost); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("it is still there: %v", err)
	}
	w.must(t, 404, "GET", url+"/lost", "")
	w.must(t, 201, "POST", url, `{"metadata":{"name":"lost"}}`)
	if _, err := w.store.Put(t.Context(), lost+"2", []byte("k8s:enc:aesgcm:v1:gone:xyz"), 0); err != nil {
		t.Fatal(err)
	}
	yes := true
	if _, err := w.server.Client(admin).Delete(t.Context(), refOf("secrets", "lost2"), metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: &yes}); err != nil {
		t.Errorf("in process: %v", err)
	}
}

package apiserver_test

import (
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"knarr.dev/knarr/internal/apiserver"
)

// Owners that are named twice are one, and the client is told.
func TestOwnersOnce(t *testing.T) {
	w := newWorld(t)
	owner := func(uid, name string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","name":%q,"uid":%q}`, name, uid)
	}
	body := func(owners ...string) string {
		return `{"metadata":{"name":"c","ownerReferences":[` + strings.Join(owners, ",") + `]}}`
	}
	const want = `299 - ".metadata.ownerReferences contains duplicate entries`
	a := w.must(t, 201, "POST", cmURL, body(owner("1", "a"), owner("2", "b"), owner("1", "a")))
	if refs, _ := a.at("metadata.ownerReferences").([]any); len(refs) != 2 || !strings.HasPrefix(a.header.Get("Warning"), want+"; API server dedups") || !strings.Contains(a.header.Get("Warning"), "observed: 1") {
		t.Errorf("created: %v %s", a.header, a.raw)
	}
	a = w.must(t, 200, "PUT", cmURL+"/c", body(owner("3", "a"), owner("3", "a")))
	if refs, _ := a.at("metadata.ownerReferences").([]any); len(refs) != 1 || !strings.HasPrefix(a.header.Get("Warning"), want+"; API") {
		t.Errorf("replaced: %v %s", a.header, a.raw)
	}
	a = w.must(t, 200, "PATCH", cmURL+"/c", body(owner("4", "a"), owner("4", "a"), owner("4", "b")), "Content-Type", mergeType)
	if refs, _ := a.at("metadata.ownerReferences").([]any); len(refs) != 2 || !strings.HasPrefix(a.header.Get("Warning"), want+" after mutating admission happens;") {
		t.Errorf("patched: %v %s", a.header, a.raw)
	}
}

// What a client says of itself and the server knows better.
func TestNamesAndNamespaces(t *testing.T) {
	w := newWorld(t)
	if a := w.must(t, 201, "POST", "/api/v1/nodes", `{"metadata":{"name":"n","namespace":"default"}}`); a.at("metadata.namespace") != nil {
		t.Errorf("a node in a namespace: %s", a.raw)
	}
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c"}}`)
	if a := w.must(t, 409, "POST", cmURL, `{"metadata":{"name":"c","generateName":"c"}}`); a.at("reason") != "AlreadyExists" ||
		!strings.Contains(a.raw, "the server was not able to generate a unique name for the object") {
		t.Errorf("%s", a.raw)
	}
}

// Tables and metadata in the version that was asked for, as kubectl of old does.
func TestOlderShapes(t *testing.T) {
	w := newWorld(t)
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c"}}`)
	for _, tt := range []struct{ path, as, kind string }{
		{cmURL, "Table", "Table"}, {cmURL + "/c", "Table", "Table"},
		{cmURL, "PartialObjectMetadataList", "PartialObjectMetadataList"}, {cmURL + "/c", "PartialObjectMetadata", "PartialObjectMetadata"},
	} {
		for _, version := range []string{"v1", "v1beta1"} {
			a := w.must(t, 200, "GET", tt.path, "", "Accept", "application/json;as="+tt.as+";g=meta.k8s.io;v="+version)
			if a.at("kind") != tt.kind || a.at("apiVersion") != "meta.k8s.io/"+version {
				t.Errorf("%s as %s in %s: %s", tt.path, tt.as, version, a.raw)
			}
		}
	}
	for _, accept := range []string{"application/json;as=Table;g=meta.k8s.io;v=v2", "application/json;stream=other", "application/json;g=meta.k8s.io"} {
		w.must(t, 406, "GET", cmURL, "", "Accept", accept)
	}
	if a := w.must(t, 406, "GET", cmURL+"?watch=1", "", "Accept", "application/yaml"); !strings.Contains(a.raw, "application/json;stream=watch") {
		t.Errorf("a watch in YAML: %s", a.raw)
	}
	// Only tables have the parameter.
	w.must(t, 200, "GET", cmURL+"?includeObject=Some", "")
}

// What a strict reader of YAML finds is told line by line.
func TestStrictYAML(t *testing.T) {
	w := newWorld(t)
	const body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  name: c\ndata:\n  a: x\n  a: x\n"
	for _, header := range [][]string{{"POST", cmURL, "application/yaml"}, {"PATCH", cmURL + "/c?fieldManager=m", "application/apply-patch+yaml"}} {
		a := w.do(t, header[0], header[1], body, "Content-Type", header[2])
		want := []string{`299 - "line 5: key \"name\" already set in map"`, `299 - "line 8: key \"a\" already set in map"`}
		if got := a.header.Values("Warning"); a.code >= 300 || len(got) < 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("%s: %d %q", header[0], a.code, got)
		}
	}
}

// The form of continue tokens is upstream's, so that tools can read them.
func TestContinueTokens(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"a", "b"} {
		w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"`+n+`"}}`)
	}
	a := w.must(t, 200, "GET", cmURL+"?limit=1", "")
	raw, err := base64.RawURLEncoding.DecodeString(fmt.Sprint(a.at("metadata.continue")))
	if err != nil {
		t.Fatal(err)
	}
	var token struct {
		V, Start string
		RV       int64
	}
	if err := json.Unmarshal(raw, &token); err != nil || token.V != "meta.k8s.io/v1" || fmt.Sprint(token.RV) != a.at("metadata.resourceVersion") || token.Start == "" {
		t.Errorf("%v %s", err, raw)
	}
}

// TestCompressedDocuments: long documents go compressed to another machine.
func TestCompressedDocuments(t *testing.T) {
	long := `{"a":"` + strings.Repeat("x", 200<<10) + `"}`
	w := newWorld(t, func(c *apiserver.Config) {
		c.Extra = map[string]http.Handler{
			"/openapi/v2": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, long) }),
			"/openapi/v3": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "short") }),
			"/apis": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusNotModified)
			}),
		}
	})
	ask := func(from, path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr = from
		r = r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 6443}))
		r.Header.Set("Accept-Encoding", "gzip")
		rec := httptest.NewRecorder()
		w.server.Handler().ServeHTTP(rec, r)
		return rec
	}
	far := ask("192.0.2.7:5", "/openapi/v2")
	z, err := gzip.NewReader(far.Body)
	if err != nil {
		t.Fatal(err)
	}
	if whole, err := io.ReadAll(z); err != nil || string(whole) != long || far.Header().Get("Content-Encoding") != "gzip" || far.Header().Get("Vary") != "Accept-Encoding" {
		t.Errorf("%v %v", err, far.Header())
	}
	if short := ask("192.0.2.7:5", "/openapi/v3"); short.Body.String() != "short" || short.Header().Get("Content-Encoding") != "" {
		t.Errorf("short: %v", short.Header())
	}
	if same := ask("192.0.2.7:5", "/apis"); same.Code != http.StatusNotModified || same.Body.Len() > 0 {
		t.Errorf("not modified: %d %v", same.Code, same.Header())
	}
	if near := ask("192.0.2.1:5", "/openapi/v2"); near.Body.String() != long {
		t.Errorf("near: %v", near.Header())
	}
}

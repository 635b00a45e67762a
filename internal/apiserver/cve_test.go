package apiserver_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
	"knarr.dev/knarr/internal/view"
)

// TestCVE2019_11253: a small body that becomes a large one is refused.
func TestCVE2019_11253(t *testing.T) {
	w := newWorld(t)
	laughs := "metadata: {name: x}\na0: &a0 [x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 10; i++ {
		laughs += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 8), i-1)
	}
	for _, content := range []string{"application/yaml", "application/apply-patch+yaml"} {
		method, path := "POST", cmURL
		if strings.Contains(content, "patch") {
			method, path = "PATCH", cmURL+"/x?fieldManager=m"
		}
		if a := w.do(t, method, path, laughs, "Content-Type", content); a.code != 400 || a.at("kind") != "Status" {
			t.Errorf("%s: %d %.300s", content, a.code, a.raw)
		}
	}
}

// TestCVE2019_11247: who may do something in one namespace reaches nothing that
// lies outside of all, built in or custom, by naming that namespace.
func TestCVE2019_11247(t *testing.T) {
	v := view.New([]*kinds.Kind{kinds.CustomResourceDefinition}, view.Owned)
	var cfg apiserver.Config
	inside := true
	w := newWorld(t, func(c *apiserver.Config) {
		c.Cache.Feed(v)
		c.Authz = rights(func(a authorizer.Attributes) bool { return inside || a.GetNamespace() == "default" })
		cfg = *c
	})
	w.fleets(t, cfg, v)
	w.must(t, 201, "POST", "/apis/harbour.example/v1/fleets", `{"apiVersion":"harbour.example/v1","kind":"Fleet","metadata":{"name":"f"}}`)
	w.must(t, 201, "POST", "/api/v1/nodes", `{"metadata":{"name":"n"}}`)
	inside = false
	w.must(t, 403, "GET", "/apis/harbour.example/v1/fleets/f", "")
	for _, base := range []string{"/apis/harbour.example/v1/namespaces/default/fleets", "/api/v1/namespaces/default/nodes"} {
		name := map[bool]string{true: "/f", false: "/n"}[strings.Contains(base, "fleets")]
		for _, tc := range [][3]string{{"GET", "", ""}, {"GET", name, ""}, {"GET", "?watch=1", ""}, {"DELETE", name, ""}, {"DELETE", "", ""}, {"PUT", name, `{}`}, {"POST", "", `{"metadata":{"name":"g"}}`}, {"PATCH", name, `{}`}} {
			if a := w.do(t, tc[0], base+tc[1], tc[2], "Content-Type", map[bool]string{true: mergeType, false: "application/json"}[tc[0] == "PATCH"]); a.code != 404 && a.code != 405 {
				t.Errorf("%s %s%s: %d %.200s", tc[0], base, tc[1], a.code, a.raw)
			}
		}
	}
	inside = true
	w.must(t, 200, "GET", "/apis/harbour.example/v1/fleets/f", "")
	w.must(t, 200, "GET", "/api/v1/nodes/n", "")
}

// fleets are a custom kind outside of all namespaces.
func (w *world) fleets(t *testing.T, cfg apiserver.Config, v *view.View) {
	t.Helper()
	w.ships(t, cfg, v, `{"strategy":"None"}`)
	w.must(t, 201, "POST", crdURL, `{"metadata":{"name":"fleets.harbour.example"},"spec":{"group":"harbour.example","scope":"Cluster","names":{"plural":"fleets","singular":"fleet","kind":"Fleet"},
		"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`)
	w.must(t, 200, "PATCH", crdURL+"/fleets.harbour.example/status", `{"status":{"acceptedNames":{"plural":"fleets","singular":"fleet","kind":"Fleet","listKind":"FleetList"},
		"conditions":[{"type":"NamesAccepted","status":"True","reason":"NoConflicts","message":"","lastTransitionTime":null}]}}`, "Content-Type", mergeType)
	w.wait(t, "established", func() bool {
		return strings.Contains(w.do(t, "GET", crdURL+"/fleets.harbour.example", "").raw, `"type":"Established","status":"True"`)
	})
}

// TestCVE2022_3162: a permission on one custom type reaches no object of another
// type of the same group, whatever path the name or namespace holds.
func TestCVE2022_3162(t *testing.T) {
	v := view.New([]*kinds.Kind{kinds.CustomResourceDefinition}, view.Owned)
	var cfg apiserver.Config
	all := true
	w := newWorld(t, func(c *apiserver.Config) {
		c.Cache.Feed(v)
		c.Authz = rights(func(a authorizer.Attributes) bool { return all || a.GetResource() == "ships" })
		cfg = *c
	})
	w.fleets(t, cfg, v)
	w.must(t, 201, "POST", "/apis/harbour.example/v1/fleets", `{"apiVersion":"harbour.example/v1","kind":"Fleet","metadata":{"name":"secret-fleet"}}`)
	all = false
	w.must(t, 403, "GET", "/apis/harbour.example/v1/fleets/secret-fleet", "")
	ships := "/apis/harbour.example/v1/namespaces/"
	for _, path := range []string{
		ships + "..%2Ffleets/ships", ships + "..%2Ffleets/ships/secret-fleet", ships + "default/ships/..%2F..%2Ffleets%2Fsecret-fleet", ships + "../fleets/ships", ships + "default/ships/..",
		"/apis/harbour.example/v1/ships/..%2Ffleets%2Fsecret-fleet", ships + "..%252Ffleets/ships", ships + "%2e%2e/ships/secret-fleet", ships + "./ships/x", ships + "..%2Ffleets/ships?watch=1&timeoutSeconds=1",
		ships + "default/ships?fieldSelector=metadata.name%3D..%2Ffleets%2Fsecret-fleet", ships + "default/ships?continue=" + "eyJydiI6LTEsInN0YXJ0IjoiLi4vZmxlZXRzL2EifQ&limit=1",
	} {
		if a := w.do(t, "GET", path, ""); strings.Contains(a.raw, "secret-fleet") && strings.Contains(a.raw, "uid") {
			t.Errorf("%s: %d %s", path, a.code, a.raw)
		} else if a.code == 200 && strings.Contains(path, "..") && !strings.Contains(path, "Selector") {
			t.Errorf("%s: %d %s", path, a.code, a.raw)
		}
	}
}

// TestCVE2019_11248: nothing of a profiler, on any path.
func TestCVE2019_11248(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1", "/debug/pprof/cmdline", "/debug/flags/v", "/debug/vars", "/healthz/debug/pprof/heap", "/livez/../debug/pprof/heap", "//debug/pprof/heap"} {
		if a := w.do(t, "GET", path, ""); a.code != 404 {
			t.Errorf("%s: %d %.100s", path, a.code, a.raw)
		}
	}
}

// TestCVE2019_11250, and CVE-2020-8563, -8564: at the most talkative level, no
// credential and no Secret's content stands in the log or in the audit record,
// whatever becomes of the request.
func TestCVE2019_11250(t *testing.T) {
	log := &locked{}
	records, on := audited(t, audit.Blocking, "omitStages: [RequestReceived]\nrules: [{level: Metadata}]")
	w, n := newWorldWithNode(t, func(c *apiserver.Config) {
		c.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}))
		on(c)
	})
	n.says(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "hunter2-answer", http.StatusInternalServerError)
	})
	const secrets = "/api/v1/namespaces/default/secrets"
	bearer := []string{"Authorization", "Bearer hunter2-token", "Cookie", "session=hunter2-cookie", "Impersonate-Extra-Scopes", "hunter2-extra"}
	for _, tc := range []struct{ method, path, body, content string }{
		{"POST", secrets, `{"metadata":{"name":"s"},"stringData":{"p":"hunter2-data"}}`, "application/json"},
		{"POST", secrets, `{"metadata":{"name":"s"},"stringData":{"p":"hunter2-data"}}`, "application/json"},
		{"POST", secrets, `{"metadata":{"name":"_"},"stringData":{"p":"hunter2-data"}}`, "application/json"},
		{"POST", secrets, `{"metadata":{"name":"t"},"stringData":{"p":"hunter2-data"`, "application/json"},
		{"POST", secrets, `{"metadata":{"name":"t"},"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"{hunter2-docker"}}`, "application/json"},
		{"POST", secrets, "k8s\x00hunter2-data", "application/vnd.kubernetes.protobuf"},
		{"PATCH", secrets + "/s", `{"stringData":{"p":"hunter2-data"},"nope":"hunter2-data"}`, mergeType},
		{"PATCH", secrets + "/s", `[{"op":"test","path":"/data/p","value":"hunter2-data"}]`, jsonPatchType},
		{"PATCH", secrets + "/s?fieldManager=m", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {p: hunter2-data}\n", "application/apply-patch+yaml"},
		{"PUT", secrets + "/s", `{"metadata":{"name":"s"},"type":"hunter2-data"}`, "application/json"},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"hunter2-review"}}`, "application/json"},
		{"POST", "/api/v1/namespaces/default/serviceaccounts/default/token", `{"spec":{"boundObjectRef":{"kind":"hunter2-data"}}}`, "application/json"},
		{"GET", secrets + "/s", "", ""}, {"GET", secrets, "", ""}, {"GET", podURL + "/a/log?container=c", "", ""}, {"GET", "/api/v1/nodes/n1/proxy/x", "", ""},
		{"DELETE", secrets + "/s", `{"preconditions":{"uid":"hunter2-data"}}`, "application/json"},
	} {
		w.do(t, tc.method, tc.path, tc.body, append(bearer, "Content-Type", tc.content)...)
	}
	l, stop := serveTLS(t, w)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, path := range []string{secrets, "/nope?token=hunter2-url"} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer hunter2-token")
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("%s", log)
	}
	w.http.Close() // all records are there
	if len(records.events) < 17 {
		t.Errorf("only %d requests were told about", len(records.events))
	}
	for len(records.events) > 0 {
		e := <-records.events
		// As upstream's, a record has the URL, and the words in which the client
		// was told why what it sent is refused.
		e.RequestURI, e.ResponseStatus = "", nil
		if s := fmt.Sprintf("%+v", e); strings.Contains(s, "hunter2") {
			t.Errorf("audit: %s", s)
		}
	}
}

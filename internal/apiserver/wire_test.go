package apiserver_test

import (
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/apiserver"
)

// TestParameters: what a query or the body of a deletion may say, read as
// upstream reads it, with its words.
func TestParameters(t *testing.T) {
	w := newWorld(t)
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c"}}`)
	w.must(t, 200, "GET", cmURL, "") // which waits for the cache: one of resourceVersion 1 need not
	const (
		deletes = `DeleteOptions.meta.k8s.io "" is invalid: `
		lists   = `ListOptions.meta.k8s.io "" is invalid: `
		creates = `CreateOptions.meta.k8s.io "" is invalid: `
		patches = `PatchOptions.meta.k8s.io "" is invalid: `
		policy  = `supported values: "Foreground", "Background", "Orphan", "nil"`
	)
	merge := []string{"Content-Type", mergeType}
	for _, tt := range []struct {
		method, path, body string
		header             []string
		code               int
		message            string // its beginning
	}{
		// Preconditions of a deletion without a body stand in the query.
		{"DELETE", "/c?uid=x", "", nil, 409, `Operation cannot be fulfilled on ConfigMap "c": the UID in the precondition (x) does not match the UID in record (`},
		{"DELETE", "/c?resourceVersion=1", "", nil, 409, `Operation cannot be fulfilled on ConfigMap "c": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (`},
		{"DELETE", "/c?uid=x", `{"preconditions":{"resourceVersion":"1"}}`, nil, 409, `Operation cannot be fulfilled on ConfigMap "c": the ResourceVersion in the precondition (1)`},
		{"DELETE", "?resourceVersion=1", "", nil, 409, `Operation cannot be fulfilled on ConfigMap "c": the ResourceVersion in the precondition (1)`},
		{"DELETE", "/c?propagationPolicy=Nope", "", nil, 422, deletes + `propagationPolicy: Unsupported value: "Nope": ` + policy},
		{"DELETE", "/c?propagationPolicy=", "", nil, 422, deletes + `propagationPolicy: Unsupported value: "": ` + policy},
		{"DELETE", "/c", `{"propagationPolicy":"Nope"}`, nil, 422, deletes + `propagationPolicy: Unsupported value: "Nope": ` + policy},
		{"DELETE", "?propagationPolicy=Nope", "", nil, 422, deletes + `propagationPolicy: Unsupported value: "Nope": ` + policy},
		{"DELETE", "/c?gracePeriodSeconds=", "", nil, 400, `strconv.ParseInt: parsing "": invalid syntax`},
		{"DELETE", "/c?gracePeriodSeconds=x", "", nil, 400, `strconv.ParseInt: parsing "x": invalid syntax`},
		{"DELETE", "/c?orphanDependents=true&propagationPolicy=Orphan", "", nil, 422, deletes + `propagationPolicy: Invalid value: "Orphan": orphanDependents and deletionPropagation cannot be both set`},
		{"DELETE", "/c?dryRun=All&dryRun=Some", "", nil, 422, deletes + `dryRun: Unsupported value: ["All","Some"]: supported values: "All"`},
		{"DELETE", "/c", `{`, nil, 400, `couldn't get version/kind; json parse error: unexpected end of JSON input`},
		{"DELETE", "/c", `{} x`, nil, 400, `couldn't get version/kind; json parse error: invalid character 'x' after top-level value`},
		{"DELETE", "/c", `{"gracePeriodSeconds":"x"}`, nil, 400, `json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64`},
		{"DELETE", "/c", `{"kind":"ConfigMap","apiVersion":"v1"}`, nil, 400, `unexpected kind "ConfigMap" in version "v1"`},
		{"DELETE", "/c", `{}`, []string{"Content-Type", "text/x-nope"}, 415, `the body of the request was in an unknown format`},
		{"DELETE", "?limit=x", "", nil, 400, `strconv.ParseInt: parsing "x": invalid syntax`},
		{"DELETE", "?resourceVersionMatch=Exact", "", nil, 422, lists + `resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided`},
		{"DELETE", "/c?dryRun=All", `{"kind":"DeleteOptions","apiVersion":"apps/v1","unknown":1}`, nil, 200, ""},

		{"POST", "?fieldValidation=Nope", `{}`, nil, 422, creates + `fieldValidation: Unsupported value: "Nope": supported values: "", "Ignore", "Strict", "Warn"`},
		{"POST", "?dryRun=", `{}`, nil, 422, creates + `dryRun: Unsupported value: [""]: supported values: "All"`},
		{"POST", "?fieldManager=%07", `{}`, nil, 422, creates + `fieldManager: Invalid value: "\a": invalid character U+0007 (at position 0)`},
		{"POST", "?fieldManager=" + strings.Repeat("x", 129), `{}`, nil, 422, creates + `fieldManager: Too long: may not be more than 128 bytes`},
		{"PATCH", "/c?force=false", `{}`, merge, 422, patches + `force: Forbidden: may not be specified for non-apply patch`},
		{"PATCH", "/c", `{}`, applyType, 422, patches + `fieldManager: Required value: is required for apply patch`},

		{"GET", "?sendInitialEvents=true", "", nil, 422, lists + `sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list`},
		{"GET", "?watch=1&sendInitialEvents=true", "", nil, 422, lists + `resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan`},
		{"GET", "?watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1", "", nil, 422, lists + `resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided`},
		{"GET", "?resourceVersionMatch=Nope&resourceVersion=1", "", nil, 422, lists + `resourceVersionMatch: Unsupported value: "Nope": supported values: "Exact", "NotOlderThan", ""`},
		{"GET", "?resourceVersionMatch=Exact&resourceVersion=0", "", nil, 422, lists + `resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"`},
		{"GET", "?limit=-1", "", nil, 200, ""},
		{"GET", "?timeout=x", "", nil, 400, `invalid timeout specified in the request URL - time: invalid duration "x"`},
		{"GET", "?timeout=-1s", "", nil, 200, ""},
	} {
		a := w.do(t, tt.method, cmURL+tt.path, tt.body, tt.header...)
		message, _ := a.at("message").(string)
		if a.code != tt.code || !strings.HasPrefix(message, tt.message) {
			t.Errorf("%s %s %s: %d %s", tt.method, tt.path, tt.body, a.code, a.raw)
		}
	}
	w.must(t, 200, "GET", cmURL+"/c", "") // it has outlived all that
	uid, _ := w.must(t, 200, "GET", cmURL+"/c", "").at("metadata.uid").(string)
	w.must(t, 200, "DELETE", cmURL+"/c?uid="+uid, "")
}

// TestBodies: what an object's body says of itself, whole, in part or not at all.
func TestBodies(t *testing.T) {
	w := newWorld(t)
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"c"}}`)
	const lost = "the object provided is unrecognized (must be of type ConfigMap): "
	for _, tt := range []struct {
		method, path, body string
		header             []string
		code               int
		message            string
	}{
		{"POST", "", ``, nil, 400, lost + `couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)`},
		{"PUT", "/c", ``, nil, 400, lost + `couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)`},
		{"POST", "", `{"metadata":{"name":"x"}} y`, nil, 400, lost + `couldn't get version/kind; json parse error: invalid character 'y' after top-level value ({"metadata":{"name":"x"}} y)`},
		{"POST", "", `{"kind":"ConfigMap","apiVersion":"a/b/c"}`, nil, 400, lost + `unexpected GroupVersion string: a/b/c ({"kind":"ConfigMap","apiVersio ...)`},
		{"POST", "", `a: [b`, []string{"Content-Type", "application/yaml"}, 400, lost + `error converting YAML to JSON: yaml: line 1: did not find expected ',' or ']' (613a205b62)`},
		{"POST", "", `{"data":5}`, nil, 400, `ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string`},
		{"POST", "", `{"kind":"Nope","data":5}`, nil, 400, `Nope in version `},
		{"POST", "", `{"apiVersion":"v2","metadata":{"name":"x"}}`, nil, 400, ""},
		{"PUT", "/c", `{"metadata":{"name":"d","namespace":"other"}}`, nil, 400, `the namespace of the provided object does not match the namespace sent on the request`},
		{"PUT", "/c", `{"metadata":{"name":"d"}}`, nil, 400, `the name of the object (d) does not match the name on the URL (c)`},
		{"PATCH", "/c", `{"metadata":{"namespace":"other"}}`, []string{"Content-Type", mergeType}, 400, `the namespace of the object (other) does not match the namespace on the request (default)`},
		{"PATCH", "/c", `{"metadata":{"name":"d","namespace":"other"}}`, []string{"Content-Type", mergeType}, 400, `the name of the object (d) does not match the name on the URL (c)`},
	} {
		a := w.do(t, tt.method, cmURL+tt.path, tt.body, tt.header...)
		message, _ := a.at("message").(string)
		if a.code != tt.code || !strings.HasPrefix(message, tt.message) {
			t.Errorf("%s %s %s: %d %s", tt.method, tt.path, tt.body, a.code, a.raw)
		}
	}
	for _, said := range []string{``, `"kind":"ConfigMap",`, `"apiVersion":"v1",`, `"kind":"ConfigMap","apiVersion":"v1",`} {
		for _, try := range []struct{ method, path string }{{"PUT", "/c"}, {"PUT", "/c?dryRun=All"}} {
			a := w.must(t, 200, try.method, cmURL+try.path, `{`+said+`"metadata":{"name":"c"},"data":{"said":"`+strings.ReplaceAll(said, `"`, "")+`"}}`)
			if a.at("kind") != "ConfigMap" || a.at("apiVersion") != "v1" {
				t.Errorf("{%s: %s", said, a.raw)
			}
		}
		if a := w.must(t, 200, "GET", cmURL+"/c", ""); a.at("kind") != "ConfigMap" || a.at("apiVersion") != "v1" {
			t.Errorf("{%s: read %s", said, a.raw)
		}
	}
}

// TestWatchByPath: as old clients watch, of many objects and of one.
func TestWatchByPath(t *testing.T) {
	var seen []authorizer.AttributesRecord
	w := newWorld(t, func(c *apiserver.Config) {
		c.Authz = rights(func(a authorizer.Attributes) bool {
			seen = append(seen, a.(authorizer.AttributesRecord))
			return true
		})
	})
	w.putConfigMap(t, "c", "1", "x")
	w.putConfigMap(t, "d", "1", "x")
	const old = "/api/v1/watch/namespaces/default/configmaps"
	watchers := map[string]*watcher{}
	for path, want := range map[string][]string{
		old: {"ADDED c 1", "ADDED d 1"}, "/api/v1/watch/configmaps": {"ADDED c 1", "ADDED d 1"}, old + "/d": {"ADDED d 1"}, old + "/e": nil,
		old + "?fieldSelector=metadata.name%3Dc": {"ADDED c 1"}, old + "/c?fieldSelector=metadata.name%3Dc": {"ADDED c 1"},
	} {
		seen = nil
		watchers[path] = w.watch(t, path)
		watchers[path].expect(want...)
		if len(seen) != 1 || seen[0].Verb != "watch" || seen[0].Resource != "configmaps" || len(seen[0].FieldSelectorRequirements) > 0 || (seen[0].Name != "") != strings.Contains(path, "configmaps/") {
			t.Errorf("%s: asked %+v", path, seen)
		}
	}
	for _, name := range []string{"c", "d", "e"} {
		w.putConfigMap(t, name, "2", "x")
	}
	watchers[old].expect("MODIFIED c 2", "MODIFIED d 2", "ADDED e 2")
	watchers[old+"/d"].expect("MODIFIED d 2")
	watchers[old+"/e"].expect("ADDED e 2")
	watchers[old+"/c?fieldSelector=metadata.name%3Dc"].expect("MODIFIED c 2")
	for _, tt := range []struct {
		method, path string
		code         int
	}{
		{"GET", old + "/c?fieldSelector=metadata.name%3Dd", 400}, {"GET", "/api/v1/watch/configmaps/c", 404}, {"GET", "/api/v1/watch/namespaces/default/pods/p/status", 404},
		{"GET", "/api/v1/watch/namespaces/default/pods/p/proxy/x", 404}, {"POST", old, 405}, {"DELETE", old + "/c", 405}, {"GET", "/api/v1/watch", 404},
	} {
		if a := w.do(t, tt.method, tt.path, ""); a.code != tt.code {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, a.code, a.raw)
		}
	}
	// A right to one object is none to delete collections, whatever they select.
	seen = nil
	w.must(t, 200, "DELETE", cmURL+"?fieldSelector=metadata.name%3Dc", "")
	if len(seen) != 1 || seen[0].Verb != "deletecollection" || seen[0].Name != "" || len(seen[0].FieldSelectorRequirements) != 1 {
		t.Errorf("asked %+v", seen)
	}
	w.must(t, 404, "GET", cmURL+"/c", "")
	w.must(t, 200, "GET", cmURL+"/d", "")
}

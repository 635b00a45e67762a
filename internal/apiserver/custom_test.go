package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/custom"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
	"knarr.dev/knarr/internal/webhook"
)

const (
	crdURL  = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	shipURL = "/apis/harbour.example/v1/namespaces/default/ships"
)

const shipCRD = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"ships.harbour.example"},"spec":{
"group":"harbour.example","scope":"Namespaced","names":{"plural":"ships","singular":"ship","kind":"Ship","shortNames":["sh"]},
"conversion":CONVERSION,
"versions":[
 {"name":"v1","served":true,"storage":true,"subresources":{"status":{},"scale":{"specReplicasPath":".spec.crew","statusReplicasPath":".status.crew","labelSelectorPath":".status.selector"}},
  "additionalPrinterColumns":[{"name":"Berths","type":"integer","jsonPath":".spec.berths"},{"name":"Flag","type":"string","jsonPath":".spec.flag","priority":1}],
  "selectableFields":[{"jsonPath":".spec.flag"}],
  "schema":{"openAPIV3Schema":{"type":"object","required":["spec"],"properties":{
   "spec":{"type":"object","required":["berths"],"x-kubernetes-validations":[{"rule":"self.berths <= 10 || has(self.pilot)","message":"large ships need a pilot"}],
    "properties":{"berths":{"type":"integer","minimum":1},"flag":{"type":"string","default":"none"},"pilot":{"type":"string"},"crew":{"type":"integer"},
     "cargo":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}}, "any":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}},
   "status":{"type":"object","properties":{"moored":{"type":"boolean"},"crew":{"type":"integer"},"selector":{"type":"string"}}}}}}},
 {"name":"v1alpha1","served":true,"storage":false,"deprecated":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

// newCustom is a server with ships.
func newCustom(t *testing.T, conversion string) *world {
	t.Helper()
	v := view.New([]*kinds.Kind{kinds.CustomResourceDefinition}, view.Owned)
	var cfg apiserver.Config
	w := newWorld(t, func(c *apiserver.Config) {
		c.Cache.Feed(v)
		cfg = *c
	})
	w.ships(t, cfg, v, conversion)
	return w
}

// ships serves them on a world that holds definitions in its view.
func (w *world) ships(t *testing.T, cfg apiserver.Config, v *view.View, conversion string) {
	t.Helper()
	r := custom.NewRegistrar(custom.Config{Table: cfg.Kinds, Cache: cfg.Cache, View: v, Client: w.server.Client(admin), Convert: custom.ByWebhook(webhook.New(nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.define(t, "ships.harbour.example", strings.ReplaceAll(shipCRD, "CONVERSION", conversion))
}

// define a kind, as the controller of definitions would, and wait for it.
func (w *world) define(t *testing.T, name, crd string) {
	t.Helper()
	names := w.must(t, 201, "POST", crdURL, crd).at("spec.names")
	accepted, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	w.must(t, 200, "PATCH", crdURL+"/"+name+"/status", `{"status":{"acceptedNames":`+string(accepted)+`,
		"conditions":[{"type":"NamesAccepted","status":"True","reason":"NoConflicts","message":"","lastTransitionTime":null}]}}`, "Content-Type", mergeType)
	w.wait(t, "established", func() bool {
		return strings.Contains(w.do(t, "GET", crdURL+"/"+name, "").raw, `"type":"Established","status":"True"`)
	})
}

// wait polls for what shows in no other way.
func (w *world) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-t.Context().Done():
			t.Fatal("it never came: " + what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func ship(name, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"harbour.example/v1","kind":"Ship","metadata":{"name":%q},"spec":%s}`, name, spec)
}

func TestCustomResources(t *testing.T) {
	w := newCustom(t, `{"strategy":"None"}`)
	a := w.must(t, 201, "POST", shipURL, `{"apiVersion":"harbour.example/v1","kind":"Ship","metadata":{"name":"a"},"spec":{"berths":2,"cargo":["x"],"any":{"b":1}},"status":{"moored":true}}`)
	if a.at("spec.flag") != "none" || a.at("status") != nil || a.at("metadata.generation") != 1.0 || a.at("spec.any.b") != 1.0 {
		t.Errorf("created %s", a.raw)
	}
	for _, tt := range []struct{ name, spec, want string }{
		{"b", `{"berths":0}`, `spec.berths: Invalid value: 0: spec.berths in body should be greater than or equal to 1`},
		{"b", `{}`, "spec.berths: Required value"},
		{"b", `{"berths":"many"}`, `spec.berths: Invalid value: \"string\": spec.berths in body must be of type integer: \"string\"`},
		{"b", `{"berths":11}`, "large ships need a pilot"},
		{"b", `{"berths":1,"cargo":["x","x"]}`, `spec.cargo[1]: Duplicate value: \"x\"`},
		{"B", `{"berths":1}`, "metadata.name: Invalid value"},
	} {
		if a := w.do(t, "POST", shipURL, ship(tt.name, tt.spec)); a.code != 422 || !strings.Contains(a.raw, tt.want) {
			t.Errorf("%s: %d %s, want %s", tt.spec, a.code, a.raw, tt.want)
		}
	}
	for _, tt := range []struct {
		body string
		code int
		want string
	}{
		{`{"kind":"Ship"}`, 400, "Object 'apiVersion' is missing"},
		{`{"apiVersion":"harbour.example/v2","kind":"Ship","metadata":{"name":"b"}}`, 400, "the API version in the data (harbour.example/v2) does not match the expected API version (harbour.example/v1)"},
		{`{"apiVersion":"harbour.example/v1","kind":"Ship","metadata":{"name":"b","labels":7},"spec":{"berths":1}}`, 400, "labels"},
		{`[]`, 400, ""},
	} {
		if a := w.do(t, "POST", shipURL, tt.body); a.code != tt.code || !strings.Contains(a.raw, tt.want) {
			t.Errorf("%s: %d %s", tt.body, a.code, a.raw)
		}
	}
	a = w.must(t, 201, "POST", shipURL, `{"apiVersion":"harbour.example/v1","kind":"Ship","metadata":{"name":"pruned"},"spec":{"berths":1,"nope":2,"berths":3}}`)
	if a.at("spec.nope") != nil || !strings.Contains(a.header.Values("Warning")[0]+a.header.Values("Warning")[1], `unknown field \"spec.nope\"`) {
		t.Errorf("%s %v", a.raw, a.header["Warning"])
	}
	if a := w.do(t, "POST", shipURL+"?fieldValidation=Strict", ship("strict", `{"berths":1,"nope":2}`)); a.code != 400 || !strings.Contains(a.raw, `strict decoding error: unknown field \"spec.nope\"`) {
		t.Errorf("%d %s", a.code, a.raw)
	}

	a = w.must(t, 200, "PATCH", shipURL+"/a", `{"spec":{"berths":3},"status":{"moored":true}}`, "Content-Type", mergeType)
	if a.at("metadata.generation") != 2.0 || a.at("status") != nil {
		t.Errorf("patched %s", a.raw)
	}
	a = w.must(t, 200, "PATCH", shipURL+"/a/status", `{"spec":{"berths":9},"status":{"moored":true,"crew":4,"selector":"a=b"}}`, "Content-Type", mergeType)
	if a.at("metadata.generation") != 2.0 || a.at("status.moored") != true || a.at("spec.berths") != 3.0 {
		t.Errorf("status %s", a.raw)
	}
	if a := w.do(t, "PATCH", shipURL+"/a/status", `{"status":{"moored":"yes"}}`, "Content-Type", mergeType); a.code != 422 || !strings.Contains(a.raw, "status.moored") {
		t.Errorf("%d %s", a.code, a.raw)
	}
	if a := w.do(t, "PATCH", shipURL+"/a", `{"spec":{"berths":4}}`, "Content-Type", "application/strategic-merge-patch+json"); a.code != 415 {
		t.Errorf("strategic merge: %d %s", a.code, a.raw)
	}
	a = w.must(t, 200, "PUT", shipURL+"/a/scale", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"a","namespace":"default"},"spec":{"replicas":7}}`)
	if a.at("spec.replicas") != 7.0 || a.at("status.replicas") != 4.0 || a.at("status.selector") != "a=b" {
		t.Errorf("scale %s", a.raw)
	}
	a = w.must(t, 200, "GET", shipURL, "", "Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
	if !strings.Contains(a.raw, `"cells":["a",3,"none"]`) || !strings.Contains(a.raw, `"name":"Berths"`) || !strings.Contains(a.raw, `"priority":1`) {
		t.Errorf("table %s", a.raw)
	}
	if a := w.do(t, "GET", shipURL, "", "Accept", "application/vnd.kubernetes.protobuf,application/json"); a.code != 200 || a.at("kind") != "ShipList" {
		t.Errorf("%d %s", a.code, a.raw)
	}
	if a := w.do(t, "GET", shipURL, "", "Accept", "application/vnd.kubernetes.protobuf"); a.code != 406 {
		t.Errorf("protobuf alone: %d", a.code)
	}
	w.must(t, 201, "POST", shipURL, ship("flagged", `{"berths":1,"flag":"fi"}`))
	if a := w.must(t, 200, "GET", shipURL+"?fieldSelector=spec.flag%3Dfi", ""); strings.Count(a.raw, `"uid"`) != 1 || !strings.Contains(a.raw, `"name":"flagged"`) {
		t.Errorf("selected %s", a.raw)
	}
	if a := w.do(t, "GET", shipURL+"?fieldSelector=spec.berths%3D1", ""); a.code != 400 {
		t.Errorf("a field that is not selectable: %d %s", a.code, a.raw)
	}

	old := strings.ReplaceAll(shipURL, "/v1/", "/v1alpha1/")
	a = w.must(t, 200, "GET", old+"/a", "")
	if a.at("apiVersion") != "harbour.example/v1alpha1" || a.at("spec.berths") != 3.0 || !strings.Contains(strings.Join(a.header.Values("Warning"), " "), "harbour.example/v1alpha1 Ship is deprecated") {
		t.Errorf("%s %v", a.raw, a.header["Warning"])
	}
	w.must(t, 201, "POST", old, `{"apiVersion":"harbour.example/v1alpha1","kind":"Ship","metadata":{"name":"old"},"spec":{"berths":1,"odd":true}}`)
	if a := w.must(t, 200, "GET", shipURL+"/old", ""); a.at("spec.odd") != nil || a.at("spec.flag") != "none" {
		t.Errorf("in the newer version %s", a.raw)
	}
}

// TestRatcheting: what was wrong before its rule came may stay as it is.
func TestRatcheting(t *testing.T) {
	w := newCustom(t, `{"strategy":"None"}`)
	w.must(t, 201, "POST", shipURL, ship("a", `{"berths":9}`))
	before := w.must(t, 200, "GET", crdURL+"/ships.harbour.example", "").raw
	w.must(t, 200, "PUT", crdURL+"/ships.harbour.example", strings.ReplaceAll(before, `"minimum":1`, `"minimum":1,"maximum":5`))
	w.wait(t, "the new rule", func() bool { return w.do(t, "POST", shipURL, ship("b", `{"berths":9}`)).code == 422 })
	w.must(t, 200, "PATCH", shipURL+"/a", `{"spec":{"flag":"fi"}}`, "Content-Type", mergeType)
	if a := w.do(t, "PATCH", shipURL+"/a", `{"spec":{"berths":8}}`, "Content-Type", mergeType); a.code != 422 {
		t.Errorf("changed to what is wrong, too: %d %s", a.code, a.raw)
	}
}

// TestConversionWebhook: versions that only somebody else can convert.
func TestConversionWebhook(t *testing.T) {
	hook := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var in struct {
			APIVersion, Kind string
			Request          struct {
				UID, DesiredAPIVersion string
				Objects                []map[string]any
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		for _, o := range in.Request.Objects {
			o["apiVersion"] = in.Request.DesiredAPIVersion
			spec := o["spec"].(map[string]any)
			if strings.HasSuffix(in.Request.DesiredAPIVersion, "alpha1") {
				spec["places"] = spec["berths"]
				delete(spec, "berths")
			} else {
				spec["berths"] = spec["places"]
				delete(spec, "places")
			}
			if spec["pilot"] == "lost" {
				o["metadata"].(map[string]any)["name"] = "another"
			}
		}
		_ = json.NewEncoder(rw).Encode(map[string]any{"apiVersion": in.APIVersion, "kind": in.Kind,
			"response": map[string]any{"uid": in.Request.UID, "result": map[string]any{"status": "Success"}, "convertedObjects": in.Request.Objects}})
	}))
	t.Cleanup(hook.Close)
	w := newCustom(t, `{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1"],"clientConfig":{"url":"`+hook.URL+`","caBundle":"`+bundleOf(hook)+`"}}}`)
	old := strings.ReplaceAll(shipURL, "/v1/", "/v1alpha1/")
	w.must(t, 201, "POST", old, `{"apiVersion":"harbour.example/v1alpha1","kind":"Ship","metadata":{"name":"a","labels":{"x":"y"}},"spec":{"places":4}}`)
	if a := w.must(t, 200, "GET", shipURL+"/a", ""); a.at("spec.berths") != 4.0 || a.at("metadata.labels.x") != "y" {
		t.Errorf("%s", a.raw)
	}
	if a := w.must(t, 200, "GET", old, ""); !strings.Contains(a.raw, `"places":4`) {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 201, "POST", shipURL, ship("b", `{"berths":1,"pilot":"lost"}`))
	if a := w.do(t, "GET", old+"/b", ""); a.code != 500 || !strings.Contains(a.raw, "conversion webhook for harbour.example/v1, Kind=Ship failed") || !strings.Contains(a.raw, "must have the same name") {
		t.Errorf("%d %s", a.code, a.raw)
	}
}

// TestCustomResourcesEnd: while a definition is being deleted nothing is
// created, and afterwards nothing is left of it.
func TestCustomResourcesEnd(t *testing.T) {
	w := newCustom(t, `{"strategy":"None"}`)
	w.must(t, 201, "POST", shipURL, ship("a", `{"berths":1}`))
	a := w.must(t, 200, "DELETE", crdURL+"/ships.harbour.example", "")
	if !strings.Contains(a.raw, "InstanceDeletionPending") || !strings.Contains(a.raw, "customresourcecleanup.apiextensions.k8s.io") {
		t.Errorf("%s", a.raw)
	}
	w.wait(t, "the end of creation", func() bool { return w.do(t, "POST", shipURL, ship("b", `{"berths":1}`)).code == 405 })
	w.must(t, 200, "GET", shipURL+"/a", "")
	w.must(t, 200, "DELETE", shipURL+"/a", "")
	w.must(t, 200, "PATCH", crdURL+"/ships.harbour.example", `{"metadata":{"finalizers":null}}`, "Content-Type", mergeType)
	w.wait(t, "the end of the resource", func() bool { return w.do(t, "GET", shipURL, "").code == 404 })
}

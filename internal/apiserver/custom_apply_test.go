package apiserver_test

import (
	"encoding/json"
	"strings"
	"testing"
)

const (
	crateURL = "/apis/yard.example/v1/namespaces/default/crates"
	crateCRD = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"crates.yard.example"},"spec":{
"group":"yard.example","scope":"Namespaced","names":{"plural":"crates","singular":"crate","kind":"Crate","listKind":"CrateList"},
"versions":[
 {"name":"v1","served":true,"storage":true,"subresources":{"status":{},"scale":{"specReplicasPath":".spec.count","statusReplicasPath":".status.count"}},
  "schema":{"openAPIV3Schema":SCHEMA}},
 {"name":"v2","served":V2,"storage":false,"subresources":{"status":{}},"schema":{"openAPIV3Schema":SCHEMA}}]}}`
	crateSchema = `{"type":"object","properties":{
 "spec":{"type":"object","properties":{
  "count":{"type":"integer"},
  "limit":{"x-kubernetes-int-or-string":true},
  "tags":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
  "ports":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["port","protocol"],"items":{"type":"object","required":["port"],
   "properties":{"port":{"type":"integer"},"protocol":{"type":"string","default":"TCP"},"name":{"type":"string"}}}},
  "steps":{"type":"array","items":{"type":"string"}},
  "whole":{"type":"object","x-kubernetes-map-type":"atomic","properties":{"a":{"type":"string"},"b":{"type":"string"}}},
  "parts":{"type":"object","additionalProperties":{"type":"string"}},
  "any":{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"known":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}}}},
  "template":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}}},
 "status":{"type":"object","properties":{"count":{"type":"integer"},
  "conditions":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["type"],"items":{"type":"object","required":["type"],
   "properties":{"type":{"type":"string"},"status":{"type":"string"}}}}}}}}`
)

func newCrates(t *testing.T) *world {
	t.Helper()
	w := newCustom(t, `{"strategy":"None"}`)
	w.define(t, "crates.yard.example", strings.NewReplacer("SCHEMA", crateSchema, "V2", "true").Replace(crateCRD))
	return w
}

func crate(version, body string) string {
	return `{"apiVersion":"yard.example/` + version + `","kind":"Crate","metadata":{"name":"c"},` + body + `}`
}

// json is a value as JSON, with sorted keys.
func (a answer) json(path string) string {
	data, _ := json.Marshal(a.at(path)) // it was JSON
	return string(data)
}

// The schema of a custom kind says what is owned as a whole.
func TestApplyByCustomSchema(t *testing.T) {
	w := newCrates(t)
	const c = crateURL + "/c"
	a := w.apply(t, 201, c+"?fieldManager=one", crate("v1", `"spec":{"limit":"5%","tags":["x","y"],"ports":[{"port":80,"name":"web"}],"steps":["1","2"],
		"whole":{"a":"1"},"parts":{"p":"1"},"any":{"list":[1,2],"deep":{"q":1},"known":["k"]},
		"template":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"t","finalizers":["f.example/a"]},"spec":{"list":[1]}}},"status":{"count":9}`))
	owned := a.owned("one", "")
	for _, want := range []string{
		`"f:tags":{"v:"x"":{},"v:"y"":{}}`,
		`"k:{"port":80,"protocol":"TCP"}":{".":{},"f:name":{},"f:port":{}}`,
		`"f:steps":{}`, `"f:whole":{}`, `"f:parts":{"f:p":{}}`, `"f:limit":{}`,
		`"f:any":{"f:deep":{".":{},"f:q":{}},"f:known":{"v:"k"":{}},"f:list":{}}`,
		`"f:template":{"f:apiVersion":{},"f:kind":{},"f:metadata":{"f:finalizers":{"v:"f.example/a"":{}},"f:name":{}},"f:spec":{".":{},"f:list":{}}}`,
	} {
		if !strings.Contains(owned, want) {
			t.Errorf("owned: %s, want %s", owned, want)
		}
	}
	if strings.Contains(owned, "status") || a.at("status") != nil {
		t.Errorf("the status is not its own to write: %s", a.raw)
	}
	a = w.apply(t, 200, c+"?fieldManager=two", crate("v1", `"spec":{"tags":["y","z"],"ports":[{"port":80,"protocol":"UDP"},{"port":80,"protocol":"TCP"}],"parts":{"o":"2"}}`))
	if got := a.json("spec.tags"); got != `["x","y","z"]` {
		t.Errorf("tags %s", got)
	}
	if got := a.json("spec.ports"); got != `[{"port":80,"protocol":"UDP"},{"name":"web","port":80,"protocol":"TCP"}]` {
		t.Errorf("ports %s", got)
	}
	for _, tt := range []struct{ spec, want string }{
		{`{"steps":["3"]}`, `conflict with \"one\": .spec.steps`},
		{`{"whole":{"b":"1"}}`, `conflict with \"one\": .spec.whole`},
		{`{"ports":[{"port":80,"name":"other"}]}`, `conflict with \"one\": .spec.ports[port=80,protocol=\"TCP\"].name`},
		{`{"any":{"list":[3]}}`, `conflict with \"one\": .spec.any.list`},
	} {
		a := w.apply(t, 409, c+"?fieldManager=two", crate("v1", `"spec":`+tt.spec))
		if a.at("reason") != "Conflict" || !strings.Contains(a.raw, tt.want) || !strings.Contains(a.raw, `"reason":"FieldManagerConflict"`) {
			t.Errorf("%s: %s", tt.spec, a.raw)
		}
	}
	a = w.apply(t, 200, c+"?fieldManager=one", crate("v1", `"spec":{"tags":["x"],"steps":["1","2"]}`))
	if got := a.json("spec"); got != `{"parts":{"o":"2"},"ports":[{"port":80,"protocol":"UDP"},{"port":80,"protocol":"TCP"}],"steps":["1","2"],"tags":["x","y","z"]}` {
		t.Errorf("what one has given up and two has not: %s", got)
	}
	a = w.apply(t, 500, c+"?fieldManager=one", crate("v1", `"spec":{"tags":["x","x"]}`))
	if !strings.Contains(a.raw, `.spec.tags: duplicate entries for key [=\"x\"]`) {
		t.Errorf("duplicates: %s", a.raw)
	}
	a = w.apply(t, 500, c+"?fieldManager=one", crate("v1", `"spec":{"unknown":1}`))
	if !strings.Contains(a.raw, `failed to create typed patch object (/c; yard.example/v1, Kind=Crate): .spec.unknown: field not declared in schema`) {
		t.Errorf("unknown: %s", a.raw)
	}
	a = w.apply(t, 400, c+"?fieldManager=one", crate("v2", `"spec":{}`))
	if !strings.Contains(a.raw, "invalid object type: yard.example/v2, Kind=Crate") {
		t.Errorf("version: %s", a.raw)
	}
}

// Updates, the status, the scale and the other versions follow the schema too.
func TestManagersOfCustomResources(t *testing.T) {
	w := newCrates(t)
	const c, c2 = crateURL + "/c", "/apis/yard.example/v2/namespaces/default/crates/c"
	a := w.must(t, 201, "POST", crateURL+"?fieldManager=maker", crate("v1", `"spec":{"count":1,"tags":["x"],"ports":[{"port":80}]}`))
	if got := a.owned("maker", ""); !strings.Contains(got, `k:{"port":80,"protocol":"TCP"}`) || !strings.Contains(got, `v:"x"`) {
		t.Errorf("created: %s", got)
	}
	w.must(t, 200, "PATCH", c+"?fieldManager=json", `[{"op":"add","path":"/spec/tags/-","value":"y"}]`, "Content-Type", jsonPatchType)
	a = w.must(t, 200, "PATCH", c+"/status?fieldManager=st", `{"metadata":{"labels":{"no":"1"}},"spec":{"count":7},"status":{"count":1,"conditions":[{"type":"A","status":"True"}]}}`, "Content-Type", mergeType)
	if got := a.owned("json", ""); got != `{"f:spec":{"f:tags":{"v:"y"":{}}}}` {
		t.Errorf("json: %s", got)
	}
	if got := a.owned("st", "status"); got != `{"f:status":{".":{},"f:conditions":{".":{},"k:{"type":"A"}":{".":{},"f:status":{},"f:type":{}}},"f:count":{}}}` {
		t.Errorf("status: %s", got)
	}
	w.apply(t, 200, c+"/status?fieldManager=other", crate("v1", `"status":{"conditions":[{"type":"B","status":"True"}]}`))
	w.must(t, 200, "PATCH", c+"/scale?fieldManager=sc", `{"spec":{"replicas":3}}`, "Content-Type", mergeType)
	a = w.apply(t, 200, c2+"?fieldManager=two", crate("v2", `"spec":{"tags":["y"],"parts":{"b":"1"}}`))
	wantManagers(t, a, "json Update", "maker Update", "other Apply status", "sc Update scale", "st Update status", "two Apply")
	if got := a.owned("sc", "scale"); got != `{"f:spec":{"f:count":{}}}` {
		t.Errorf("scale: %s", got)
	}
	// What version 2 owns counts in version 1, also when it is no longer served.
	for _, served := range []string{"true", "false"} {
		w.must(t, 200, "PATCH", crdURL+"/crates.yard.example", `[{"op":"replace","path":"/spec/versions/1/served","value":`+served+`}]`, "Content-Type", jsonPatchType)
		w.wait(t, "v2 served: "+served, func() bool { return (w.do(t, "GET", c2, "").code == 200) == (served == "true") })
		a = w.apply(t, 409, c+"?fieldManager=three", crate("v1", `"spec":{"parts":{"b":"2"}}`))
		if !strings.Contains(a.raw, `conflict with \"two\": .spec.parts.b`) {
			t.Errorf("served %s: %s", served, a.raw)
		}
	}
}

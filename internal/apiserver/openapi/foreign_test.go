package openapi

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// others are servers that say what a test wants them to.
type others struct {
	third  map[string]string
	second []Foreign
}

func (o *others) Third(context.Context) map[string]string { return o.third }
func (o *others) Second(context.Context) []Foreign        { return o.second }

const flunderDoc = `{"swagger":"2.0","info":{"title":"Wardle","version":"1"},"paths":{
 "/apis/wardle.example.com/v1alpha1/":{"get":{"parameters":[{"$ref":"#/parameters/pretty-1"}],"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}}}},
 "/apis/wardle.example.com/v1alpha1/flunders":{"get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/Flunder"}}}}},
 "/apis/wardle.example.com/v1alpha10/others":{"get":{"responses":{"200":{"description":"OK"}}}},
 "/api/v1/pods":{"get":{"responses":{"200":{"description":"an impostor"}}}},
 "/version/":{"get":{"responses":{"200":{"description":"OK"}}}}},
"parameters":{"pretty-1":{"name":"pretty","in":"query","type":"string"}},
"definitions":{
 "Flunder":{"type":"object","properties":{"next":{"$ref":"#/definitions/Flunder"},"metadata":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},"time":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Time"}}},
 "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta":{"type":"object","properties":{"odd":{"type":"string"}}},
 "io.k8s.apimachinery.pkg.apis.meta.v1.Time":{"description":"in other words","format":"date-time","type":"string"},
 "Unused":{"type":"object"}}}`

// Documents of other servers stand beside ours, and change nothing of it.
func TestForeignDocuments(t *testing.T) {
	remote := &others{third: map[string]string{"apis/wardle.example.com/v1alpha1": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=A", "apis/apps/v1": "/elsewhere"},
		second: []Foreign{{Prefix: "/apis/wardle.example.com/v1alpha1", ETag: "1", Body: []byte(flunderDoc)},
			{Prefix: "/apis/broken.example/v1", Body: []byte("[")}, {Prefix: "/apis/odd.example/v1", Body: []byte(`{"paths":{"/apis/odd.example/v1/odd":7}}`)}}}
	h, err := New(nil, func() Remote { return remote })
	if err != nil {
		t.Fatal(err)
	}
	index := get(t, h, "/openapi/v3", "").Body.String()
	if !strings.Contains(index, `"apis/wardle.example.com/v1alpha1":{"serverRelativeURL":"/openapi/v3/apis/wardle.example.com/v1alpha1?hash=A"}`) || strings.Contains(index, "elsewhere") {
		t.Errorf("index: %s", index)
	}
	load := func() (paths, definitions map[string]json.RawMessage, rec *httptest.ResponseRecorder) {
		t.Helper()
		rec = get(t, h, "/openapi/v2", "")
		var doc struct{ Paths, Definitions map[string]json.RawMessage }
		if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
			t.Fatal(err)
		}
		return doc.Paths, doc.Definitions, rec
	}
	paths, definitions, first := load()
	const meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	flunder, group := string(definitions["Flunder"]), string(paths["/apis/wardle.example.com/v1alpha1/"])
	switch {
	case paths["/apis/wardle.example.com/v1alpha1/flunders"] == nil || paths["/apis/wardle.example.com/v1alpha10/others"] != nil || paths["/version/"] != nil || definitions["Unused"] != nil:
		t.Error("other paths than those of the group and version")
	case strings.Contains(string(paths["/api/v1/pods"]), "impostor"):
		t.Error("ours are not ours")
	case strings.Contains(string(definitions[meta]), "odd") || !strings.Contains(string(definitions[meta+"_v2"]), "odd"):
		t.Errorf("another model of the same name: %s %s", definitions[meta], definitions[meta+"_v2"])
	case !strings.Contains(flunder, meta+`_v2"`) || !strings.Contains(flunder, `definitions/Flunder"`) || !strings.Contains(group, meta+`_v2"`):
		t.Errorf("references: %s %s", flunder, group)
	case !strings.Contains(flunder, `meta.v1.Time"`) || definitions["io.k8s.apimachinery.pkg.apis.meta.v1.Time_v2"] != nil:
		t.Errorf("a description makes no other model: %s", flunder)
	case !strings.Contains(group, `"name":"pretty"`):
		t.Errorf("shared parameters: %s", group)
	}
	if again := get(t, h, "/openapi/v2", ""); again.Header().Get("Etag") != first.Header().Get("Etag") {
		t.Error("the same documents have another tag")
	}
	remote.second = nil
	if paths, _, second := load(); paths["/apis/wardle.example.com/v1alpha1/flunders"] != nil || second.Header().Get("Etag") == first.Header().Get("Etag") {
		t.Error("a server that is gone is still there")
	}
}

package openapi

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
)

func customKind() *kinds.Kind {
	gvk := schema.GroupVersionKind{Group: "harbour.example.com", Version: "v1", Kind: "Ship"}
	return &kinds.Kind{GVK: gvk, Resource: "ships", Singular: "ship", Namespaced: true,
		New: func() kinds.Object {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(gvk)
			return u
		},
		NewList: func() runtime.Object {
			l := &unstructured.UnstructuredList{}
			l.SetGroupVersionKind(gvk.GroupVersion().WithKind("ShipList"))
			return l
		},
		Model: func(bool) ([]byte, error) {
			return []byte(`{"description":"A ship.","type":"object","properties":{"spec":{"type":"object","properties":{"berths":{"type":"integer"},"cargo":{"type":"object","x-kubernetes-embedded-resource":true}}}}}`), nil
		}}
}

func get(t *testing.T, h *Handler, path, accept string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestCustom: a kind is described as soon as it is there, and no longer than
// it is.
func TestCustom(t *testing.T) {
	var id int
	ks := kinds.Builtin().All()
	h, err := New(func() (any, []*kinds.Kind) { return id, ks }, nil)
	if err != nil {
		t.Fatal(err)
	}
	const path = "apis/harbour.example.com/v1"
	if w := get(t, h, "/openapi/v3/"+path, ""); w.Code != 404 {
		t.Fatalf("before: %d", w.Code)
	}
	ks, id = append(ks[:len(ks):len(ks)], customKind()), 1
	if w := get(t, h, "/openapi/v3", ""); !strings.Contains(w.Body.String(), path) {
		t.Errorf("the index does not name it: %s", w.Body)
	}
	s := load(t, h, path)
	var one struct {
		Properties map[string]json.RawMessage
		GVK        []metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
	}
	if err := json.Unmarshal(s.Components.Schemas["com.example.harbour.v1.Ship"], &one); err != nil {
		t.Fatal(err)
	}
	if len(one.GVK) != 1 || one.GVK[0].Kind != "Ship" || one.Properties["metadata"] == nil || one.Properties["apiVersion"] == nil || !strings.Contains(string(one.Properties["spec"]), `"apiVersion"`) {
		t.Errorf("%+v %s", one.GVK, s.Components.Schemas["com.example.harbour.v1.Ship"])
	}
	patch := string(s.Paths["/apis/harbour.example.com/v1/namespaces/{namespace}/ships/{name}"]["patch"])
	if strings.Contains(patch, "strategic") || !strings.Contains(patch, "merge-patch") || !strings.Contains(patch, "fieldValidation") || !strings.Contains(patch, `"kind":"Ship"`) {
		t.Errorf("patch: %s", patch)
	}
	for _, name := range []string{"com.example.harbour.v1.ShipList", "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"} {
		if s.Components.Schemas[name] == nil {
			t.Errorf("no model %s", name)
		}
	}
	if w := get(t, h, "/openapi/v2", "application/json"); !strings.Contains(w.Body.String(), "com.example.harbour.v1.Ship") {
		t.Error("version 2 does not know it")
	}
	ks, id = ks[:len(ks)-1], 2
	if w := get(t, h, "/openapi/v3/"+path, ""); w.Code != 404 {
		t.Errorf("after: %d", w.Code)
	}
}

// TestVersion2: both forms say the same, and every reference leads somewhere.
func TestVersion2(t *testing.T) {
	h, err := New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := get(t, h, "/openapi/v2", "application/json")
	var doc struct {
		Swagger     string
		Definitions map[string]json.RawMessage
		Paths       map[string]json.RawMessage
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.Swagger != "2.0" {
		t.Fatalf("%v %q", err, doc.Swagger)
	}
	for _, m := range regexp.MustCompile(`"#/definitions/([^"]+)"`).FindAllStringSubmatch(w.Body.String(), -1) {
		if doc.Definitions[m[1]] == nil {
			t.Errorf("nothing at %s", m[1])
		}
	}
	if strings.Contains(w.Body.String(), "#/components/") {
		t.Error("a reference of version 3 is left")
	}
	if pod := string(doc.Definitions["io.k8s.api.core.v1.Pod"]); !strings.Contains(pod, `"$ref":"#/definitions/io.k8s.api.core.v1.PodSpec"`) {
		t.Errorf("pod: %s", pod)
	}
	if q := string(doc.Definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]); !strings.Contains(q, `"type":"string"`) || !strings.Contains(q, "int-or-string") {
		t.Errorf("int or string: %s", q)
	}
	for _, accept := range protoTypes {
		w := get(t, h, "/openapi/v2", accept)
		var p openapiv2.Document
		if err := proto.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Header().Get("Content-Type") != "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" {
			t.Fatalf("%s: %v %s", accept, err, w.Header())
		}
		if len(p.Definitions.AdditionalProperties) != len(doc.Definitions) || len(p.Paths.Path) != len(doc.Paths) {
			t.Errorf("%d definitions and %d paths, want %d and %d", len(p.Definitions.AdditionalProperties), len(p.Paths.Path), len(doc.Definitions), len(doc.Paths))
		}
	}
	if w := get(t, h, "/openapi/v2", "text/html"); w.Code != 406 {
		t.Errorf("a form that there is none of: %d", w.Code)
	}
}

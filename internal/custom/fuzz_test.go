package custom

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// soon is how long one input may take, however slow the machine is.
const soon = 30 * time.Second

func definition(schema *apiextensionsv1.JSONSchemaProps, column, selectable string) *apiextensionsv1.CustomResourceDefinition {
	names := apiextensionsv1.CustomResourceDefinitionNames{Plural: "as", Singular: "a", Kind: "A", ListKind: "AList"}
	v := apiextensionsv1.CustomResourceDefinitionVersion{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: schema},
		Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}}}
	if column != "" {
		v.AdditionalPrinterColumns = []apiextensionsv1.CustomResourceColumnDefinition{{Name: "C", Type: "string", JSONPath: column}, {Name: "D", Type: "integer", JSONPath: column}, {Name: "E", Type: "date", JSONPath: column}}
	}
	if selectable != "" {
		v.SelectableFields = []apiextensionsv1.SelectableField{{JSONPath: selectable}}
	}
	return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "as.x.y"},
		Spec:   apiextensionsv1.CustomResourceDefinitionSpec{Group: "x.y", Names: names, Scope: apiextensionsv1.NamespaceScoped, Versions: []apiextensionsv1.CustomResourceDefinitionVersion{v}},
		Status: apiextensionsv1.CustomResourceDefinitionStatus{AcceptedNames: names}}
}

// FuzzDefinition: any schema, with its rules, defaults and paths. A definition
// that validation takes serves: objects are pruned and completed once and for
// all, judged within the budget of rules, and shown.
func FuzzDefinition(f *testing.F) {
	const spec = `{"type":"object","properties":{"spec":{"type":"object","properties":{"a":{"type":"string","default":"x","maxLength":5},"n":{"type":"integer","minimum":1}}}}}`
	object := []byte(`{"spec":{"a":"y","n":2,"unknown":1},"status":{"b":1}}`)
	for _, s := range []string{
		spec, `{"type":"object"}`, `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`, `{}`,
		`{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-validations":[{"rule":"self.a == 'y'","message":"no"}],"properties":{"a":{"type":"string","maxLength":10}}}}}`,
		`{"type":"object","properties":{"spec":{"type":"object","properties":{"l":{"type":"array","maxItems":10,"x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string"}}}}}}}}`,
		`{"type":"object","properties":{"spec":{"type":"object","additionalProperties":{"type":"string","pattern":"(a+)+$"}}}}`, `{"type":"object","properties":{"spec":{"x-kubernetes-int-or-string":true}}}`,
		`{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}}}`, `{"type":"object","allOf":[{"required":["spec"]}],"not":{"required":["x"]}}`,
		`{"type":"object","properties":{"spec":{"type":"object","nullable":true,"default":{"a":null},"properties":{"a":{"type":"string"}}}}}`, `{"type":"object","$ref":"#/x"}`, `{"type":"object","properties":{"metadata":{"type":"object","properties":{"name":{"type":"string","pattern":"^a"}}}}}`,
		`{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-validations":[{"rule":"oldSelf.a == self.a","optionalOldSelf":true,"messageExpression":"self.a"}],"properties":{"a":{"type":"string"}}}}}`,
	} {
		f.Add([]byte(s), object, ".spec.a", ".spec.a")
	}
	for _, p := range []string{".spec.l[*].k", ".spec['a']", ".metadata.creationTimestamp", "..a", ".spec[?(@.a=='y')]", ".spec[0:9999999999]", ".spec[-1]", "{", ".a}{.b", ".spec.a.b.c", "", ".spec[:]", `.spec.a\.b`, ".*.*", `.spec[?(@.n > 1 && @.a)]`} {
		f.Add([]byte(spec), object, p, ".spec.a")
		f.Add([]byte(spec), []byte(`{"spec":{"a":["x"],"n":1.5},"metadata":{"name":1}}`), ".spec.a", p)
	}
	f.Fuzz(func(t *testing.T, schema, body []byte, column, selectable string) {
		began := time.Now()
		defer func() {
			if took := time.Since(began); took > soon {
				t.Errorf("it took %v", took)
			}
		}()
		crd := definition(nil, column, selectable)
		data, err := json.Marshal(crd)
		if err != nil || !json.Valid(schema) {
			return
		}
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		m["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)["schema"] = map[string]any{"openAPIV3Schema": json.RawMessage(schema)}
		if data, err = json.Marshal(m); err != nil {
			return
		}
		crd = &apiextensionsv1.CustomResourceDefinition{}
		if _, err := codec.DecodeBody(codec.JSON, data, crd); err != nil {
			return
		}
		kinds.CustomResourceDefinition.Default(crd)
		if errs := kinds.CustomResourceDefinition.Validate(crd); len(errs) > 0 {
			return
		}
		d, err := Compile(crd, nil)
		if err != nil {
			t.Fatalf("validation takes what cannot be compiled: %v", err)
		}
		defer d.End()
		// What matches several members of a map finds them in no order.
		serve(t, d.Served[0], body, !strings.Contains(column, "*") && !strings.Contains(column, ".."))
	})
}

func serve(t *testing.T, k *kinds.Kind, body []byte, ordered bool) {
	t.Helper()
	var content map[string]any
	if json.Unmarshal(body, &content) != nil || content == nil {
		return
	}
	content["apiVersion"], content["kind"] = "x.y/v1", "A"
	whole, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	o := k.New()
	if _, err := codec.DecodeBody(codec.JSON, whole, o); err != nil {
		return
	}
	u := o.(*unstructured.Unstructured)
	if _, err := k.Prune(u.Object); err != nil {
		return
	}
	k.Default(u)
	once := runtime.DeepCopyJSON(u.Object)
	if paths, err := k.Prune(u.Object); err != nil || len(paths) > 0 {
		t.Fatalf("pruned twice: %v %v", paths, err)
	}
	k.Default(u)
	if !equality.Semantic.DeepEqual(once, u.Object) {
		t.Fatalf("%v has become %v", once, u.Object)
	}
	errs := k.Validate(u)
	if again := k.Validate(u); len(again) != len(errs) {
		t.Fatalf("first %v, then %v", errs, again)
	}
	if len(errs) == 0 {
		k.ValidateUpdate(u, u.DeepCopy())
	}
	if !reflect.DeepEqual(once, u.Object) && !equality.Semantic.DeepEqual(once, u.Object) {
		t.Fatal("validation has changed the object")
	}
	now := metav1.Unix(1, 0)
	for _, c := range k.Columns {
		if a, b := c.Value(u, now), c.Value(u, now); c.Type != "string" && ordered && !reflect.DeepEqual(a, b) {
			t.Fatalf("%s: %v, then %v", c.Name, a, b)
		}
	}
	for _, read := range k.Fields {
		read(u)
	}
}

// FuzzConversion: whatever a webhook makes of an object, it stays the same one.
func FuzzConversion(f *testing.F) {
	for _, s := range []string{`{"apiVersion":"x.y/v2","kind":"A","metadata":{"name":"a","namespace":"d","uid":"u","labels":{"x":"y"}}}`, `{}`, `null`, `[]`, `{"apiVersion":"x.y/v2","kind":"A","metadata":1}`,
		`{"apiVersion":"x.y/v2","kind":"A","metadata":{"name":"a","namespace":"d","uid":"u","labels":[1],"resourceVersion":"9","ownerReferences":[{}]}}`, `{"apiVersion":"x.y/v2","kind":"AList","items":[{}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		was := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "x.y/v1", "kind": "A", "metadata": map[string]any{"name": "a", "namespace": "d", "uid": "u", "resourceVersion": "1"}}}
		before := was.DeepCopy()
		u, err := accept(raw, was, "x.y/v2")
		if !equality.Semantic.DeepEqual(before, was) {
			t.Fatal("the object itself has changed")
		}
		if err != nil {
			return
		}
		if u.GetName() != "a" || u.GetNamespace() != "d" || u.GetUID() != "u" || u.GetResourceVersion() != "1" || u.GetAPIVersion() != "x.y/v2" || len(u.GetOwnerReferences()) > 0 {
			t.Fatalf("%v", u)
		}
	})
}

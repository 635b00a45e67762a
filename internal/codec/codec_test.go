package codec

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"sigs.k8s.io/randfill"

	"knarr.dev/knarr/internal/kinds"
)

func filler(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(0.3).NumElements(1, 3).MaxDepth(14).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewMilliQuantity(c.Int63n(1<<40), resource.DecimalSI)
			_ = q.String() // the canonical form is kept beside the number
		},
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(c.Int63n(1<<32), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(time.Unix(c.Int63n(1<<32), 0))
		},
		func(r *runtime.RawExtension, _ randfill.Continue) { r.Raw = []byte(`{"a":1}`) },
		func(j *apiextensionsv1.JSON, _ randfill.Continue) { j.Raw = []byte(`"x"`) },
		// A schema in one of its forms: more than one cannot be written.
		func(o *apiextensionsv1.JSONSchemaPropsOrArray, c randfill.Continue) {
			o.Schema = &apiextensionsv1.JSONSchemaProps{}
			c.Fill(o.Schema)
		},
		func(o *apiextensionsv1.JSONSchemaPropsOrBool, c randfill.Continue) { o.Allows = c.Bool() },
		func(o *apiextensionsv1.JSONSchemaPropsOrStringArray, c randfill.Continue) { o.Property = []string{"x"} },
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte(`{"f:a":{}}`) },
		func(*metav1.TypeMeta, randfill.Continue) {}, // protobuf has it in the envelope only
		func(s *string, c randfill.Continue) { *s = c.String(8) },
	)
}

// everyKind runs fn on random objects of every stored kind.
func everyKind(t *testing.T, fn func(t *testing.T, k *kinds.Kind, obj kinds.Object)) {
	for _, k := range kinds.Builtin().All() {
		if k.New == nil {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			for seed := range int64(10) {
				obj := k.New()
				filler(seed).Fill(obj)
				obj.GetObjectKind().SetGroupVersionKind(k.GVK)
				fn(t, k, obj)
			}
		})
	}
}

// TestSameAsApimachinery: the bytes are those of the serializers that the
// field uses, and both read each other's.
func TestSameAsApimachinery(t *testing.T) {
	theirs := map[Format]runtime.Serializer{
		Protobuf: protobuf.NewSerializer(Scheme(), Scheme()),
		JSON:     jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, Scheme(), Scheme(), jsonserializer.SerializerOptions{}),
	}
	everyKind(t, func(t *testing.T, k *kinds.Kind, obj kinds.Object) {
		for f, s := range theirs {
			var want bytes.Buffer
			if err := s.Encode(obj, &want); err != nil {
				t.Fatal(err)
			}
			got, err := Encode(f, obj)
			if err != nil {
				t.Fatal(err)
			}
			if w := bytes.TrimSuffix(want.Bytes(), []byte("\n")); len(got) != len(w) {
				t.Fatalf("format %d: %d bytes, theirs %d\n%q\n%q", f, len(got), len(w), got, w)
			}
			theirObj, _, err := s.Decode(got, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			ourObj, err := Decode(f, want.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if !equality.Semantic.DeepEqual(theirObj, ourObj) {
				t.Fatalf("format %d: they read %v, we %v", f, theirObj, ourObj)
			}
		}
	})
}

func TestEncodeNamesTheKind(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	for _, f := range []Format{JSON, YAML, Protobuf} {
		data, err := Encode(f, pod)
		if err != nil {
			t.Fatal(err)
		}
		if pod.Kind != "" {
			t.Error("the object was changed")
		}
		obj, err := Decode(f, data)
		if err != nil {
			t.Fatal(err)
		}
		if p := obj.(*corev1.Pod); p.Kind != "Pod" || p.APIVersion != "v1" || p.Name != "p" {
			t.Errorf("format %d: %+v", f, p)
		}
	}
	if _, err := Encode(Protobuf, &struct{ metav1.Status }{}); err == nil {
		t.Error("an unknown type was encoded")
	}
	data, err := Encode(JSON, &metav1.WatchEvent{Type: "ADDED"})
	if err != nil || strings.Contains(string(data), "kind") {
		t.Errorf("%s %v", data, err)
	}
}

// TestStored: what is stored has no resourceVersion, and comes back with the
// store's and with defaults; the spliced form is that of the decoded object.
func TestStored(t *testing.T) {
	everyKind(t, func(t *testing.T, k *kinds.Kind, obj kinds.Object) {
		if !k.Stored() {
			return
		}
		obj.SetResourceVersion("7")
		data, err := EncodeStored(obj)
		if err != nil {
			t.Fatal(err)
		}
		if obj.GetResourceVersion() != "7" {
			t.Fatal("the object was changed")
		}
		got, err := DecodeStored(k, data, 12345)
		if err != nil {
			t.Fatal(err)
		}
		want := obj.DeepCopyObject().(kinds.Object)
		want.SetResourceVersion("12345")
		if k.Default != nil {
			k.Default(want)
		}
		if !equality.Semantic.DeepEqual(got, want) {
			t.Fatalf("stored %v, read %v", want, got)
		}
		spliced, ok := WithRevision(data, 12345)
		if !ok {
			t.Fatal("not spliced")
		}
		plain := obj.DeepCopyObject().(kinds.Object)
		plain.SetResourceVersion("12345")
		if direct, err := Encode(Protobuf, plain); err != nil || len(direct) != len(spliced) {
			t.Fatalf("spliced %d bytes, encoded %d: %v", len(spliced), len(direct), err)
		}
		if back, err := Decode(Protobuf, spliced); err != nil || !equality.Semantic.DeepEqual(back, plain) {
			t.Fatalf("spliced %v, want %v: %v", back, plain, err)
		}
	})
}

func TestStoredAsJSON(t *testing.T) {
	data := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"Key":"v"}}`)
	obj, err := DecodeStored(kinds.ConfigMap, data, 3)
	if err != nil || obj.(*corev1.ConfigMap).Data["Key"] != "v" || obj.GetResourceVersion() != "3" {
		t.Errorf("%v %v", obj, err)
	}
	if _, ok := WithRevision(data, 3); ok {
		t.Error("JSON was spliced")
	}
}

func TestDecodeStoredRefuses(t *testing.T) {
	service, err := EncodeStored(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"another kind": service, "another kind in JSON": []byte(`{"apiVersion":"v1","kind":"Service"}`),
		"garbage": []byte("k8s\x00garbage"), "cut": service[:len(service)-10], "nothing": nil, "text": []byte("x"),
		"encrypted": []byte("k8s:enc:aesgcm:v1:x"), "magic only": []byte(protoMagic),
	} {
		if obj, err := DecodeStored(kinds.Pod, data, 1); err == nil {
			t.Errorf("%s: %v", name, obj)
		}
	}
}

func texts(errs []error) string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return strings.Join(out, "; ")
}

func TestDecodeBody(t *testing.T) {
	const head = `"apiVersion":"v1","kind":"Pod"`
	for _, tc := range []struct {
		name    string
		format  Format
		data    string
		unknown string
		err     string
	}{
		{name: "plain", data: `{` + head + `,"metadata":{"name":"p"}}`},
		{name: "no kind", data: `{"metadata":{"name":"p"}}`},
		{name: "no version", data: `{"kind":"Pod","metadata":{"name":"p"}}`},
		{name: "unknown", data: `{` + head + `,"metadata":{"name":"p"},"spec":{"foo":1,"containers":[{"bar":{}}]}}`,
			unknown: `unknown field "spec.foo"; unknown field "spec.containers[0].bar"`},
		{name: "duplicate", data: `{` + head + `,"metadata":{"name":"x","name":"p"}}`, unknown: `duplicate field "metadata.name"`},
		{name: "case matters", data: `{` + head + `,"metadata":{"name":"p","Name":"q"}}`, unknown: `unknown field "metadata.Name"`},
		{name: "wrong type", data: `{` + head + `,"spec":{"containers":"x"}}`, err: "cannot unmarshal string"},
		{name: "broken", data: `{` + head, err: "unexpected end of JSON input"},
		{name: "empty", data: ``, err: "unexpected end of JSON input"},
		{name: "other kind", data: `{"apiVersion":"v1","kind":"Service"}`, err: `unexpected kind "Service" in version "v1"`},
		{name: "other kind and shape", data: `{"apiVersion":"apps/v1","kind":"Deployment","spec":{"volumes":7}}`, err: `unexpected kind "Deployment" in version "apps/v1"`},
		{name: "other version", data: `{"apiVersion":"v1beta1","kind":"Pod"}`, err: `unexpected kind "Pod" in version "v1beta1"`},
		{name: "no such kind", data: `{"apiVersion":"v1","kind":"Nope"}`, err: `unexpected kind "Nope"`},
		{name: "deep", data: `{` + head + `,"x":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, err: "nests too deeply"},
		{name: "many parts", data: `{` + head + `,"spec":{"containers":[` + strings.Repeat("{},", 200000) + `{}]}}`, err: "too many parts"},
		{name: "brackets in strings", data: `{` + head + `,"metadata":{"name":"p","annotations":{"a":"` + strings.Repeat(`[{\"`, 1000) + `"}}}`},
		{name: "yaml", format: YAML, data: "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n"},
		{name: "yaml unknown", format: YAML, data: "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {foo: 1}\n", unknown: `unknown field "spec.foo"`},
		{name: "yaml duplicate", format: YAML, data: "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  name: p\n",
			unknown: "yaml: unmarshal errors:\n  line 5: key \"name\" already set in map"},
		{name: "yaml broken", format: YAML, data: "apiVersion: v1\n\tkind: Pod", err: "error converting YAML to JSON"},
		{name: "json as yaml", format: YAML, data: ` {` + head + `,"metadata":{"name":"p"}}`},
		{name: "flow yaml", format: YAML, data: `{apiVersion: v1, kind: Pod, metadata: {name: p}}`},
		{name: "few aliases", format: YAML, data: "kind: Pod\nmetadata:\n  name: &n p\n  labels: {a: *n, b: *n}\n"},
		{name: "strings repeated", format: YAML, data: "a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.Repeat("*a,", 100000) + "*a]\n", err: "grows too much"},
		{name: "billion laughs", format: YAML, data: laughs(), err: "error converting YAML to JSON"},
		{name: "deep yaml", format: YAML, data: "a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), err: "nests too deeply"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var pod corev1.Pod
			unknown, err := DecodeBody(tc.format, []byte(tc.data), &pod)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil || pod.Name != "p" || texts(unknown) != tc.unknown {
				t.Errorf("%q: %s %v", pod.Name, texts(unknown), err)
			}
		})
	}
}

func laughs() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), i-1)
	}
	return b.String()
}

// TestCVE2019_11253: what a few bytes of YAML or JSON expand to is bounded
// before it is expanded.
func TestCVE2019_11253(t *testing.T) {
	for name, data := range map[string]string{
		"billion laughs":  laughs(),
		"one long string": "a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.Repeat("*a,", 100_000) + "*a]\n",
		"keys":            "a: &a {" + strings.Repeat("k", 1<<16) + ": x}\nb: [" + strings.Repeat("*a,", 10_000) + "*a]\n",
		"merges":          "a: &a {x: " + strings.Repeat("y", 1<<16) + "}\n" + strings.Repeat("? {<<: *a, n: 1}\n", 1) + "b: [" + strings.Repeat("{<<: *a},", 5000) + "{<<: *a}]\n",
		"depth":           strings.Repeat("[", 1<<20),
		"depth in JSON":   `{"a":` + strings.Repeat(`{"a":`, 1<<18),
	} {
		before := allocated()
		var pod corev1.Pod
		if _, err := DecodeBody(YAML, []byte(data), &pod); err == nil {
			t.Errorf("%s: read", name)
		}
		if used := allocated() - before; used > 256<<20 {
			t.Errorf("%s: %d bytes made the decoder allocate %d MB", name, len(data), used>>20)
		}
	}
}

func TestDecodeBodyProtobuf(t *testing.T) {
	data, err := Encode(Protobuf, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}})
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if _, err := DecodeBody(Protobuf, data, &pod); err != nil || pod.Name != "p" || pod.Spec.Containers[0].Name != "c" || pod.Kind != "Pod" {
		t.Errorf("%+v %v", pod, err)
	}
	var wrong *WrongKind
	if _, err := DecodeBody(Protobuf, data, &corev1.Service{}); !errors.As(err, &wrong) || wrong.Got.Kind != "Pod" {
		t.Errorf("a pod as a service: %v", err)
	}
	many, err := Encode(Protobuf, &corev1.Pod{Spec: corev1.PodSpec{Containers: make([]corev1.Container, 100_000)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeBody(Protobuf, many, &pod); !errors.Is(err, errParts) {
		t.Errorf("%d bytes of containers: %v", len(many), err)
	}
	for i := range data {
		cut := corev1.Pod{}
		if _, err := DecodeBody(Protobuf, data[:i], &cut); err == nil && equality.Semantic.DeepEqual(cut, pod) && i < len(data)-len(emptyUnknownEnd) {
			t.Errorf("cut after %d bytes, nothing was missed", i)
		}
	}
}

// TestDecodeBodyWeightsLargeObjects: what is legal passes the bound.
func TestDecodeBodyWeightsLargeObjects(t *testing.T) {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{}}
	for i := range 50_000 {
		cm.Data[fmt.Sprint("key-", i)] = "value"
	}
	for _, f := range []Format{JSON, Protobuf} {
		data, err := Encode(f, cm)
		if err != nil {
			t.Fatal(err)
		}
		var got corev1.ConfigMap
		if _, err := DecodeBody(f, data, &got); err != nil || len(got.Data) != len(cm.Data) {
			t.Errorf("format %d: %d keys: %v", f, len(got.Data), err)
		}
	}
}

func TestDeleteOptionsOfAnyGroup(t *testing.T) {
	for _, version := range []string{"v1", "apps/v1", "meta.k8s.io/v1", "policy/v1"} {
		var o metav1.DeleteOptions
		if _, err := DecodeBody(JSON, []byte(`{"kind":"DeleteOptions","apiVersion":"`+version+`","propagationPolicy":"Orphan"}`), &o); err != nil || o.PropagationPolicy == nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}

func BenchmarkDecodeBody(b *testing.B) {
	obj := kinds.Pod.New()
	filler(3).Fill(obj)
	obj.GetObjectKind().SetGroupVersionKind(kinds.Pod.GVK)
	for name, f := range map[string]Format{"JSON": JSON, "YAML": YAML, "Protobuf": Protobuf} {
		data, err := Encode(f, obj)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeBody(f, data, &corev1.Pod{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

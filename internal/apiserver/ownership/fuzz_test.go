package ownership

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

var seedSets = []string{
	`{}`, `{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}}`, `{"f:a":{},"f:b":{"v:1":{},"v:\"x\"":{}}}`,
	`{"f:a":{"i:0":{},"i:1":{"f:b":{}}}}`, `{"f:spec":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{}}}`, `{".":{}}`, `{"f:":{}}`, `{"x:y":{}}`, `{"f:a":{".":{},".":{}}}`, `{"v:{\"a\":[1,null]}":{}}`,
	`{"k:{}":{}}`, `{"f:a":{"k:{\"a\":1.5}":{},"k:{\"a\":\"1\"}":{}}}`, `{"f:\\u0041":{}}`,
	`{"f:0":{"v:":{}}}`, `{"v: 1":{}}`, `{"v:1e2":{}}`, `{"k:{\"b\":1,\"a\":2}":{}}`, `{"k:1":{}}`, `{"k:{\"a\":[1]}":{}}`, `{"v:{}":{}}`,
}

// tidied is a set as it can stand in an object; empty: in none.
func tidied(text string) string {
	for range 2 { // the first time it escapes what is not UTF-8, which it reads as a character
		s := &fieldpath.Set{}
		if err := s.FromJSON(strings.NewReader(text)); err != nil || s.Empty() {
			return ""
		}
		out, err := s.ToJSON()
		if err != nil {
			return ""
		}
		text = string(out)
	}
	return text
}

// members of a set, as the library has them.
func theirs(t *testing.T, raw string) *fieldpath.Set {
	t.Helper()
	s := &fieldpath.Set{}
	if err := s.FromJSON(strings.NewReader(raw)); err != nil {
		t.Fatalf("the library does not read %s: %v", raw, err)
	}
	return s
}

func written(t *testing.T, s *fieldpath.Set) string {
	t.Helper()
	data, err := s.ToJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// FuzzFieldsV1: a set that is read without the library is the library's, and so
// are what two of them have in common or not.
func FuzzFieldsV1(f *testing.F) {
	for i, s := range seedSets {
		f.Add(s, seedSets[(i+1)%len(seedSets)])
	}
	f.Fuzz(func(t *testing.T, x, y string) {
		a, errA := parseSet(x)
		b, errB := parseSet(y)
		touches(x, a, b)
		if errA != nil || errB != nil {
			return
		}
		ours := func(s set) string { return string(s.appendJSON(nil)) }
		for _, s := range []set{a, b} {
			if back, err := parseSet(ours(s)); err != nil || ours(back) != ours(s) {
				t.Fatalf("%s has become %s: %v", ours(s), ours(back), err)
			}
		}
		libA, libB := theirs(t, x), theirs(t, y)
		left, _ := minus(a, b)
		for what, pair := range map[string][2]string{
			"itself": {ours(a), written(t, libA)}, "union": {ours(union(a, b)), written(t, libA.Union(libB))}, "minus": {ours(left), written(t, libA.Difference(libB))},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s of %s and %s: %s, the library: %s", what, x, y, pair[0], pair[1])
			}
		}
		if touches(x, b, nil) != !libA.Intersection(libB).Empty() {
			t.Errorf("%s touches %s: %v", x, y, touches(x, b, nil))
		}
	})
}

func fuzzPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "d", UID: "u", ResourceVersion: "1", Labels: map[string]string{"a": "b"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}}}}}}
}

func entry(manager string, op metav1.ManagedFieldsOperationType, raw string) metav1.ManagedFieldsEntry {
	at := metav1.Unix(1, 0)
	e := metav1.ManagedFieldsEntry{Manager: manager, Operation: op, APIVersion: "v1", Time: &at, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{}}
	e.FieldsV1.SetRawBytes([]byte(raw))
	return e
}

// FuzzApply: any configuration, on an object whose managed fields are whatever
// somebody has written. It is refused, or applying it again changes nothing;
// live is not changed.
func FuzzApply(f *testing.F) {
	for i, c := range []string{
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"x":"y"}}}`, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","managedFields":null},"spec":{"containers":[{"name":"c","image":"j"}]}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","ports":[{"containerPort":80},{"containerPort":80,"protocol":"UDP"}]}]}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c"},{"name":"c"}]}}`, `{"apiVersion":"v1","kind":"Pod","spec":{"containers":{"a":1}}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":null,"spec":null}`, `{"apiVersion":"v2","kind":"Pod"}`, `{"apiVersion":"v1","kind":"Service"}`, `{"apiVersion":"v1","kind":"Pod","spec":{"tolerations":[{},{}],"containers":[]}}`,
		`{}`, `{"apiVersion":1,"kind":"Pod"}`, `{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":null},"finalizers":["x","x"]}}`,
	} {
		f.Add([]byte(c), seedSets[i%len(seedSets)], i%2 == 0)
	}
	fields := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	f.Fuzz(func(t *testing.T, text []byte, owned string, force bool) {
		config, _, err := codec.DecodeMap(codec.YAML, text)
		if err != nil || !json.Valid([]byte(owned)) {
			return // what is no JSON does not come to be stored
		}
		live := fuzzPod()
		live.ManagedFields = []metav1.ManagedFieldsEntry{entry("a", metav1.ManagedFieldsOperationApply, owned), entry("u", metav1.ManagedFieldsOperationUpdate, owned)}
		before := live.DeepCopy()
		w := Write{Kind: kinds.Pod, Manager: "a", Now: time.Unix(9, 0)}
		apply := func(to kinds.Object) (kinds.Object, error) {
			return fields.Apply(t.Context(), w, to, &unstructured.Unstructured{Object: runtime.DeepCopyJSON(config)}, force)
		}
		got, err := apply(live)
		if a, b := asJSON(t, before), asJSON(t, live); a != b {
			t.Fatalf("live has changed:\n%s\n%s", a, b)
		}
		if err != nil {
			return
		}
		same, err := apply(live)
		if err != nil || asJSON(t, same) != asJSON(t, got) {
			t.Fatalf("first %s, then %s: %v", asJSON(t, got), asJSON(t, same), err)
		}
		if len(got.GetManagedFields()) == 0 { // what nobody has set is the first's of the next apply, as upstream
			if got, err = apply(got); err != nil {
				t.Fatalf("not what nobody owns: %v", err)
			}
		}
		again, err := apply(got)
		if err != nil {
			t.Fatalf("once, but not twice: %v", err)
		}
		if asJSON(t, again) != asJSON(t, got) {
			t.Fatalf("applied once %s\ntwice %s", asJSON(t, got), asJSON(t, again))
		}
	})
}

// FuzzApplyDirect: the way without the library applies as the library, or leaves
// it to that, whatever the configuration and the sets of three managers are.
func FuzzApplyDirect(f *testing.F) {
	sets := append(slices.Clone(seedSets),
		`{"f:metadata":{"f:annotations":{"f:x":{}},"f:labels":{"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}}}}`,
		`{"f:metadata":{"f:finalizers":{"v:\"x\"":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{"f:image":{}},"k:{\"name\":\"d\"}":{".":{},"f:name":{}}},"f:tolerations":{}}}`)
	const name = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}`
	for _, s := range [][5]string{
		{`{"f:spec":{"f:containers":{"k:{\"name\":\"d\"}":{".":{},"f:image":{},"f:name":{}}}}}`, `{"f:spec":{"f:containers":{"k:{\"name\":\"d\"}":{".":{},"f:image":{}}}}}`, `{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{}}}}}`,
			name + `}`, `{"spec":{"containers":[{"name":"d","image":"i"},{"name":"c"}]}}`},
		{`{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}}}}`,
			`{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"UDP\"}":{".":{},"f:containerPort":{}}}}}}}`, `{"f:status":{}}`,
			name + `,"spec":{"containers":[{"name":"c"}]}}`, `{"spec":{"containers":[{"name":"c","ports":[{"containerPort":80,"protocol":"TCP"},{"containerPort":80,"protocol":"UDP"}]}]}}`},
		{`{"f:spec":{"f:nodeName":{}}}`, `{"f:spec":{}}`, `{"f:status":{}}`, name + `}`, `{"spec":{"containers":[],"nodeName":"n"}}`},
		{`{"f:spec":{}}`, `{"f:metadata":{"f:labels":{}}}`, `{"f:status":{}}`, name + `,"spec":{}}`, `{"spec":{"containers":[],"nodeName":"n"}}`},
		{`{"f:spec":{"f:nodeName":{}}}`, `{"f:spec":{"f:tolerations":{"f:a":{}}}}`, `{"f:status":{}}`, name + `,"spec":{}}`, `{"spec":{"tolerations":[{"key":"a"}]}}`},
		{`{"f:apiVersion":{},"f:spec":{"f:nodeName":{}}}`, `{"f:metadata":{"f:labels":{}}}`, `{"f:status":{}}`, name + `,"spec":{"priority":1}}`, `{"spec":{"nodeName":"n","priority":1}}`},
		{`{"f:spec":{"f:affinity":{"f:podAffinity":{}}}}`, `{"f:spec":{"f:affinity":{}}}`, `{"f:status":{}}`, name + `,"spec":{"priority":1}}`, `{"spec":{"affinity":{"podAffinity":{}}}}`},
	} {
		f.Add(s[0], s[1], s[2], []byte(s[3]), []byte(s[4]))
	}
	for i, s := range sets {
		f.Add(s, sets[(i+1)%len(sets)], sets[(i+5)%len(sets)], []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","ports":[{"containerPort":80}]}]}}`), []byte(`{}`))
		f.Add(s, s, `{"f:status":{}}`, []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","creationTimestamp":null},"spec":{"containers":[{"name":"d","image":"i","resources":{"limits":{"cpu":"0.5"}}}],"hostNetwork":false}}`),
			[]byte(`{"metadata":{"annotations":{"x":"y"},"finalizers":["x"]},"spec":{"tolerations":[{"key":"a"}],"containers":[{"name":"d"},{"name":"c","resources":{"requests":{"cpu":1}}}]}}`))
	}
	fields := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	f.Fuzz(func(t *testing.T, mine, one, two string, text, there []byte) {
		config, _, err := codec.DecodeMap(codec.JSON, text)
		if err != nil {
			return
		}
		live := fuzzPod()
		if _, err := codec.DecodeBody(codec.JSON, there, live); err != nil {
			return
		}
		live.TypeMeta = metav1.TypeMeta{}
		live.ManagedFields = nil
		for _, e := range []metav1.ManagedFieldsEntry{
			entry("m", metav1.ManagedFieldsOperationApply, tidied(mine)), entry("a", metav1.ManagedFieldsOperationApply, tidied(one)), entry("u", metav1.ManagedFieldsOperationUpdate, tidied(two)),
		} {
			if e.FieldsV1.GetRawString() != "" {
				live.ManagedFields = append(live.ManagedFields, e)
			}
		}
		w := Write{Kind: kinds.Pod, Manager: "m", Now: time.Unix(9, 0)}
		quick, err := fields.apply(w, live, config)
		if err != nil {
			return
		}
		want, err := fields.applyByLibrary(t.Context(), w, live, &unstructured.Unstructured{Object: config}, false)
		if err != nil {
			t.Fatalf("the library says %v", err)
		}
		if got, want := show(quick.GetManagedFields()), show(want.GetManagedFields()); got != want {
			t.Fatal(apart(got, want))
		}
		if got, want := asJSON(t, quick), asJSON(t, want); got != want {
			t.Fatal(apart(got, want))
		}
	})
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// FuzzManagedFields: an update of an object whose managed fields are whatever
// somebody has written: the way without the library decides as the library, or
// leaves it to that.
func FuzzManagedFields(f *testing.F) {
	for i, s := range seedSets {
		f.Add(s, seedSets[(i+3)%len(seedSets)], []byte(`{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"j"}]}}`))
		f.Add(s, s, []byte(`{"spec":{"containers":[{"name":"d"}],"nodeName":"n"}}`))
	}
	fields := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	f.Fuzz(func(t *testing.T, one, two string, body []byte) {
		obj := &corev1.Pod{}
		if _, err := codec.DecodeBody(codec.JSON, body, obj); err != nil {
			return
		}
		one, two = tidied(one), tidied(two)
		if one == "" || two == "" {
			return
		}
		live := fuzzPod()
		live.ManagedFields = []metav1.ManagedFieldsEntry{entry("a", metav1.ManagedFieldsOperationApply, one), entry("u", metav1.ManagedFieldsOperationUpdate, two)}
		obj.ManagedFields = nil
		obj.TypeMeta = metav1.TypeMeta{}
		w := Write{Kind: kinds.Pod, Manager: "u", Now: time.Unix(9, 0)}
		quick, err := fields.update(w, live, obj, live.ManagedFields)
		want := obj.DeepCopy()
		slow := fields.updateByLibrary(t.Context(), w, live, want)
		if err != nil {
			return
		}
		if slow != nil {
			t.Fatalf("the library says %v", slow)
		}
		if got, want := show(quick), show(want.ManagedFields); got != want {
			t.Fatal(apart(got, want))
		}
	})
}

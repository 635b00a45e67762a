package codec

import (
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"knarr.dev/knarr/internal/kinds"
)

// allocated is how many bytes this process has asked for so far.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// maxGrowth is how much a body may make the decoder allocate: what the structs
// of a few tiny parts take, and so much per byte.
func maxGrowth(data []byte) uint64 { return 96<<20 + 2000*uint64(len(data)) }

func seedBodies(f *testing.F) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	binary, err := Encode(Protobuf, pod)
	if err != nil {
		f.Fatal(err)
	}
	text, err := Encode(JSON, pod)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), text)
	f.Add(uint8(2), binary)
	f.Add(uint8(2), []byte("k8s\x00"))
	for _, s := range []string{
		`{"metadata":{"name":"p"}}`, `{"spec":{"containers":[]}}`, `null`, `[]`, `{"metadata":{"name":"x","name":"p"}}`, `{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{},{}]}}`,
		`{"metadata":{"creationTimestamp":"2026-01-01T00:00:00Z"},"spec":{"activeDeadlineSeconds":1e3}}`, `{"spec":{"containers":[{"resources":{"limits":{"cpu":"1e3","memory":0.5}}}]}}`,
		`{"metadata":{"managedFields":[{"fieldsV1":{"f:a":{}}}]}}`, `{"spec":{"containers":[{"ports":[{"containerPort":"x"}],"livenessProbe":{"httpGet":{"port":"p"}}}]}}`,
	} {
		f.Add(uint8(0), []byte(s))
		f.Add(uint8(1), []byte(s))
	}
	for _, s := range []string{"metadata: {name: &a p, labels: {x: *a}}", "a: &a [*a]", "<<: {a: b}", "? [a]\n: b", "- !!binary aGk=", "a: !!float 1\nb: .nan", laughs()} {
		f.Add(uint8(1), []byte(s))
	}
}

// FuzzDecodeBody: whatever a body is, it is read twice alike, within bounds of
// memory; what was understood survives being written and read in each format.
func FuzzDecodeBody(f *testing.F) {
	seedBodies(f)
	f.Fuzz(func(t *testing.T, format uint8, data []byte) {
		from := Format(format % 3)
		before := allocated()
		var p, again corev1.Pod
		unknown, err := DecodeBody(from, data, &p)
		if used := allocated() - before; used > maxGrowth(data) {
			t.Fatalf("%d bytes made the decoder allocate %d", len(data), used)
		}
		unknownAgain, errAgain := DecodeBody(from, data, &again)
		if (err == nil) != (errAgain == nil) || len(unknown) != len(unknownAgain) || err == nil && !equality.Semantic.DeepEqual(p, again) {
			t.Fatalf("first %v %v %v, then %v %v %v", p, unknown, err, again, unknownAgain, errAgain)
		}
		if err != nil {
			return
		}
		p.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
		if _, err := Encode(JSON, &p); err != nil {
			return // a time beyond the year 9999
		}
		for _, f := range []Format{JSON, YAML, Protobuf} {
			data, err := Encode(f, &p)
			if err != nil {
				t.Fatalf("format %d: %v", f, err)
			}
			var back corev1.Pod
			if unknown, err := DecodeBody(f, data, &back); err != nil || len(unknown) > 0 {
				t.Fatalf("format %d: %v %v", f, unknown, err)
			}
			if !equality.Semantic.DeepEqual(back, p) { // protobuf does not know an empty list
				t.Fatalf("format %d: %v was %v", f, back, p)
			}
		}
		checkSpliced(t, &p)
	})
}

// checkSpliced: the revision that is put into the stored bytes is read as one
// that was set.
func checkSpliced(t *testing.T, p *corev1.Pod) {
	t.Helper()
	stored, err := EncodeStored(p)
	if err != nil {
		t.Fatal(err)
	}
	spliced, ok := WithRevision(stored, 9)
	if !ok {
		t.Fatal("not spliced")
	}
	back, err := Decode(Protobuf, spliced)
	if err != nil {
		t.Fatal(err)
	}
	want := p.DeepCopy()
	want.SetResourceVersion("9")
	if !equality.Semantic.DeepEqual(back, want) {
		t.Fatalf("spliced %v, want %v", back, want)
	}
}

// FuzzDecodeProtobuf: messages of every kind, within bounds, read as the
// field's own serializer reads them.
func FuzzDecodeProtobuf(f *testing.F) {
	var all []*kinds.Kind
	for _, k := range kinds.Builtin().All() {
		if k.New != nil {
			all = append(all, k)
		}
	}
	theirs := protobuf.NewSerializer(Scheme(), Scheme())
	for i, k := range all {
		obj := k.New()
		filler(int64(i)).Fill(obj)
		obj.GetObjectKind().SetGroupVersionKind(k.GVK)
		data, err := Encode(Protobuf, obj)
		if err != nil {
			f.Fatal(err)
		}
		_, raw, err := openEnvelope(data)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(i), raw)
	}
	f.Fuzz(func(t *testing.T, which uint16, raw []byte) {
		k := all[int(which)%len(all)]
		data, err := encodeEnvelope(k.GVK, &runtime.Unknown{Raw: raw})
		if err != nil {
			t.Fatal(err)
		}
		// The message itself, not an Unknown that holds it.
		data = slices.Concat(data[:0:0], envelope(k, raw))
		before := allocated()
		obj := k.New()
		_, err = DecodeBody(Protobuf, data, obj)
		if used := allocated() - before; used > maxGrowth(data) {
			t.Fatalf("%s: %d bytes made the decoder allocate %d", k, len(data), used)
		}
		if err != nil {
			return
		}
		want, _, err := theirs.Decode(data, nil, nil)
		if err != nil {
			t.Fatalf("%s: we read what they do not: %v", k, err)
		}
		if !equality.Semantic.DeepEqual(want, obj) {
			t.Fatalf("%s: they read %v, we %v", k, want, obj)
		}
	})
}

func envelope(k *kinds.Kind, raw []byte) []byte {
	version := k.GVK.GroupVersion().String()
	out := appendHead([]byte(protoMagic), unknownType, fieldSize(len(version))+fieldSize(len(k.GVK.Kind)))
	out = append(appendHead(out, typeVersion, len(version)), version...)
	out = append(appendHead(out, typeKind, len(k.GVK.Kind)), k.GVK.Kind...)
	return append(append(appendHead(out, unknownRaw, len(raw)), raw...), emptyUnknownEnd...)
}

// FuzzEnvelope: what is no message at all, or says strange things about itself.
func FuzzEnvelope(f *testing.F) {
	role, err := Encode(Protobuf, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(role)
	f.Add([]byte("k8s\x00\x0a\x00\x12\x00"))
	f.Add([]byte("k8s\x00\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		gvk, raw, err := openEnvelope(data)
		if err == nil && len(raw) > len(data) {
			t.Fatalf("%v: %d bytes out of %d", gvk, len(raw), len(data))
		}
		if out, ok := WithRevision(data, 7); ok && len(out) > len(data)+64 {
			t.Fatalf("a revision took %d bytes", len(out)-len(data))
		}
		if o, err := Decode(Protobuf, data); err == nil && o == nil {
			t.Fatal("nothing, and no error")
		}
		if o, err := DecodeStored(kinds.Pod, data, 7); err == nil && o.GetResourceVersion() != "7" {
			t.Fatal("the revision is lost")
		}
	})
}

// FuzzDecodeMap: what has no Go type: custom resources and configurations to
// apply.
func FuzzDecodeMap(f *testing.F) {
	seedBodies(f)
	f.Fuzz(func(t *testing.T, format uint8, data []byte) {
		from := Format(format % 2)
		before := allocated()
		m, strict, err := DecodeMap(from, data)
		if used := allocated() - before; used > maxGrowth(data) {
			t.Fatalf("%d bytes made the decoder allocate %d", len(data), used)
		}
		if err != nil {
			return
		}
		text, err := Encode(JSON, &unstructured.Unstructured{Object: m})
		if err != nil {
			return // it says nothing of its kind
		}
		// Six bytes may stand for one: \u0000.
		if from == YAML && len(text) > 6*(maxYAMLGrowth*len(data)+4096) {
			t.Fatalf("%d bytes have become %d", len(data), len(text))
		}
		back, _, err := DecodeMap(JSON, text)
		if err != nil {
			t.Fatal(err)
		}
		if !equality.Semantic.DeepEqual(back, m) && !strings.Contains(string(text), "\ufffd") {
			t.Fatalf("%v has become %v", m, back)
		}
		_ = strict
	})
}

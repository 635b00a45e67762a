package codec

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/json"

	"knarr.dev/knarr/internal/kinds"
)

// Decode reads an object of a type that the bytes name.
func Decode(f Format, data []byte) (runtime.Object, error) {
	if f == Protobuf {
		gvk, raw, err := openEnvelope(data)
		if err != nil {
			return nil, err
		}
		obj, err := Scheme().New(gvk)
		if err != nil {
			return nil, err
		}
		return obj, unmarshal(gvk, raw, obj)
	}
	data, _, err := toJSON(f, data)
	if err != nil {
		return nil, err
	}
	gvk, err := jsonserializer.DefaultMetaFactory.Interpret(data)
	if err != nil {
		return nil, err
	}
	obj, err := Scheme().New(*gvk)
	if err != nil {
		return nil, err
	}
	return obj, json.UnmarshalCaseSensitivePreserveInts(data, obj)
}

// unmarshal reads the message inside an envelope.
func unmarshal(gvk schema.GroupVersionKind, raw []byte, obj runtime.Object) error {
	m, ok := obj.(unmarshaler)
	if !ok {
		return fmt.Errorf("%T cannot be decoded from protobuf", obj)
	}
	m.Reset()
	if err := m.Unmarshal(raw); err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return nil
}

// DecodeStored reads what EncodeStored wrote at rev, and fills in defaults.
// Bytes of another kind than k are an error.
func DecodeStored(k *kinds.Kind, data []byte, rev int64) (kinds.Object, error) {
	obj := k.New()
	var got schema.GroupVersionKind
	if bytes.HasPrefix(data, []byte(protoMagic)) {
		gvk, raw, err := openEnvelope(data)
		if err != nil {
			return nil, err
		}
		if err := unmarshal(gvk, raw, obj); err != nil {
			return nil, err
		}
		got = gvk
	} else {
		if err := json.UnmarshalCaseSensitivePreserveInts(data, obj); err != nil {
			return nil, err
		}
		got = obj.GetObjectKind().GroupVersionKind()
	}
	if got != k.GVK {
		return nil, &WrongKind{Got: got}
	}
	obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	if k.Default != nil {
		k.Default(obj)
	}
	return obj, nil
}

// DecodeBody reads a request's body, which has to be of into's kind if it
// names one: else *WrongKind. unknown lists unknown and duplicate fields;
// whether they matter is the caller's choice. The body is bounded in depth, in
// its number of parts and in what YAML aliases make of it, not in its length.
func DecodeBody(f Format, data []byte, into runtime.Object) (unknown []error, err error) {
	if f == Protobuf {
		return nil, decodeProtobufBody(data, into)
	}
	data, unknown, err = toJSON(f, data)
	if err != nil {
		return nil, &Unrecognized{err}
	}
	var strict []error
	if u, ok := into.(*unstructured.Unstructured); ok {
		strict, err = decodeUnstructured(data, u)
	} else if strict, err = json.UnmarshalStrict(data, into); err == nil {
		err = settleKind(into)
	}
	if err == nil {
		return append(unknown, strict...), nil
	}
	// The cause may be that it is something else, or nothing at all.
	gvk, merr := jsonserializer.DefaultMetaFactory.Interpret(data)
	if merr != nil {
		return nil, &Unrecognized{merr}
	}
	if wrong := checkKind(*gvk, into); wrong != nil {
		return nil, wrong
	}
	return nil, err
}

// settleKind checks what an object says that it is, and completes what it says
// in part.
func settleKind(into runtime.Object) error {
	t, ok := into.GetObjectKind().(*metav1.TypeMeta)
	if ok {
		if _, err := schema.ParseGroupVersion(t.APIVersion); err != nil {
			return err
		}
	}
	got := into.GetObjectKind().GroupVersionKind()
	if err := checkKind(got, into); err != nil || !ok || (t.Kind == "") == (t.APIVersion == "") {
		return err
	}
	known, _, err := Scheme().ObjectKinds(into)
	if err != nil {
		return err
	}
	if t.Kind == "" {
		t.Kind = known[0].Kind
	} else {
		t.APIVersion = known[0].GroupVersion().String()
	}
	return nil
}

// decodeUnstructured reads a custom resource. into says which kind it has to be
// of, and its body has to say it, too.
func decodeUnstructured(data []byte, into *unstructured.Unstructured) (twice []error, err error) {
	want := into.GroupVersionKind()
	var content map[string]any
	twice, err = json.UnmarshalStrict(data, &content)
	if err != nil {
		return nil, err
	}
	const shown = 256 // bytes of a body that an error repeats
	u := unstructured.Unstructured{Object: content}
	got := u.GroupVersionKind()
	switch {
	case content == nil || got.Kind == "":
		return nil, runtime.NewMissingKindErr(string(data[:min(len(data), shown)]))
	case got.Version == "":
		return nil, runtime.NewMissingVersionErr(string(data[:min(len(data), shown)]))
	}
	into.Object = content
	if got != want {
		return nil, &WrongKind{Got: got}
	}
	return twice, nil
}

func decodeProtobufBody(data []byte, into runtime.Object) error {
	gvk, raw, err := openEnvelope(data)
	if err != nil {
		return err
	}
	if err := checkKind(gvk, into); err != nil {
		return err
	}
	if err := checkParts(raw, into); err != nil {
		return err
	}
	return unmarshal(gvk, raw, into)
}

// checkKind accepts what is not said, and every kind under which the scheme
// knows into's type (options are in every group).
func checkKind(got schema.GroupVersionKind, into runtime.Object) error {
	if _, ok := into.(runtime.Unstructured); ok || got.Empty() {
		return nil
	}
	known, _, err := Scheme().ObjectKinds(into)
	if err != nil {
		if runtime.IsNotRegisteredError(err) {
			return nil
		}
		return err
	}
	for _, t := range known {
		if (got.Kind == "" || got.Kind == t.Kind) && (got.Version == "" && got.Group == "" || got.GroupVersion() == t.GroupVersion()) {
			return nil
		}
	}
	return &WrongKind{Got: got}
}

// DecodeMap reads an object of no known type, within the bounds of DecodeBody.
// strict lists duplicate keys. Whole numbers become int64.
func DecodeMap(f Format, data []byte) (m map[string]any, strict []error, err error) {
	data, strict, err = toJSON(f, data)
	if err != nil {
		return nil, nil, err
	}
	twice, err := json.UnmarshalStrict(data, &m)
	if err == nil && m == nil {
		err = errors.New("an object is expected")
	}
	return m, append(strict, twice...), err
}

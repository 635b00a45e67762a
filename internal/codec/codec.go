// Package codec turns objects into bytes and back: JSON, YAML and protobuf as
// clients speak them, and the form in which they are stored. It wraps
// apimachinery's serializers with bounds on what a client can make them do.
package codec

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/kinds"
)

// Format of bytes.
type Format int

const (
	JSON Format = iota
	YAML
	Protobuf
)

const (
	// maxDepth of nested objects and arrays; the deepest built-in type needs 30.
	maxDepth = 500
	// maxYAMLGrowth bounds what aliases may make of a document (CVE-2019-11253).
	maxYAMLGrowth = 10
)

var (
	protoMagic = []byte("k8s\x00")

	errDepth = errors.New("the body nests too deeply")
)

type codecs struct {
	scheme *runtime.Scheme
	json   *json.Serializer
	strict *json.Serializer
	proto  *protobuf.Serializer
}

var std = newCodecs()

func newCodecs() *codecs {
	s := newScheme()
	return &codecs{scheme: s,
		json:   json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{}),
		strict: json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{Strict: true}),
		proto:  protobuf.NewSerializer(s, s),
	}
}

// Scheme knows every type that is served. Do not change it.
func Scheme() *runtime.Scheme { return std.scheme }

// Encode writes obj with its apiVersion and kind from the scheme. obj is not
// changed.
func Encode(f Format, obj runtime.Object) ([]byte, error) {
	obj, err := withGVK(obj)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	switch f {
	case Protobuf:
		err = std.proto.Encode(obj, &b)
	case YAML:
		if err = std.json.Encode(obj, &b); err != nil {
			return nil, err
		}
		return yaml.JSONToYAML(b.Bytes())
	default:
		err = std.json.Encode(obj, &b)
	}
	return b.Bytes(), err
}

// withGVK returns obj, or a shallow copy, that says what it is.
func withGVK(obj runtime.Object) (runtime.Object, error) {
	if _, ok := obj.(*metav1.WatchEvent); ok {
		return obj, nil
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	if !gvk.Empty() {
		return obj, nil
	}
	gvks, _, err := std.scheme.ObjectKinds(obj)
	if err != nil {
		return nil, err
	}
	obj = obj.DeepCopyObject()
	obj.GetObjectKind().SetGroupVersionKind(gvks[0])
	return obj, nil
}

// Decode reads an object of a type that the bytes name.
func Decode(f Format, data []byte) (runtime.Object, error) {
	var (
		obj runtime.Object
		err error
	)
	switch {
	case f == Protobuf:
		obj, _, err = std.proto.Decode(data, nil, nil)
	default:
		if data, err = toJSON(f, data); err == nil {
			obj, _, err = std.json.Decode(data, nil, nil)
		}
	}
	return obj, err
}

func toJSON(f Format, data []byte) ([]byte, error) {
	if f == YAML {
		j, err := yaml.YAMLToJSON(data)
		if err != nil {
			return nil, fmt.Errorf("error converting YAML to JSON: %w", err)
		}
		if len(j) > maxYAMLGrowth*len(data)+4096 {
			return nil, errors.New("the YAML body grows too much when its aliases are expanded")
		}
		data = j
	}
	return data, checkDepth(data)
}

// checkDepth counts brackets outside strings.
func checkDepth(data []byte) error {
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return errDepth
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// EncodeStored is the stored form: protobuf in upstream's envelope, without
// the resourceVersion, which is the store's revision.
func EncodeStored(obj kinds.Object) ([]byte, error) {
	if obj.GetResourceVersion() != "" {
		obj = obj.DeepCopyObject().(kinds.Object)
		obj.SetResourceVersion("")
	}
	return Encode(Protobuf, obj)
}

// DecodeStored reads what EncodeStored wrote at rev, and fills in defaults.
func DecodeStored(k *kinds.Kind, data []byte, rev int64) (kinds.Object, error) {
	obj := k.New()
	f := JSON
	if bytes.HasPrefix(data, protoMagic) {
		f = Protobuf
	}
	var err error
	if f == Protobuf {
		_, _, err = std.proto.Decode(data, nil, obj)
	} else {
		_, _, err = std.json.Decode(data, nil, obj)
	}
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	if k.Default != nil {
		k.Default(obj)
	}
	return obj, nil
}

// DecodeBody reads a request's body. unknown lists unknown and duplicate
// fields; whether they matter is the caller's choice.
func DecodeBody(f Format, data []byte, into runtime.Object) (unknown []error, err error) {
	if f == Protobuf {
		_, _, err := std.proto.Decode(data, nil, into)
		return nil, err
	}
	if data, err = toJSON(f, data); err != nil {
		return nil, err
	}
	_, _, err = std.strict.Decode(data, nil, into)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		return strict.Errors(), nil
	}
	return nil, err
}

// Package codec turns objects into bytes and back: JSON, YAML and protobuf as
// clients speak them, and the form in which they are stored. It wraps
// apimachinery's types with bounds on what a client can make them do.
package codec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/equal"
)

// Format of bytes.
type Format int

// The formats that clients may speak.
const (
	JSON Format = iota
	YAML
	Protobuf
)

// types is made when it is first asked for: short-lived commands of the same
// binary never need it.
var types = sync.OnceValue(func() *typeInfo { return &typeInfo{scheme: newScheme()} })

type typeInfo struct {
	scheme  *runtime.Scheme
	weights sync.Map // *weight by reflect.Type: a few hundred
}

// Scheme knows every type that is served. Do not change it.
func Scheme() *runtime.Scheme { return types().scheme }

// Encode writes obj with its apiVersion and kind, which come from the scheme
// if obj does not say them. obj is not changed. JSON is one line without a
// newline at its end.
func Encode(f Format, obj runtime.Object) ([]byte, error) {
	gvk, err := kindOf(obj)
	if err != nil {
		return nil, err
	}
	if f == Protobuf {
		return encodeEnvelope(gvk, obj)
	}
	data, err := json.Marshal(named(gvk, obj))
	if err != nil || f == JSON {
		return data, err
	}
	return yaml.JSONToYAML(data)
}

// kindOf is what obj says it is, or else what the scheme says.
func kindOf(obj runtime.Object) (schema.GroupVersionKind, error) {
	if _, ok := obj.(*metav1.WatchEvent); ok {
		return schema.GroupVersionKind{}, nil // it has no kind of its own
	}
	if gvk := obj.GetObjectKind().GroupVersionKind(); !gvk.Empty() {
		return gvk, nil
	}
	gvks, _, err := Scheme().ObjectKinds(obj)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return gvks[0], nil
}

// named returns obj, or a shallow copy that says what it is.
func named(gvk schema.GroupVersionKind, obj runtime.Object) runtime.Object {
	if gvk.Empty() || !obj.GetObjectKind().GroupVersionKind().Empty() {
		return obj
	}
	obj = Shallow(obj)
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj
}

// Shallow copies the outermost struct, in which every API type has its
// TypeMeta and ObjectMeta by value. The scheme's types are pointers to structs.
func Shallow[T runtime.Object](obj T) T {
	from := reflect.ValueOf(obj).Elem()
	to := reflect.New(from.Type())
	to.Elem().Set(from)
	return to.Interface().(T)
}

// EncodeStored is the stored form: protobuf in upstream's envelope, or JSON if
// the type has no protobuf, without the resourceVersion, which is the store's
// revision. obj is not changed.
func EncodeStored(obj kinds.Object) ([]byte, error) {
	if obj.GetResourceVersion() != "" {
		if u, ok := obj.(runtime.Unstructured); ok { // its metadata is behind a map
			obj = u.DeepCopyObject().(kinds.Object)
		} else {
			obj = Shallow(obj)
		}
		obj.SetResourceVersion("")
	}
	if _, ok := obj.(equal.Message); ok {
		return Encode(Protobuf, obj)
	}
	return Encode(JSON, obj)
}

// WrongKind: the body says that it is something else than what was asked for.
type WrongKind struct {
	Got schema.GroupVersionKind
}

// Unrecognized: nothing can be known of what the data are.
type Unrecognized struct{ Err error }

func (e *Unrecognized) Error() string { return e.Err.Error() }
func (e *Unrecognized) Unwrap() error { return e.Err }

func (e *WrongKind) Error() string {
	return fmt.Sprintf("unexpected kind %q in version %q", e.Got.Kind, e.Got.GroupVersion())
}

package kinds

import (
	"context"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Custom stands for every custom kind in what controllers declare to read and
// write, and in the permissions that follow from it.
var Custom = &Kind{GVK: schema.GroupVersionKind{Group: "*", Kind: "*"}, Resource: "*"}

// Is reports whether k is what a controller declared: the same kind, or a
// custom one if it declared Custom.
func (k *Kind) Is(declared *Kind) bool {
	return k == declared || declared == Custom && k.Now != nil
}

// Raw is a custom object as it is stored, in whatever version that was: its
// metadata decoded, which is all that most of the server asks for, and the
// whole as bytes.
type Raw struct {
	metav1.PartialObjectMetadata
	JSON []byte
}

// DeepCopyObject implements runtime.Object. The bytes never change.
func (r *Raw) DeepCopyObject() runtime.Object {
	return &Raw{PartialObjectMetadata: *r.PartialObjectMetadata.DeepCopy(), JSON: r.JSON}
}

func loadRaw(data []byte) (Object, error) {
	r := &Raw{JSON: data}
	return r, json.Unmarshal(data, &r.PartialObjectMetadata)
}

// NewRaw is the kind in whose form the cache and views hold the objects of a
// custom resource. It is not served; served are kinds with the same Prefix,
// one per version, whose Load makes objects of the same bytes. Now says which
// of them stands for it in requests of components; it may return nil.
func NewRaw(gk schema.GroupKind, resource string, namespaced bool, now func() *Kind) *Kind {
	return &Kind{
		GVK: gk.WithVersion(""), Resource: resource, Namespaced: namespaced, Prefix: gk.Group + "/" + resource,
		New: func() Object { return &Raw{} }, Now: now,
		Load: func(_ context.Context, data []byte) (Object, error) { return loadRaw(data) },
	}
}

package ownership

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"knarr.dev/knarr/internal/kinds"
)

// Scaled are the managed fields of an object as its Scale shows them: who owns
// the number of replicas.
type Scaled struct {
	handler *managedfields.ScaleHandler
	entries []metav1.ManagedFieldsEntry
	err     error
}

// OfScale translates the managed fields of parent, which is of kind k.
func (f *Fields) OfScale(k *kinds.Kind, parent kinds.Object) Scaled {
	paths := managedfields.ResourcePathMappings{k.GVK.GroupVersion().String(): replicasPath(k)}
	for _, e := range parent.GetManagedFields() {
		gv, err := schema.ParseGroupVersion(e.APIVersion)
		if err != nil {
			continue
		}
		if other := (converter{fields: f, of: k}).kind(gv.WithKind(k.GVK.Kind)); other != nil {
			paths[e.APIVersion] = replicasPath(other)
		}
	}
	s := Scaled{handler: managedfields.NewScaleHandler(parent.GetManagedFields(), k.GVK.GroupVersion(), paths)}
	s.entries, s.err = s.handler.ToSubresource()
	return s
}

// replicasPath is nil for a kind without scale.
func replicasPath(k *kinds.Kind) fieldpath.Path {
	sc := k.Subresources["scale"].Scale
	if sc == nil {
		return nil
	}
	if sc.Path == nil {
		return fieldpath.MakePathOrDie("spec", "replicas")
	}
	var parts []any
	for _, p := range sc.Path {
		parts = append(parts, p)
	}
	return fieldpath.MakePathOrDie(parts...)
}

// Entries of the Scale.
func (s Scaled) Entries() []metav1.ManagedFieldsEntry { return s.entries }

// Join gives parent the managed fields that a write of scale leads to. An
// object whose fields cannot be read keeps them.
func (s Scaled) Join(parent, scale kinds.Object) error {
	if s.err != nil {
		return nil
	}
	out, err := s.handler.ToParent(scale.GetManagedFields())
	if err != nil {
		return fmt.Errorf("cannot keep the managed fields: %w", err)
	}
	parent.SetManagedFields(out)
	return nil
}

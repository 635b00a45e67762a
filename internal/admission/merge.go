package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

var errNoTypes = errors.New("type converter must not be nil")

// merge applies a configuration to the request's object, as server-side apply
// does, but nobody comes to own the fields.
func (q *question) merge(ctx context.Context, k *kinds.Kind, config map[string]any) (changed bool, err error) {
	if q.c.Types == nil {
		return false, errNoTypes
	}
	if data, err := json.Marshal(config); err != nil {
		return false, err
	} else if len(data) > codec.MaxPatched {
		return false, codec.PatchTooLong(fmt.Sprintf("the configuration is larger than %d bytes", codec.MaxPatched))
	}
	before := q.shown(k).object
	patch := &unstructured.Unstructured{Object: config}
	patch.SetGroupVersionKind(q.gvk(k))
	given, err := q.c.Types.ObjectToTyped(patch)
	if err != nil {
		return false, fmt.Errorf("failed to convert patch object to typed object: %w", err)
	}
	if whole := atomics(nil, given.Schema(), given.TypeRef(), given.AsValue()); len(whole) > 0 {
		return false, fmt.Errorf("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %s", strings.Join(whole, ", "))
	}
	live, err := q.c.Types.ObjectToTyped(before, typed.AllowDuplicates)
	if err != nil {
		return false, fmt.Errorf("failed to convert original object to typed object: %w", err)
	}
	merged, err := live.Merge(given)
	if err != nil {
		return false, fmt.Errorf("failed to merge patch: %w", err)
	}
	fields, ok := merged.AsValue().Unstructured().(map[string]any)
	if !ok {
		return false, fmt.Errorf("failed to convert typed object to object: %T", merged.AsValue().Unstructured())
	}
	after := reflect.New(reflect.TypeOf(before).Elem()).Interface().(runtime.Object)
	if u, ok := after.(*unstructured.Unstructured); ok {
		u.Object = runtime.DeepCopyJSON(fields) // it shares what the merge has left alone
		err = q.prune(k, u)
	} else {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(fields, after)
	}
	if err != nil {
		return false, err
	}
	return q.settle(ctx, k, after)
}

// atomics are the paths of what a configuration could only replace as a whole:
// who names some fields of such a thing hardly means to drop the others.
func atomics(path fieldpath.Path, s *schema.Schema, t schema.TypeRef, v value.Value) (found []string) {
	a, ok := s.Resolve(t)
	if !ok {
		return nil
	}
	below := func(step fieldpath.PathElement, t schema.TypeRef, v value.Value) {
		found = append(found, atomics(append(path, step), s, t, v)...)
	}
	switch {
	case a.Map != nil && v.IsMap():
		if a.Map.ElementRelationship == schema.Atomic {
			found = append(found, path.String())
		}
		v.AsMap().Iterate(func(name string, v value.Value) bool {
			if f, ok := a.Map.FindField(name); ok {
				below(fieldpath.PathElement{FieldName: &name}, f.Type, v)
			}
			return true
		})
	case a.List != nil && v.IsList():
		if a.List.ElementRelationship == schema.Atomic {
			found = append(found, path.String())
		}
		for i, list := 0, v.AsList(); i < list.Length(); i++ {
			below(fieldpath.PathElement{Index: &i}, a.List.ElementType, list.At(i))
		}
	}
	return found
}

package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// patch changes the request's object, in place, so that whoever made the
// request sees it; fields that nobody knows are dropped, as upstream does.
func (q *question) patch(ctx context.Context, k *kinds.Kind, ops jsonpatch.Patch) (changed bool, err error) {
	doc, err := q.patched(k, ops)
	if err != nil {
		return false, err
	}
	after, _, err := q.read(k, doc)
	if err != nil {
		return false, err
	}
	return q.settle(ctx, k, after)
}

// patchStrictly is patch for policies: a test that fails means that nothing is
// to be changed, and fields that nobody knows are an error.
func (q *question) patchStrictly(ctx context.Context, k *kinds.Kind, ops jsonpatch.Patch) (changed bool, err error) {
	doc, err := q.patched(k, ops)
	switch {
	case errors.Is(err, jsonpatch.ErrTestFailed):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("JSON Patch: %w", err)
	}
	after, unknown, err := q.read(k, doc)
	if err == nil && len(unknown) > 0 {
		err = runtime.NewStrictDecodingError(unknown)
	}
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return q.settle(ctx, k, after)
}

// patched is the object, as k, after the operations.
func (q *question) patched(k *kinds.Kind, ops jsonpatch.Patch) ([]byte, error) {
	doc, err := json.Marshal(q.shown(k).object)
	if err != nil {
		return nil, err
	}
	return codec.ApplyPatch(doc, ops)
}

// read decodes an object of the form k; unknown says which fields were left out.
func (q *question) read(k *kinds.Kind, doc []byte) (after runtime.Object, unknown []error, err error) {
	after = reflect.New(reflect.TypeOf(q.shown(k).object).Elem()).Interface().(runtime.Object)
	if u, ok := after.(*unstructured.Unstructured); ok {
		if err = u.UnmarshalJSON(doc); err == nil {
			err = q.prune(k, u)
		}
		return after, nil, err
	}
	unknown, err = codec.DecodeBody(codec.JSON, doc, after)
	return after, unknown, err
}

// prune drops what the schema of a custom kind does not know.
func (q *question) prune(k *kinds.Kind, u *unstructured.Unstructured) error {
	if k.Prune == nil || !q.whole(k) {
		return nil
	}
	_, err := k.Prune(u.Object)
	return err
}

// settle makes after the request's object if it is another one.
func (q *question) settle(ctx context.Context, k *kinds.Kind, after runtime.Object) (changed bool, err error) {
	if changed = !equality.Semantic.DeepEqual(q.shown(k).object, after); changed {
		err = q.replace(ctx, k, after)
	}
	return changed, err
}

// replace makes after, in the form of k, the request's object, with defaults.
func (q *question) replace(ctx context.Context, k *kinds.Kind, after runtime.Object) (err error) {
	own := q.r.Ref.Kind
	if q.whole(k) {
		if k != own && k.Load != nil {
			if after, err = converted(ctx, k, own, after.(kinds.Object)); err != nil {
				return err
			}
		}
		if k.ToStored != nil {
			after = k.ToStored(after.(kinds.Object))
		}
		if d := stored(own).Default; d != nil {
			d(after.(kinds.Object))
		}
	} else if d := own.Subresources[q.r.Ref.Sub].DefaultBody; d != nil {
		d(after)
	}
	gvk := q.r.Object.GetObjectKind().GroupVersionKind()
	reflect.ValueOf(q.r.Object).Elem().Set(reflect.ValueOf(after).Elem())
	q.r.Object.GetObjectKind().SetGroupVersionKind(gvk)
	clear(q.forms)
	return nil
}

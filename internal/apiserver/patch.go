package apiserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// clientPatch is a patch that checkPatch has looked at.
type clientPatch struct {
	kind types.PatchType
	data []byte
	ops  jsonpatch.Patch // of a JSON patch
}

// patch applies a patch to the object, or to its Scale. Only an apply creates
// what is not there.
func (s *Server) patch(c *call, t types.PatchType, data []byte, v fieldPolicy) (out runtime.Object, created bool, err error) {
	p, err := checkPatch(c.ref.Kind, t, data)
	if err != nil {
		return nil, false, err
	}
	if t == types.ApplyYAMLPatchType {
		return s.apply(c, data, v)
	}
	if sub := c.ref.Kind.Subresources[c.ref.Sub]; sub.Scale != nil {
		out, err = s.updateScale(c, sub.Scale, func(old runtime.Object) (runtime.Object, error) {
			return applyPatch(old, sub.New(), p, v, c)
		})
		return out, false, err
	}
	out, err = s.update(c, func(old kinds.Object) (kinds.Object, error) {
		out, err := applyPatch(old, c.ref.Kind.New(), p, v, c)
		if err != nil {
			return nil, err
		}
		obj := out.(kinds.Object)
		return obj, checkName(c.ref, obj)
	})
	return out, false, err
}

// patchTypes that objects of a kind take: what has no Go type has no strategy
// for its lists.
func patchTypes(k *kinds.Kind) []string {
	types := []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}
	if _, ok := k.New().(runtime.Unstructured); ok {
		return slices.Delete(types, 2, 3)
	}
	return types
}

func checkPatch(k *kinds.Kind, t types.PatchType, data []byte) (p clientPatch, err error) {
	p = clientPatch{kind: t, data: data}
	if accepted := patchTypes(k); !slices.Contains(accepted, string(t)) {
		return p, statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
			"the body of the request was in an unknown format - accepted media types include: %s", strings.Join(accepted, ", "))
	}
	if t != types.ApplyYAMLPatchType { // which is decoded within bounds
		if err := codec.CheckShape(data); err != nil {
			return p, badRequest("error decoding patch: %v", err)
		}
		if !json.Valid(data) {
			return p, badRequest("invalid JSON patch")
		}
	}
	switch t {
	case types.JSONPatchType:
		if p.ops, err = codec.DecodePatch(data); err != nil {
			return p, patchError(err, badRequest("error decoding patch: %v", err))
		}
	case types.MergePatchType, types.StrategicMergePatchType:
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			return p, badRequest("error decoding patch: %v", err)
		}
	}
	return p, nil
}

// patchError is how a client is told of err: by other, unless the patch is over
// its bounds.
func patchError(err, other error) error {
	var long codec.PatchTooLong
	if errors.As(err, &long) {
		return apierrors.NewRequestEntityTooLargeError(long.Error())
	}
	return other
}

// applyPatch returns a new object; old is not changed.
func applyPatch(old, into runtime.Object, p clientPatch, v fieldPolicy, c *call) (runtime.Object, error) {
	if p.kind != types.JSONPatchType && !bytes.Contains(p.data, []byte("managedFields")) {
		old = withoutManagers(old)
	}
	after, finish, err := patched(old, into, p)
	if err != nil {
		return nil, err
	}
	if len(after) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the patched object is larger than %d bytes", maxBody))
	}
	unknown, err := codec.DecodeBody(codec.JSON, after, into)
	if err != nil {
		return nil, invalidPatch(p.data, err.Error())
	}
	pruned, err := prune(c.ref.Kind, into)
	if err != nil {
		return nil, invalidPatch(p.data, err.Error())
	}
	unknown = append(unknown, pruned...)
	finish(into)
	unknown = append(strictPatch(p), unknown...)
	return into, v.judge(unknown, c.warn, func(text string) error { return invalidPatch(p.data, text) })
}

// strictPatch finds in the patch itself what is not seen any more in what it
// makes: a field that a patch names twice, or an operation with fields of
// nobody.
func strictPatch(p clientPatch) []error {
	if p.kind != types.JSONPatchType {
		var m map[string]any
		twice, _ := kjson.UnmarshalStrict(p.data, &m) // it was an object before
		return twice
	}
	var ops []struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		From  string `json:"from"`
		Value any    `json:"value"`
	}
	odd, _ := kjson.UnmarshalStrict(p.data, &ops) // and these were operations
	for i, err := range odd {
		odd[i] = fmt.Errorf("json patch %w", err)
	}
	return odd
}

// withoutManagers spares managed fields the way through JSON: an update that
// has none keeps those that stand.
func withoutManagers(obj runtime.Object) runtime.Object {
	if _, ok := obj.(runtime.Unstructured); ok {
		return obj
	}
	obj = codec.Shallow(obj)
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return obj
}

// patched is what the patch makes of old in JSON, or of the parts that it
// touches; finish adds the others once that is decoded.
func patched(old, into runtime.Object, p clientPatch) (after []byte, finish func(runtime.Object), err error) {
	if parts, rest, ok := partsOf(old, p.kind, p.data); ok {
		return patchParts(old, p.kind, parts, rest)
	}
	before, err := codec.Encode(codec.JSON, old)
	if err != nil {
		return nil, nil, err
	}
	if p.kind != types.JSONPatchType {
		after, err = merge(before, p.data, p.kind, into)
	} else if after, err = codec.ApplyPatch(before, p.ops); err != nil {
		err = patchError(err, unprocessable(err))
	}
	return after, func(runtime.Object) {}, err
}

// merge applies a merge patch; like is of the type that before is of.
func merge(before, patch []byte, t types.PatchType, like any) ([]byte, error) {
	if t == types.MergePatchType {
		after, err := jsonpatch.MergePatch(before, patch)
		if err != nil {
			return nil, badRequest("%v", err)
		}
		return after, nil
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, like)
	switch {
	case err == nil:
		return after, nil
	case errors.Is(err, mergepatch.ErrBadJSONDoc), mergepatch.IsPreconditionFailed(err):
		return nil, badRequest("%v", err)
	}
	return nil, unprocessable(err)
}

// unprocessable begins with all that upstream says, which is nothing that helps.
func unprocessable(err error) error {
	return statusError(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "the server rejected our request due to an error in our request: %v", err)
}

// invalidPatch: the patch does not lead to an object of the kind.
func invalidPatch(data []byte, why string) error {
	const shown = 1024 // bytes of the patch
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), string(data[:min(len(data), shown)]), why)})
}

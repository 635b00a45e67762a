package apiserver

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// part is one field of an object that a patch touches: metadata, spec, status.
type part struct {
	name  string
	index int
	patch []byte
}

// partsOf splits a merge patch by the object's fields, so that only what it
// touches has to go through JSON. ok is false for patches that this does not
// cover: whoever patches lists and maps at the top, or deletes a whole part.
func partsOf(obj runtime.Object, t types.PatchType, data []byte) (parts []part, rest map[string]json.RawMessage, ok bool) {
	if t != types.MergePatchType && t != types.StrategicMergePatchType || isCustom(obj) {
		return nil, nil, false
	}
	var m map[string]json.RawMessage
	typ := reflect.TypeOf(obj)
	if json.Unmarshal(data, &m) != nil || m == nil || typ.Kind() != reflect.Pointer || typ.Elem().Kind() != reflect.Struct {
		return nil, nil, false
	}
	typ = typ.Elem()
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		patch, named := m[name]
		if !named || name == "" {
			continue
		}
		if f.Type.Kind() != reflect.Struct || f.Tag.Get("patchStrategy") != "" || !bytes.HasPrefix(bytes.TrimLeft(patch, " \t\r\n"), []byte("{")) {
			return nil, nil, false
		}
		parts = append(parts, part{name, i, patch})
		delete(m, name)
	}
	for name, patch := range m {
		if strings.HasPrefix(name, "$") { // a directive for the whole object
			return nil, nil, false
		}
		if string(patch) == "null" { // deletes what is not there
			delete(m, name)
		}
	}
	return parts, m, true
}

// patchParts patches only the parts that a patch touches. after is the object
// in JSON without the others, which finish takes over from old.
func patchParts(old runtime.Object, t types.PatchType, parts []part, rest map[string]json.RawMessage) (after []byte, finish func(into runtime.Object), err error) {
	doc := rest // what is no part: kind, apiVersion and unknown fields
	from := reflect.ValueOf(old).Elem()
	for _, p := range parts {
		field := from.Field(p.index)
		before, err := json.Marshal(field.Addr().Interface())
		if err != nil {
			return nil, nil, err
		}
		if doc[p.name], err = merge(before, p.patch, t, field.Addr().Interface()); err != nil {
			return nil, nil, err
		}
	}
	if after, err = json.Marshal(doc); err != nil {
		return nil, nil, err
	}
	return after, func(into runtime.Object) {
		kept, to := reflect.ValueOf(old.DeepCopyObject()).Elem(), reflect.ValueOf(into).Elem()
		for i := range to.NumField() {
			if !slices.ContainsFunc(parts, func(p part) bool { return p.index == i }) && to.Type().Field(i).Name != "TypeMeta" {
				to.Field(i).Set(kept.Field(i))
			}
		}
		into.GetObjectKind().SetGroupVersionKind(old.GetObjectKind().GroupVersionKind())
	}, nil
}

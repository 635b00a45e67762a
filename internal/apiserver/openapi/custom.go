package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"

	"knarr.dev/knarr/internal/kinds"
)

const (
	modelRef  = "#/components/schemas/"
	metaModel = "io.k8s.apimachinery.pkg.apis.meta.v1."
	// donor is the built-in document from which custom ones take the models of
	// metadata, options and answers: it has a kind with all verbs and a status.
	donor = "apis/apiextensions.k8s.io/v1"
)

// custom makes the documents of the custom kinds among ks.
func (h *Handler) custom(ks []*kinds.Kind) (map[string]document, error) {
	by := map[schema.GroupVersion][]*kinds.Kind{}
	for _, k := range ks {
		if k.Model != nil {
			by[k.GVK.GroupVersion()] = append(by[k.GVK.GroupVersion()], k)
		}
	}
	out := map[string]document{}
	if len(by) == 0 {
		return out, nil
	}
	common, err := h.commonModels()
	if err != nil {
		return nil, err
	}
	for gv, ks := range by {
		doc, err := customDocument(ks, common)
		if err != nil {
			return nil, fmt.Errorf("cannot describe %s: %w", gv, err)
		}
		data, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		packed, err := pack(data)
		if err != nil {
			return nil, err
		}
		out[Path(gv)] = newDocument(packed)
	}
	return out, nil
}

func (h *Handler) commonModels() (map[string]any, error) {
	data, err := unpack(h.builtin[donor].compressed)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	maps.DeleteFunc(doc.Components.Schemas, func(name string, _ any) bool { return !strings.HasPrefix(name, "io.k8s.apimachinery.") })
	return doc.Components.Schemas, nil
}

func customDocument(ks []*kinds.Kind, common map[string]any) (object, error) {
	schemas := maps.Clone(common)
	for _, k := range ks {
		one, list, err := models(k, false)
		if err != nil {
			return nil, err
		}
		schemas[modelName(k.GVK)], schemas[modelName(listGVK(k))] = one, list
	}
	paths := Paths(ks, func(o any) map[string]any {
		switch o := o.(type) {
		case *unstructured.Unstructured:
			return ref(modelName(o.GroupVersionKind()))
		case *unstructured.UnstructuredList:
			return ref(modelName(o.GroupVersionKind()))
		case interface{ OpenAPIModelName() string }:
			return ref(o.OpenAPIModelName())
		}
		return object{"type": "object"}
	})
	return object{"openapi": "3.0.0", "info": object{"title": "Kubernetes CRD Swagger", "version": "v0.1.0"}, "paths": paths,
		"components": object{"schemas": schemas}}, nil
}

func ref(model string) object { return object{"$ref": modelRef + model} }

// described is a reference with a text of its own, as version 3 writes it.
func described(model, text string) object {
	return object{"allOf": []any{ref(model)}, "description": text}
}

func listGVK(k *kinds.Kind) schema.GroupVersionKind {
	return k.NewList().GetObjectKind().GroupVersionKind()
}

// modelName of a custom kind: its group backwards, its version and kind.
func modelName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(append(parts, gvk.Version, gvk.Kind), ".")
}

var typeMeta = metav1.TypeMeta{}.SwaggerDoc()

// models are the schemas of a custom kind and its list.
func models(k *kinds.Kind, v2 bool) (one, list object, err error) {
	raw, err := k.Model(v2)
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(raw, &one); err != nil {
		return nil, nil, err
	}
	meta := metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]
	embedded(one, meta)
	if one["type"] == nil {
		one["type"] = "object"
	}
	if one["x-kubernetes-preserve-unknown-fields"] != true || one["properties"] != nil {
		objectFields(one, meta)
	}
	one["x-kubernetes-group-version-kind"] = []any{GVKExtension(k.GVK)}
	many := metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"]
	list = object{
		"type": "object", "description": listGVK(k).Kind + " is a list of " + k.GVK.Kind, "required": []any{"items"},
		"properties": object{
			"items": object{"type": "array", "items": ref(modelName(k.GVK)),
				"description": "List of " + k.Resource + ". More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"},
		},
		"x-kubernetes-group-version-kind": []any{GVKExtension(listGVK(k))},
	}
	if len(k.Fields) > 0 {
		var fields []any
		for _, name := range slices.Sorted(maps.Keys(k.Fields)) {
			fields = append(fields, object{"fieldPath": name})
		}
		one["x-kubernetes-selectable-fields"], list["x-kubernetes-selectable-fields"] = fields, fields
	}
	objectFields(list, many)
	list["properties"].(object)["metadata"] = described(metaModel+"ListMeta", many)
	return one, list, nil
}

// objectFields are what every object has.
func objectFields(o object, meta string) {
	props, ok := o["properties"].(object)
	if !ok {
		props = object{}
		o["properties"] = props
	}
	props["apiVersion"] = object{"type": "string", "description": typeMeta["apiVersion"]}
	props["kind"] = object{"type": "string", "description": typeMeta["kind"]}
	props["metadata"] = described(metaModel+"ObjectMeta", meta)
}

// embedded objects have it, too.
func embedded(o object, meta string) {
	if o["x-kubernetes-embedded-resource"] == true {
		objectFields(o, meta)
		required, _ := o["required"].([]any)
		have := sets.New[any](required...)
		for _, name := range []string{"kind", "apiVersion"} {
			if !have.Has(name) {
				required = append(required, name)
			}
		}
		o["required"] = required
	}
	children, _ := o["properties"].(object)
	for _, c := range children {
		if c, ok := c.(object); ok {
			embedded(c, meta)
		}
	}
	for _, name := range []string{"items", "additionalProperties"} {
		if c, ok := o[name].(object); ok {
			embedded(c, meta)
		}
	}
}

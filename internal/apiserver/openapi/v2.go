package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

const definitionRef = "#/definitions/"

// protoTypes are the names under which clients ask for the binary form.
var protoTypes = []string{"application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"}

// second is the one document of version 2, in both of its forms.
type second struct{ json, proto document }

func (h *Handler) serveV2(w http.ResponseWriter, r *http.Request) error {
	var foreign []Foreign
	if remote := h.remote(); remote != nil {
		foreign = remote.Second(r.Context())
	}
	s, err := h.version2(foreign)
	if err != nil {
		return err
	}
	w.Header().Set("Vary", "Accept")
	for entry := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		t, _, _ := strings.Cut(strings.TrimSpace(entry), ";")
		switch {
		case slices.Contains(protoTypes, t):
			return answer(w, r, s.proto, protoTypes[1]) // the other is no media type: clients could not read it
		case t == "" || t == "*/*" || t == "application/*" || t == "application/json":
			return answer(w, r, s.json, "application/json")
		}
	}
	http.Error(w, "only the following media types are accepted: application/json, "+protoTypes[0], http.StatusNotAcceptable)
	return nil
}

// version2 is made of all documents of version 3 when it is first asked for: few
// clients still do. Making it takes some 100 MB for a second.
func (h *Handler) version2(foreign []Foreign) (*second, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, err := h.documents()
	if err != nil {
		return nil, err
	}
	from := identity(foreign)
	if h.whole != nil && h.made == from {
		return h.whole, nil
	}
	paths, definitions := object{}, object{}
	for _, path := range slices.Sorted(maps.Keys(all)) {
		data, err := unpack(all[path].compressed)
		if err != nil {
			return nil, err
		}
		var doc struct {
			Paths      object
			Components struct{ Schemas object }
		}
		if err := json.Unmarshal(data, &doc); err != nil {
			return nil, err
		}
		for name, s := range doc.Components.Schemas {
			if definitions[name] == nil {
				definitions[name] = schema2(s)
			}
		}
		for p, item := range doc.Paths {
			paths[p] = pathItem2(item.(object))
		}
	}
	if err := h.customDefinitions(definitions); err != nil {
		return nil, err
	}
	for _, f := range foreign {
		if _, err := openapiv2.ParseDocument(f.Body); err == nil { // what is none would spoil the whole
			f.merge(paths, definitions)
		}
	}
	s := &second{}
	data, err := json.Marshal(object{"swagger": "2.0", "info": object{"title": "Kubernetes", "version": "v1.37.2"}, "paths": paths, "definitions": definitions})
	if err != nil {
		return nil, err
	}
	if s.json, err = packed(data); err != nil {
		return nil, err
	}
	parsed, err := openapiv2.ParseDocument(data)
	if err != nil {
		return nil, fmt.Errorf("the OpenAPI document of version 2 is none: %w", err)
	}
	if data, err = proto.Marshal(parsed); err != nil {
		return nil, err
	}
	if s.proto, err = packed(data); err != nil {
		return nil, err
	}
	h.whole, h.made = s, from
	return s, nil
}

func packed(data []byte) (document, error) {
	c, err := pack(data)
	return newDocument(c), err
}

// customDefinitions puts the models that custom kinds have for version 2 in
// the place of those that were converted.
func (h *Handler) customDefinitions(definitions object) error {
	_, ks := h.source()
	for _, k := range ks {
		if k.Model == nil {
			continue
		}
		one, list, err := models(k, true)
		if err != nil {
			return err
		}
		definitions[modelName(k.GVK)], definitions[modelName(listGVK(k))] = schema2(one), schema2(list)
	}
	return nil
}

// schema2 says in version 2 what a schema of version 3 says. What version 2
// has no words for is left out.
func schema2(v any) any {
	o, ok := v.(object)
	if !ok {
		return v
	}
	out := object{}
	for name, v := range o {
		switch name {
		case "nullable", "anyOf", "not":
		case "oneOf": // a value of one type or another
			if o["type"] == nil {
				out["type"] = "string"
			}
		case "allOf": // how version 3 adds a text to a reference
			if parts, ok := v.([]any); ok && len(parts) == 1 {
				if r, ok := schema2(parts[0]).(object); ok {
					maps.Copy(out, r)
				}
			}
		case "$ref":
			if s, ok := v.(string); ok {
				out[name] = definitionRef + strings.TrimPrefix(s, modelRef)
			}
		case "properties":
			props := object{}
			if in, ok := v.(object); ok {
				for p, s := range in {
					props[p] = schema2(s)
				}
			}
			out[name] = props
		case "items", "additionalProperties":
			out[name] = schema2(v)
		default:
			out[name] = v
		}
	}
	return out
}

func pathItem2(item object) object {
	out := object{}
	for name, v := range item {
		if name == "parameters" {
			out[name] = parameters2(v)
		} else if op, ok := v.(object); ok {
			out[name] = operation2(op)
		}
	}
	return out
}

func parameters2(v any) []any {
	out := []any{}
	list, _ := v.([]any)
	for _, p := range list {
		p, ok := p.(object)
		if !ok {
			continue
		}
		flat := maps.Clone(p)
		if s, ok := p["schema"].(object); ok {
			delete(flat, "schema")
			maps.Copy(flat, s)
		}
		out = append(out, flat)
	}
	return out
}

func operation2(op object) object {
	out := object{"schemes": []any{"https"}}
	params := parameters2(op["parameters"])
	for name, v := range op {
		switch name {
		case "parameters":
		case "requestBody":
			body, _ := v.(object)
			types, s := content2(body["content"])
			out["consumes"] = types
			params = append([]any{object{"name": "body", "in": "body", "required": body["required"] == true, "schema": s}}, params...)
		case "responses":
			answers := object{}
			for code, a := range v.(object) {
				a, _ := a.(object)
				one := object{"description": a["description"]}
				if a["content"] != nil {
					types, s := content2(a["content"])
					out["produces"] = types
					one["schema"] = s
				}
				answers[code] = one
			}
			out[name] = answers
		default:
			out[name] = v
		}
	}
	if len(params) > 0 {
		out["parameters"] = params
	}
	return out
}

// content2 are the media types of a body, and the schema that they share.
func content2(v any) (types []any, schema any) {
	content, _ := v.(object)
	for _, t := range slices.Sorted(maps.Keys(content)) {
		types = append(types, t)
		if m, ok := content[t].(object); ok && schema == nil {
			schema = schema2(m["schema"])
		}
	}
	return types, schema
}

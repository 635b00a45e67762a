package openapi

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	openapispec "k8s.io/kube-openapi/pkg/validation/spec"
)

// Schema describes a kind, with every reference replaced by what it refers to;
// nil: there is no such kind. A type that holds itself is an object without
// fields where it comes again.
func (h *Handler) Schema(gvk schema.GroupVersionKind) (*openapispec.Schema, error) {
	data, err := h.Document(Path(gvk.GroupVersion()))
	if data == nil || err != nil {
		return nil, err
	}
	var doc struct {
		Components struct{ Schemas map[string]json.RawMessage }
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	r := &resolver{models: doc.Components.Schemas, done: map[string]*openapispec.Schema{}, open: map[string]bool{}}
	for name, raw := range r.models {
		var is struct {
			Kinds []schema.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
		}
		if err := json.Unmarshal(raw, &is); err != nil {
			return nil, err
		}
		if len(is.Kinds) == 1 && is.Kinds[0] == gvk { // options have many
			return r.model(name)
		}
	}
	return nil, nil
}

// resolver follows the references of one document.
type resolver struct {
	models map[string]json.RawMessage
	done   map[string]*openapispec.Schema
	open   map[string]bool // on the way from the root
}

func (r *resolver) model(name string) (*openapispec.Schema, error) {
	if s := r.done[name]; s != nil {
		return s, nil
	}
	if r.open[name] {
		return &openapispec.Schema{SchemaProps: openapispec.SchemaProps{Type: []string{"object"}}}, nil
	}
	raw, ok := r.models[name]
	if !ok {
		return nil, fmt.Errorf("cannot resolve the reference to %s", name)
	}
	s := &openapispec.Schema{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, err
	}
	r.open[name] = true
	defer delete(r.open, name)
	if err := r.fill(s); err != nil {
		return nil, err
	}
	r.done[name] = s
	return s, nil
}

// fill replaces the references in s, and s itself if it is one.
func (r *resolver) fill(s *openapispec.Schema) error {
	if name := referred(s); name != "" {
		to, err := r.model(name)
		if err == nil {
			*s = *to
		}
		return err
	}
	for name, p := range s.Properties {
		if err := r.fill(&p); err != nil {
			return err
		}
		s.Properties[name] = p
	}
	if a := s.AdditionalProperties; a != nil && a.Schema != nil {
		if err := r.fill(a.Schema); err != nil {
			return err
		}
	}
	if s.Items != nil && s.Items.Schema != nil {
		return r.fill(s.Items.Schema)
	}
	return nil
}

// referred is the model that s refers to; documents wrap a reference that has a
// text of its own in allOf.
func referred(s *openapispec.Schema) string {
	if text := s.Ref.String(); text != "" {
		return strings.TrimPrefix(text, modelRef)
	}
	for i := range s.AllOf {
		if name := referred(&s.AllOf[i]); name != "" {
			return name
		}
	}
	return ""
}

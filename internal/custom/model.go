package custom

import (
	"encoding/json"

	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
)

// model is the version's schema for OpenAPI documents.
func (v *version) model(v2 bool) ([]byte, error) {
	s := v.schema
	switch {
	case v2 && (s == nil || v.preserve || s.XPreserveUnknownFields): // version 2 cannot say what may be there besides
		return []byte(`{"type":"object"}`), nil
	case s == nil || v.preserve:
		return []byte(`{"type":"object","x-kubernetes-preserve-unknown-fields":true}`), nil
	case v2:
		s = openapiv2.ToStructuralOpenAPIV2(s)
	default:
		s = s.Unfold() // says of what is an integer or a string that it is either
	}
	return json.Marshal(s.ToKubeOpenAPI())
}

package warnings

import (
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
)

// CustomResourceDefinition on formats that nothing checks, and on sets that
// neither rules nor server-side apply know how to treat; on an update only
// what is new.
func CustomResourceDefinition(crd, old *apiextensionsv1.CustomResourceDefinition) []string {
	var known []string
	if old != nil {
		known = schemaWarnings(old)
	}
	var l list
	for _, w := range schemaWarnings(crd) {
		if !slices.Contains(known, w) {
			l.addf("%s", w)
		}
	}
	return l
}

func schemaWarnings(crd *apiextensionsv1.CustomResourceDefinition) []string {
	var l list
	for _, v := range crd.Spec.Versions {
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			l.schema(v.Schema.OpenAPIV3Schema)
		}
	}
	return l
}

// schema looks at every part of one, whose depth validation has bounded.
func (l *list) schema(s *apiextensionsv1.JSONSchemaProps) {
	if s.Format != "" {
		one := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
		for _, f := range validation.GetUnrecognizedFormats(one, environment.DefaultCompatibilityVersion()) {
			l.addf("unrecognized format %q", f)
		}
	}
	if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil && (s.Items.Schema.Type == "object" || s.Items.Schema.Type == "array") {
		l.addf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", s.Items.Schema.Type)
	}
	for _, name := range sortedKeys(s.Properties) {
		p := s.Properties[name]
		l.schema(&p)
	}
	if s.Items != nil && s.Items.Schema != nil {
		l.schema(s.Items.Schema)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		l.schema(s.AdditionalProperties.Schema)
	}
	for _, more := range [][]apiextensionsv1.JSONSchemaProps{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range more {
			l.schema(&more[i])
		}
	}
	if s.Not != nil {
		l.schema(s.Not)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

package openapi

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	openapispec "k8s.io/kube-openapi/pkg/validation/spec"
)

func TestSchema(t *testing.T) {
	h, err := New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	of := func(group, version, kind string) *openapispec.Schema {
		t.Helper()
		s, err := h.Schema(schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	at := func(s *openapispec.Schema, path ...string) *openapispec.Schema {
		t.Helper()
		for _, name := range path {
			if s.Items != nil {
				s = s.Items.Schema
			}
			p, ok := s.Properties[name]
			if !ok {
				t.Fatalf("no %s of %v", name, path)
			}
			s = &p
		}
		return s
	}
	d := of("apps", "v1", "Deployment")
	if s := at(d, "spec", "replicas"); !s.Type.Contains("integer") {
		t.Errorf("%v", s.Type)
	}
	if s := at(d, "spec", "template", "spec", "containers", "resources", "limits"); s.AdditionalProperties == nil || s.AdditionalProperties.Schema.Ref.String() != "" {
		t.Errorf("%+v", s)
	}
	if s := at(d, "metadata", "labels"); !s.Type.Contains("object") {
		t.Errorf("%v", s.Type)
	}
	// A type that holds itself comes to an end.
	if s := at(of("apiextensions.k8s.io", "v1", "CustomResourceDefinition"), "spec", "versions", "schema", "openAPIV3Schema", "not"); !s.Type.Contains("object") || len(s.Properties) != 0 {
		t.Errorf("%+v", s)
	}
	for _, kind := range []string{"Nope", "DeleteOptions"} {
		if s := of("apps", "v1", kind); s != nil {
			t.Errorf("%s: %+v", kind, s)
		}
	}
	if s := of("nope", "v1", "Deployment"); s != nil {
		t.Errorf("%+v", s)
	}
}

package ownership

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/schemaconv"
	openapi "k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"knarr.dev/knarr/internal/kinds"
)

// customType is the library's view of a custom kind. It is made when objects
// of the kind are first written, and forgotten with the definition.
func (f *Fields) customType(k *kinds.Kind) (typed.ParseableType, error) {
	if t, ok := f.custom.Load(k); ok {
		return t.(func() (typed.ParseableType, error))()
	}
	once := sync.OnceValues(func() (typed.ParseableType, error) { return describeCustom(k, f.meta()) })
	t, loaded := f.custom.LoadOrStore(k, once)
	if !loaded && k.Life != nil {
		context.AfterFunc(k.Life, func() { f.custom.Delete(k) })
	}
	return t.(func() (typed.ParseableType, error))()
}

// describeCustom makes it of the kind's OpenAPI model and of what all objects
// have.
func describeCustom(k *kinds.Kind, meta []schema.TypeDef) (typed.ParseableType, error) {
	if k.Model == nil {
		return typed.DeducedParseableType, nil
	}
	raw, err := k.Model(false)
	if err != nil {
		return typed.ParseableType{}, err
	}
	model := &openapi.Schema{}
	if err := json.Unmarshal(raw, model); err != nil {
		return typed.ParseableType{}, err
	}
	objectFields(model)
	const name = "object"
	s, err := schemaconv.ToSchemaFromOpenAPI(map[string]*openapi.Schema{name: model}, false)
	if err != nil {
		return typed.ParseableType{}, fmt.Errorf("the schema of %s cannot say who owns which field: %w", k, err)
	}
	p := typed.Parser{Schema: schema.Schema{Types: slices.Concat(s.Types, meta)}}
	return p.Type(name), nil
}

// objectFields gives the model what every object has, and objects within it
// that are whole ones, too.
func objectFields(s *openapi.Schema) {
	embeddedFields(s)
	ownFields(s)
}

func ownFields(s *openapi.Schema) {
	s.SetProperty("apiVersion", *openapi.StringProperty())
	s.SetProperty("kind", *openapi.StringProperty())
	s.SetProperty("metadata", *openapi.RefSchema("#/components/schemas/" + modelName(reflect.TypeFor[metav1.ObjectMeta]())))
}

func embeddedFields(s *openapi.Schema) {
	if s == nil {
		return
	}
	for name, p := range s.Properties {
		embeddedFields(&p)
		s.Properties[name] = p
	}
	if s.Items != nil {
		embeddedFields(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		embeddedFields(s.AdditionalProperties.Schema)
	}
	if s.Extensions["x-kubernetes-embedded-resource"] == true {
		ownFields(s)
	}
}

// metaTypes describe ObjectMeta, for schemas that refer to it.
func metaTypes(s *shapes) []schema.TypeDef {
	b := describer{shapes: s, done: map[string]bool{}}
	b.named(s.of(reflect.TypeFor[metav1.ObjectMeta]()).shape)
	return b.types
}

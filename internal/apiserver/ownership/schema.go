package ownership

import (
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// typer is the library's view of the Go types. Its schema is made of the
// shapes, so that both judge by the same relations; it is what upstream makes
// of its OpenAPI documents, without unpacking them.
type typer struct {
	parser typed.Parser
}

const (
	untypedName = "__untyped_atomic_"
	deducedName = "__untyped_deduced_"
)

// newTyper describes the given struct types and all that they refer to.
func newTyper(s *shapes, roots []reflect.Type) *typer {
	b := describer{shapes: s, done: map[string]bool{}}
	for _, t := range roots {
		b.named(s.of(t).shape)
	}
	b.common()
	return &typer{parser: typed.Parser{Schema: schema.Schema{Types: b.types}}}
}

func (t *typer) of(typ reflect.Type) typed.ParseableType { return t.parser.Type(modelName(typ)) }

// describer makes a schema of shapes.
type describer struct {
	shapes *shapes
	types  []schema.TypeDef
	done   map[string]bool
}

// named refers to a struct, which is described once.
func (b *describer) named(sh *shape) schema.TypeRef {
	name := modelName(sh.typ)
	ref := schema.TypeRef{NamedType: &name}
	whole := b.shapes.relations[[2]string{name, "-"}].kind == "atomic"
	switch {
	case sh.form == atom && !whole:
		ref.ElementRelationship = ptr[schema.ElementRelationship](schema.Atomic)
	case sh.form == record && whole:
		ref.ElementRelationship = ptr[schema.ElementRelationship](schema.Separable)
	}
	if b.done[name] {
		return ref
	}
	b.done[name] = true
	m := &schema.Map{}
	if whole {
		m.ElementRelationship = schema.Atomic
	}
	for _, f := range sh.fields {
		m.Fields = append(m.Fields, schema.StructField{Name: f.name, Type: b.ref(f.shape)})
	}
	if len(m.Fields) == 0 {
		m.ElementType = schema.TypeRef{NamedType: ptr(deducedName)}
	}
	b.types = append(b.types, schema.TypeDef{Name: name, Atom: schema.Atom{Map: m}})
	return ref
}

func (b *describer) ref(sh *shape) schema.TypeRef {
	switch {
	case converts(sh.typ):
		return scalarRef(sh.typ)
	case sh.typ.Kind() == reflect.Struct:
		return b.named(sh)
	case sh.typ.Kind() == reflect.Map:
		m := &schema.Map{ElementType: b.ref(sh.elem)}
		if sh.form == atom {
			m.ElementRelationship = schema.Atomic
		}
		return schema.TypeRef{Inlined: schema.Atom{Map: m}}
	case sh.typ.Kind() == reflect.Slice && sh.typ.Elem().Kind() != reflect.Uint8:
		return schema.TypeRef{Inlined: schema.Atom{List: b.list(sh)}}
	}
	kind := schema.String
	switch sh.typ.Kind() {
	case reflect.Bool:
		kind = schema.Boolean
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		kind = schema.Numeric
	}
	return schema.TypeRef{Inlined: schema.Atom{Scalar: &kind}}
}

func (b *describer) list(sh *shape) *schema.List {
	l := &schema.List{ElementRelationship: schema.Associative, ElementType: b.ref(sh.elem)}
	if sh.form == atom {
		l.ElementRelationship = schema.Atomic
	}
	for _, k := range sh.keys {
		l.Keys = append(l.Keys, k.name)
	}
	if sh.form == items {
		b.defaults(sh.elem, sh.keys)
	}
	return l
}

// defaults of keys stand with the type of the items.
func (b *describer) defaults(elem *shape, keys []keyField) {
	for i := range b.types {
		if b.types[i].Name != modelName(elem.typ) {
			continue
		}
		fields := b.types[i].Map.Fields
		for _, k := range keys {
			for j := range fields {
				if d := defaultOf(k.key, k.field.shape.typ); d != nil && fields[j].Name == k.name {
					fields[j].Default = d
				}
			}
		}
	}
}

// scalarRef is what the OpenAPI documents say of types with their own JSON.
func scalarRef(t reflect.Type) schema.TypeRef {
	untyped := schema.Scalar("untyped")
	switch t {
	case reflect.TypeFor[metav1.Duration]():
		kind := schema.String
		return schema.TypeRef{Inlined: schema.Atom{Scalar: &kind}}
	case reflect.TypeFor[metav1.FieldsV1]():
		return schema.TypeRef{Inlined: schema.Atom{Map: &schema.Map{ElementType: schema.TypeRef{NamedType: ptr(deducedName)}}}}
	case reflect.TypeFor[runtime.RawExtension]():
		return schema.TypeRef{NamedType: ptr(untypedName)}
	case reflect.TypeFor[intstr.IntOrString]():
		return anything()
	}
	if strings.HasPrefix(t.PkgPath(), "k8s.io/apimachinery/") { // times and quantities
		return schema.TypeRef{Inlined: schema.Atom{Scalar: &untyped}}
	}
	return anything()
}

// anything is a value without a type in OpenAPI.
func anything() schema.TypeRef {
	untyped := schema.Scalar("untyped")
	return schema.TypeRef{Inlined: schema.Atom{
		Scalar: &untyped,
		List:   &schema.List{ElementType: schema.TypeRef{NamedType: ptr(untypedName)}, ElementRelationship: schema.Atomic},
		Map:    &schema.Map{ElementType: schema.TypeRef{NamedType: ptr(deducedName)}},
	}}
}

// common adds the two types that structured-merge-diff's schemas end with:
// values that are one, and values that are owned by what they hold.
func (b *describer) common() {
	untyped := schema.Scalar("untyped")
	one := schema.TypeRef{NamedType: ptr(untypedName)}
	list := &schema.List{ElementType: one, ElementRelationship: schema.Atomic}
	b.types = append(b.types,
		schema.TypeDef{Name: untypedName, Atom: schema.Atom{Scalar: &untyped, List: list, Map: &schema.Map{ElementType: one, ElementRelationship: schema.Atomic}}},
		schema.TypeDef{Name: deducedName, Atom: schema.Atom{Scalar: &untyped, List: list, Map: &schema.Map{ElementType: schema.TypeRef{NamedType: ptr(deducedName)}, ElementRelationship: schema.Separable}}})
}

func ptr[T any](v T) *T { return &v }

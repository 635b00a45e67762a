package ownership

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"k8s.io/kube-openapi/pkg/schemaconv"
	openapispec "k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"knarr.dev/knarr/internal/apiserver/openapi"
	"knarr.dev/knarr/internal/kinds"
)

// The schema that is made of Go types is the one that upstream makes of its
// OpenAPI documents.
func TestSchemaIsThatOfTheDocuments(t *testing.T) {
	docs, err := openapi.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	ours := byName(f.typer().parser.Schema.Types)
	checked := map[string]bool{}
	for _, k := range kinds.Builtin().All() {
		if k.New == nil {
			continue
		}
		path := "apis/" + k.GVK.Group + "/" + k.GVK.Version
		if k.GVK.Group == "" {
			path = "api/" + k.GVK.Version
		}
		data, err := docs.Document(path)
		if err != nil || data == nil {
			t.Fatalf("no document of %s: %v (make generate)", path, err)
		}
		var doc struct {
			Components struct {
				Schemas map[string]*openapispec.Schema `json:"schemas"`
			} `json:"components"`
		}
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		s, err := schemaconv.ToSchemaFromOpenAPI(doc.Components.Schemas, false)
		if err != nil {
			t.Fatal(err)
		}
		theirs := byName(s.Types)
		compareTypes(t, ours, theirs, modelName(reflect.TypeOf(k.New()).Elem()), checked)
	}
	if len(checked) < 250 {
		t.Errorf("only %d types were compared", len(checked))
	}
}

func byName(defs []schema.TypeDef) map[string]schema.Atom {
	out := map[string]schema.Atom{}
	for _, d := range defs {
		out[d.Name] = d.Atom
	}
	return out
}

func compareTypes(t *testing.T, ours, theirs map[string]schema.Atom, name string, checked map[string]bool) {
	if checked[name] {
		return
	}
	checked[name] = true
	a, ok := ours[name]
	b, found := theirs[name]
	if !ok || !found {
		t.Errorf("%s: ours %v, theirs %v", name, ok, found)
		return
	}
	c := comparison{t: t, ours: ours, theirs: theirs, checked: checked}
	c.atoms(name, a, b)
}

type comparison struct {
	t            *testing.T
	ours, theirs map[string]schema.Atom
	checked      map[string]bool
}

// refs compares two references, by what they resolve to: scalars that the
// documents give a name (a Time) are inlined by us.
func (c *comparison) refs(path string, a, b schema.TypeRef) {
	if a.NamedType != nil && b.NamedType != nil && *a.NamedType == *b.NamedType {
		if fmt.Sprint(deref2(a.ElementRelationship)) != fmt.Sprint(deref2(b.ElementRelationship)) {
			c.t.Errorf("%s: relation %v, want %v", path, deref2(a.ElementRelationship), deref2(b.ElementRelationship))
		}
		if !strings.HasPrefix(*a.NamedType, "__") {
			compareTypes(c.t, c.ours, c.theirs, *a.NamedType, c.checked)
		}
		return
	}
	c.atoms(path, resolve(c.ours, a), resolve(c.theirs, b))
}

func deref2(r *schema.ElementRelationship) schema.ElementRelationship {
	if r == nil {
		return ""
	}
	return *r
}

func resolve(types map[string]schema.Atom, r schema.TypeRef) schema.Atom {
	if r.NamedType == nil {
		return r.Inlined
	}
	return types[*r.NamedType]
}

func (c *comparison) atoms(path string, a, b schema.Atom) {
	if (a.Scalar == nil) != (b.Scalar == nil) || (a.List == nil) != (b.List == nil) || (a.Map == nil) != (b.Map == nil) {
		c.t.Errorf("%s: %+v, want %+v", path, a, b)
		return
	}
	if a.Scalar != nil && *a.Scalar != *b.Scalar {
		c.t.Errorf("%s: scalar %s, want %s", path, *a.Scalar, *b.Scalar)
	}
	if a.List != nil {
		keys := map[string]bool{}
		for _, k := range b.List.Keys {
			keys[k] = true
		}
		for _, k := range a.List.Keys {
			delete(keys, k)
		}
		if a.List.ElementRelationship != b.List.ElementRelationship || len(a.List.Keys) != len(b.List.Keys) || len(keys) > 0 {
			c.t.Errorf("%s: list %s %v, want %s %v", path, a.List.ElementRelationship, a.List.Keys, b.List.ElementRelationship, b.List.Keys)
		}
		c.refs(path+"[]", a.List.ElementType, b.List.ElementType)
		for _, k := range b.List.Keys {
			x, _ := resolve(c.ours, a.List.ElementType).Map.FindField(k)
			y, _ := resolve(c.theirs, b.List.ElementType).Map.FindField(k)
			if fmt.Sprint(x.Default) != fmt.Sprint(y.Default) {
				c.t.Errorf("%s[].%s: default %v, want %v", path, k, x.Default, y.Default)
			}
		}
	}
	if a.Map == nil {
		return
	}
	if (a.Map.ElementRelationship == schema.Atomic) != (b.Map.ElementRelationship == schema.Atomic) {
		c.t.Errorf("%s: map %q, want %q", path, a.Map.ElementRelationship, b.Map.ElementRelationship)
	}
	if len(a.Map.Fields) != len(b.Map.Fields) {
		c.t.Errorf("%s: %d fields, want %d", path, len(a.Map.Fields), len(b.Map.Fields))
	}
	for _, x := range a.Map.Fields {
		y, ok := b.Map.FindField(x.Name)
		if !ok {
			c.t.Errorf("%s.%s is not in the documents", path, x.Name)
			continue
		}
		c.refs(path+"."+x.Name, x.Type, y.Type)
	}
	if (a.Map.ElementType == schema.TypeRef{}) != (b.Map.ElementType == schema.TypeRef{}) {
		c.t.Errorf("%s: element %v, want %v", path, a.Map.ElementType, b.Map.ElementType)
	} else if (a.Map.ElementType != schema.TypeRef{}) {
		c.refs(path+"{}", a.Map.ElementType, b.Map.ElementType)
	}
}

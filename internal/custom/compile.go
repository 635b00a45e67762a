// Package custom makes kinds of custom resource definitions: schemas are
// compiled into defaults, pruning, validation, columns and fields. Nothing here
// does I/O but the conversion that a definition may hand to a webhook.
package custom

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
)

// Definition is what one custom resource definition serves.
type Definition struct {
	Served []*kinds.Kind // one per version
	end    context.CancelFunc
}

// End ends the watches of the definition's kinds: another one takes its place.
func (d *Definition) End() { d.end() }

// Convert is the conversion of objects between versions by somebody else; the
// answer has as many objects, in the same order.
type Convert func(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, objects []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error)

// Compile makes the kinds of a definition whose names are accepted.
func Compile(crd *apiextensionsv1.CustomResourceDefinition, convert Convert) (*Definition, error) {
	names := crd.Status.AcceptedNames
	if names.Plural == "" || names.Singular == "" || names.Kind == "" || names.ListKind == "" {
		return nil, fmt.Errorf("the names of %s are not all accepted", crd.Name)
	}
	life, end := context.WithCancel(context.Background())
	d := &Definition{end: end}
	versions := map[string]*version{}
	storage := ""
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		if v.Storage {
			storage = v.Name
		}
		c, err := newVersion(crd, v)
		if err != nil {
			return nil, fmt.Errorf("version %s of %s: %w", v.Name, crd.Name, err)
		}
		versions[v.Name] = c
	}
	base := kinds.Kind{
		Resource: names.Plural, Singular: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories, ListKind: names.ListKind,
		Namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped, Prefix: crd.Spec.Group + "/" + names.Plural, RequireVersion: true, Life: life,
	}
	if crd.DeletionTimestamp != nil {
		base.Verbs = []string{"delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	gvk := func(v string) schema.GroupVersionKind {
		return schema.GroupVersionKind{Group: crd.Spec.Group, Version: v, Kind: names.Kind}
	}
	c := &converter{crd: crd, versions: versions, webhook: convert}
	all := map[string]*kinds.Kind{}
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		k := base
		k.GVK = gvk(v.Name)
		k.New, k.NewList = constructors(k.GVK, names.ListKind)
		k.Load, k.Save = c.load(v.Name), c.save(storage)
		k.OtherVersion = func(name string) *kinds.Kind { return all[name] }
		versions[v.Name].rules(&k)
		all[v.Name] = &k
		if v.Served {
			d.Served = append(d.Served, &k)
		}
	}
	return d, nil
}

func constructors(gvk schema.GroupVersionKind, list string) (func() kinds.Object, func() runtime.Object) {
	return func() kinds.Object {
			u := &unstructured.Unstructured{Object: map[string]any{}}
			u.SetGroupVersionKind(gvk)
			return u
		}, func() runtime.Object {
			l := &unstructured.UnstructuredList{Object: map[string]any{}}
			l.SetGroupVersionKind(gvk.GroupVersion().WithKind(list))
			return l
		}
}

// version is one version's schema, compiled.
type version struct {
	spec     *apiextensionsv1.CustomResourceDefinitionVersion
	gvk      schema.GroupVersionKind
	schema   *structural.Structural // nil: anything goes (v1 definitions have one)
	props    *apiextensions.JSONSchemaProps
	preserve bool // the definition keeps unknown fields everywhere
}

func newVersion(crd *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) (*version, error) {
	c := &version{spec: v, preserve: crd.Spec.PreserveUnknownFields,
		gvk: schema.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: crd.Status.AcceptedNames.Kind}}
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return c, nil
	}
	c.props = &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema.DeepCopy(), c.props, nil); err != nil {
		return nil, err
	}
	s, err := structural.NewStructural(c.props)
	if err != nil {
		if c.preserve {
			return c, nil // an old definition; the schema still validates
		}
		return nil, err
	}
	c.schema = s.DeepCopy() // its defaults are shared with props
	if !c.preserve {
		if err := defaulting.PruneDefaults(c.schema); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// setDefaults in place.
func (v *version) setDefaults(o map[string]any) {
	if v.schema == nil {
		return
	}
	defaulting.Default(o, v.schema)
}

// prune takes out what the schema does not have, and returns the paths; also
// what is no metadata.
func (v *version) prune(o map[string]any) ([]string, error) {
	kind, apiVersion := o["kind"], o["apiVersion"]
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(o, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return nil, err
	}
	if v.schema != nil {
		if !v.preserve {
			unknown = append(unknown, pruning.PruneWithOptions(o, v.schema, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
			defaulting.PruneNonNullableNullsWithoutDefaults(o, v.schema)
		}
		bad, paths := objectmeta.CoerceWithOptions(nil, o, v.schema, false, objectmeta.CoerceOptions{ReturnUnknownFieldPaths: true})
		if bad != nil {
			return nil, bad
		}
		unknown = append(unknown, paths...)
	}
	o["kind"], o["apiVersion"] = kind, apiVersion
	if found {
		if err := objectmeta.SetObjectMeta(o, meta); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

// converter makes objects of one version of those of another.
type converter struct {
	crd      *apiextensionsv1.CustomResourceDefinition
	versions map[string]*version
	webhook  Convert
}

// load reads stored bytes, of whatever version they are, as a version's object
// with its defaults.
func (c *converter) load(name string) func(context.Context, []byte) (kinds.Object, error) {
	target := c.versions[name]
	return func(ctx context.Context, data []byte) (kinds.Object, error) {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(data); err != nil {
			return nil, err
		}
		u, err := c.convert(ctx, u, name)
		if err != nil {
			return nil, err
		}
		if _, err := target.prune(u.Object); err != nil {
			return nil, err
		}
		target.setDefaults(u.Object)
		return u, nil
	}
}

// save writes an object in the storage version.
func (c *converter) save(name string) func(context.Context, kinds.Object) ([]byte, error) {
	target := c.versions[name]
	return func(ctx context.Context, o kinds.Object) ([]byte, error) {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return nil, fmt.Errorf("%T is no custom resource", o)
		}
		u = u.DeepCopy()
		u.SetResourceVersion("")
		from := u.GetAPIVersion()
		u, err := c.convert(ctx, u, name)
		if err != nil {
			return nil, err
		}
		if u.GetAPIVersion() != from {
			if _, err := target.prune(u.Object); err != nil {
				return nil, err
			}
		}
		return json.Marshal(u)
	}
}

// convert may change u.
func (c *converter) convert(ctx context.Context, u *unstructured.Unstructured, version string) (*unstructured.Unstructured, error) {
	want := c.crd.Spec.Group + "/" + version
	if u.GetAPIVersion() == want {
		return u, nil
	}
	if c.crd.Spec.Conversion == nil || c.crd.Spec.Conversion.Strategy != apiextensionsv1.WebhookConverter {
		u.SetAPIVersion(want)
		return u, nil
	}
	out, err := c.webhook(ctx, c.crd, []*unstructured.Unstructured{u}, want)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// dotted is a simple JSONPath as the names on the way.
func dotted(path string) []string {
	return strings.Split(strings.TrimPrefix(path, "."), ".")
}

package custom

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	"knarr.dev/knarr/internal/kinds"
)

// rules fills in what the version decides about a kind.
func (v *version) rules(k *kinds.Kind) {
	j := sync.OnceValue(func() *judge { return v.judge(k.Namespaced) }) // rules take long to compile
	sub := v.spec.Subresources
	hasStatus := sub != nil && sub.Status != nil
	k.Default = func(o kinds.Object) { v.setDefaults(content(o)) }
	k.Prune = v.prune
	k.PrepareCreate = func(o kinds.Object) {
		if hasStatus {
			delete(content(o), "status")
		}
		o.SetGeneration(1)
	}
	k.PrepareUpdate = func(o, old kinds.Object) {
		if hasStatus {
			keep(content(o), content(old), "status")
		}
		o.SetGeneration(old.GetGeneration())
		if changed(content(o), content(old)) {
			o.SetGeneration(old.GetGeneration() + 1)
		}
	}
	k.Validate = func(o kinds.Object) field.ErrorList { return j().create(o.(*unstructured.Unstructured)) }
	k.ValidateUpdate = func(o, old kinds.Object) field.ErrorList {
		return j().update(o.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
	}
	k.Warnings = finalizerWarnings
	if v.spec.Deprecated {
		text := fmt.Sprintf("%s %s is deprecated", v.gvk.GroupVersion(), v.gvk.Kind)
		if w := v.spec.DeprecationWarning; w != nil {
			text = *w
		}
		k.Deprecation = text
	}
	k.Model = v.model
	k.Columns = v.columns()
	k.Fields = v.fields()
	k.Subresources = map[string]kinds.Subresource{}
	if hasStatus {
		k.Subresources["status"] = kinds.Subresource{Verbs: []string{"get", "patch", "update"}, PrepareUpdate: prepareStatus,
			ValidateUpdate: func(o, old kinds.Object) field.ErrorList {
				return j().status(o.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
			}}
	}
	if sub != nil && sub.Scale != nil {
		k.Subresources["scale"] = kinds.ScaleSubresource(v.scale())
	}
}

func content(o kinds.Object) map[string]any { return o.(*unstructured.Unstructured).Object }

// keep takes one field from old.
func keep(o, old map[string]any, name string) {
	if v, ok := old[name]; ok {
		o[name] = v
	} else {
		delete(o, name)
	}
}

// changed compares everything but the metadata.
func changed(o, old map[string]any) bool {
	if len(o) != len(old) {
		return true
	}
	for k, v := range o {
		if k == "metadata" {
			continue
		}
		if was, ok := old[k]; !ok || !equality.Semantic.DeepEqual(v, was) {
			return true
		}
	}
	return false
}

// prepareStatus keeps everything but the status; of the metadata, what says who
// manages which field is the client's.
func prepareStatus(o, old kinds.Object) {
	now, before := content(o), content(old)
	status, ok := now["status"]
	managed := o.GetManagedFields()
	for k := range now {
		delete(now, k)
	}
	for k, v := range runtime.DeepCopyJSON(before) {
		now[k] = v
	}
	delete(now, "status")
	if ok {
		now["status"] = status
	}
	o.SetManagedFields(managed)
}

// judge holds what validation needs, compiled once.
type judge struct {
	v          *version
	namespaced bool
	schema     validation.SchemaValidator
	part       validation.SchemaValidator // of the status alone
	rules      *cel.Validator             // nil: there are none
	broken     error
}

func (v *version) judge(namespaced bool) *judge {
	j := &judge{v: v, namespaced: namespaced}
	if j.schema, _, j.broken = validation.NewSchemaValidator(v.props); j.broken != nil {
		return j
	}
	if v.props != nil {
		if s, ok := v.props.Properties["status"]; ok {
			j.part, _, j.broken = validation.NewSchemaValidator(&s)
		}
	}
	if v.schema != nil {
		j.rules = cel.NewValidator(v.schema, true, celconfig.PerCallLimit)
	}
	return j
}

var metaPath = field.NewPath("metadata")

func (j *judge) create(u *unstructured.Unstructured) field.ErrorList {
	if j.broken != nil {
		return field.ErrorList{field.InternalError(nil, j.broken)}
	}
	errs := apivalidation.ValidateObjectMetaAccessor(u, j.namespaced, apivalidation.NameIsDNSSubdomain, metaPath)
	errs = append(errs, validation.ValidateCustomResource(nil, u.Object, j.schema)...)
	errs = append(errs, j.replicas(u)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, u.Object, j.v.schema, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, j.v.schema, u.Object)...)
	return append(errs, j.judgeRules(errs, u, nil)...)
}

func (j *judge) update(u, old *unstructured.Unstructured) field.ErrorList {
	if j.broken != nil {
		return field.ErrorList{field.InternalError(nil, j.broken)}
	}
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(u, old, metaPath)
	same := j.correlated(u, old)
	errs = append(errs, validation.ValidateCustomResourceUpdate(nil, u.Object, old.Object, j.schema, ratchet(same)...)...)
	errs = append(errs, j.replicas(u)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, u.Object, j.v.schema, false)...)
	if len(listtype.ValidateListSetsAndMaps(nil, j.v.schema, old.Object)) == 0 {
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, j.v.schema, u.Object)...)
	}
	return append(errs, j.judgeRules(errs, u, old, celRatchet(same)...)...)
}

// status looks at the status alone; rules may tie it to the rest.
func (j *judge) status(u, old *unstructured.Unstructured) field.ErrorList {
	if j.broken != nil {
		return field.ErrorList{field.InternalError(nil, j.broken)}
	}
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(u, old, metaPath)
	same := j.correlated(u, old)
	if s, ok := u.Object["status"]; ok && j.part != nil {
		errs = append(errs, validation.ValidateCustomResourceUpdate(field.NewPath("status"), s, old.Object["status"], j.part, ratchet(same.Key("status"))...)...)
	}
	errs = append(errs, j.replicas(u)...)
	if len(listtype.ValidateListSetsAndMaps(nil, j.v.schema, old.Object)) == 0 {
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, j.v.schema, u.Object)...)
	}
	return append(errs, j.judgeRules(errs, u, old, celRatchet(same)...)...)
}

// ratchet forgives what was wrong before, where it is known what corresponds to
// what.
func ratchet(same *common.CorrelatedObject) []validation.ValidationOption {
	if same == nil {
		return nil
	}
	return []validation.ValidationOption{validation.WithRatcheting(same)}
}

func celRatchet(same *common.CorrelatedObject) []cel.Option {
	if same == nil {
		return nil
	}
	return []cel.Option{cel.WithRatcheting(same)}
}

// correlated pairs what is new with what stood there, for errors that stood
// there already.
func (j *judge) correlated(u, old *unstructured.Unstructured) *common.CorrelatedObject {
	if j.v.schema == nil {
		return nil
	}
	return common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: j.v.schema})
}

// judgeRules runs the CEL rules, unless the object is so wrong that they could
// not be trusted to say anything.
func (j *judge) judgeRules(so field.ErrorList, u, old *unstructured.Unstructured, opts ...cel.Option) field.ErrorList {
	if j.rules == nil {
		return nil
	}
	for _, e := range so {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return field.ErrorList{field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation")}
		}
	}
	var before any
	if old != nil {
		before = old.Object
	}
	errs, _ := j.rules.Validate(context.Background(), nil, j.v.schema, u.Object, before, celconfig.RuntimeCELCostBudget, opts...)
	return errs
}

// replicas: the paths of the scale subresource hold counts.
func (j *judge) replicas(u *unstructured.Unstructured) field.ErrorList {
	sub := j.v.spec.Subresources
	if sub == nil || sub.Scale == nil {
		return nil
	}
	var errs field.ErrorList
	for _, path := range []string{sub.Scale.SpecReplicasPath, sub.Scale.StatusReplicasPath} {
		parts := dotted(path)
		n, _, err := unstructured.NestedInt64(u.Object, parts...)
		at := field.NewPath(parts[0], parts[1:]...)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(at, n, err.Error()))
		case n < 0:
			errs = append(errs, field.Invalid(at, n, "should be a non-negative integer"))
		case n > maxReplicas:
			errs = append(errs, field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", maxReplicas)))
		}
	}
	if path := sub.Scale.LabelSelectorPath; path != nil && *path != "" {
		parts := dotted(*path)
		if s, _, err := unstructured.NestedString(u.Object, parts...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(parts[0], parts[1:]...), s, err.Error()))
		}
	}
	return errs
}

const maxReplicas = 1<<31 - 1

func (v *version) scale() *kinds.Scale {
	s := v.spec.Subresources.Scale
	number := func(path string) func(kinds.Object) int32 {
		parts := dotted(path)
		return func(o kinds.Object) int32 {
			n, _, _ := unstructured.NestedInt64(content(o), parts...)
			return int32(n)
		}
	}
	spec := dotted(s.SpecReplicasPath)
	return &kinds.Scale{
		Path: spec,
		Spec: number(s.SpecReplicasPath), Status: number(s.StatusReplicasPath),
		Selector: func(o kinds.Object) string {
			if s.LabelSelectorPath == nil || *s.LabelSelectorPath == "" {
				return ""
			}
			text, _, _ := unstructured.NestedString(content(o), dotted(*s.LabelSelectorPath)...)
			return text
		},
		Set: func(o kinds.Object, n int32) { setNested(content(o), int64(n), spec) },
	}
}

// setNested makes what is missing on the way; what is no object there was
// refused by the schema.
func setNested(o map[string]any, v any, path []string) {
	for _, name := range path[:len(path)-1] {
		next, ok := o[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			o[name] = next
		}
		o = next
	}
	o[path[len(path)-1]] = v
}

// finalizerWarnings: names without a domain collide sooner or later.
func finalizerWarnings(o, old kinds.Object) []string {
	known := map[string]bool{metav1.FinalizerOrphanDependents: true, metav1.FinalizerDeleteDependents: true, "kubernetes": true}
	if old != nil {
		for _, f := range old.GetFinalizers() {
			known[f] = true
		}
	}
	var out []string
	for _, f := range o.GetFinalizers() {
		switch {
		case known[f] || strings.Contains(f, "/"):
		case strings.Contains(f, "."):
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", f))
		default:
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", f))
		}
	}
	return out
}

package expression

import (
	"fmt"
	"slices"
	"strings"

	celgo "github.com/google/cel-go/cel"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	// maxTypes of one rule are checked, as upstream; maxAllTypes bounds what a
	// policy with many rules can cost.
	maxTypes    = 10
	maxAllTypes = 100
)

// Types is what is known of the objects that expressions look at.
type Types struct {
	// Kind of a resource; false: nobody knows it.
	Kind func(schema.GroupVersionResource) (schema.GroupVersionKind, bool)
	// Schema of a kind, without references; nil: it is not known.
	Schema func(schema.GroupVersionKind) *spec.Schema
}

// TypeCheck compares a policy's validations with the types of the objects that
// it matches by name. What it finds hinders nobody: the expressions are
// evaluated without types.
func TypeCheck(p *registrationv1.ValidatingAdmissionPolicy, types Types) []registrationv1.ExpressionWarning {
	var all []*checker
	for i, gvk := range matched(p, types) {
		if s := types.Schema(gvk); s != nil {
			c := &checker{gvk: gvk}
			c.env, c.err = c.environment(p, s, i, types)
			all = append(all, c)
		}
	}
	var out []registrationv1.ExpressionWarning
	check := func(at *field.Path, text string) {
		var found []string
		for _, c := range all {
			if w := c.check(text); w != "" {
				found = append(found, w)
			}
		}
		if len(found) > 0 {
			out = append(out, registrationv1.ExpressionWarning{FieldRef: at.String(), Warning: strings.Join(found, "\n")})
		}
	}
	for i, v := range p.Spec.Validations {
		at := field.NewPath("spec", "validations").Index(i)
		check(at.Child("expression"), v.Expression)
		if v.MessageExpression != "" {
			check(at.Child("messageExpression"), v.MessageExpression)
		}
	}
	return out
}

// matched are the kinds that rules name without wildcards, sorted.
func matched(p *registrationv1.ValidatingAdmissionPolicy, types Types) []schema.GroupVersionKind {
	var out []schema.GroupVersionKind
	if p.Spec.MatchConstraints == nil {
		return nil
	}
	for _, r := range p.Spec.MatchConstraints.ResourceRules {
		if wild(r.APIGroups) || wild(r.APIVersions) {
			continue
		}
		n := 0
		for _, gvr := range product(r.APIGroups, r.APIVersions, r.Resources) {
			gvk, ok := types.Kind(gvr)
			if !ok || strings.ContainsAny(gvr.Resource, "*/") || n == maxTypes {
				continue
			}
			n++
			if !slices.Contains(out, gvk) && len(out) < maxAllTypes {
				out = append(out, gvk)
			}
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int {
		return slices.Compare([]string{a.Group, a.Version, a.Kind}, []string{b.Group, b.Version, b.Kind})
	})
	return out
}

func wild(list []string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, "*") })
}

func product(groups, versions, resources []string) []schema.GroupVersionResource {
	var out []schema.GroupVersionResource
	for _, g := range slices.Sorted(slices.Values(groups)) {
		for _, v := range slices.Sorted(slices.Values(versions)) {
			for _, r := range slices.Sorted(slices.Values(resources)) {
				out = append(out, schema.GroupVersionResource{Group: g, Version: v, Resource: r})
			}
		}
	}
	return out
}

// checker checks expressions against the type of one kind.
type checker struct {
	gvk schema.GroupVersionKind
	env *plugincel.CompositedCompiler
	err error
}

// environment has typed variables where admission has dynamic ones.
func (c *checker) environment(p *registrationv1.ValidatingAdmissionPolicy, s *spec.Schema, n int, types Types) (*plugincel.CompositedCompiler, error) {
	namespace, request := plugincel.BuildNamespaceType(), plugincel.BuildRequestType()
	known := []*cel.DeclType{namespace, request}
	typed := func(s *spec.Schema, name string) *celgo.Type {
		if s == nil {
			return celgo.DynType
		}
		t := common.SchemaDeclType(&openapi.Schema{Schema: s}, true)
		if t == nil {
			return celgo.DynType
		}
		t = t.MaybeAssignTypeName(name)
		known = append(known, t)
		return t.CelType()
	}
	object := typed(s, fmt.Sprintf("%s%d", c.gvk.Kind, n))
	vars := []celgo.EnvOption{
		celgo.Variable(plugincel.NamespaceVarName, namespace.CelType()), celgo.Variable(plugincel.RequestVarName, request.CelType()),
		celgo.Variable(plugincel.ObjectVarName, object), celgo.Variable(plugincel.OldObjectVarName, object),
		celgo.Variable(plugincel.AuthorizerVarName, library.AuthorizerType),
	}
	if k := p.Spec.ParamKind; k != nil {
		gvk := schema.FromAPIVersionAndKind(k.APIVersion, k.Kind)
		vars = append(vars, celgo.Variable(plugincel.ParamsVarName, typed(types.Schema(gvk), gvk.Kind+"Params")))
	}
	set, err := Env().Extend(environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: vars, DeclTypes: known})
	if err != nil {
		return nil, err
	}
	env, err := plugincel.NewCompositedCompilerForTypeChecking(set)
	if err != nil {
		return nil, err
	}
	env.Compiler = untyped{env}
	for _, v := range p.Spec.Variables {
		env.CompileAndStoreVariable(&Variable{Name: v.Name, Expression: v.Expression}, plugincel.OptionalVariableDeclarations{}, environment.StoredExpressions)
	}
	return env, nil
}

// check is what is wrong with an expression, in upstream's form, or empty.
func (c *checker) check(text string) string {
	err := c.err
	if err == nil {
		found := c.env.CompileCELExpression(Bool(text), plugincel.OptionalVariableDeclarations{}, environment.StoredExpressions).Error
		switch {
		case found == nil:
			return ""
		case found.Type == cel.ErrorTypeInvalid:
			return fmt.Sprintf("%v: %s\n", c.gvk, found)
		}
		err = found
	}
	return fmt.Sprintf("%v: type checking error: %v\n", c.gvk, err)
}

// untyped compiles without a look at what an expression gives, and makes no
// program of it.
type untyped struct{ env *plugincel.CompositedCompiler }

// CompileCELExpression implements plugincel.Compiler.
func (u untyped) CompileCELExpression(x plugincel.ExpressionAccessor, _ plugincel.OptionalVariableDeclarations, mode environment.Type) plugincel.CompilationResult {
	failed := func(t cel.ErrorType, why string) plugincel.CompilationResult {
		return plugincel.CompilationResult{Error: &cel.Error{Type: t, Detail: why}, ExpressionAccessor: x}
	}
	env, err := u.env.Env(mode)
	if err != nil {
		return failed(cel.ErrorTypeInternal, fmt.Sprintf("fail to build env: %v", err))
	}
	ast, issues := env.Compile(x.GetExpression())
	if issues != nil {
		return failed(cel.ErrorTypeInvalid, issues.String())
	}
	return plugincel.CompilationResult{OutputType: ast.OutputType()}
}

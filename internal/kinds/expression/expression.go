// Package expression compiles the CEL expressions of admission: the conditions
// of webhooks, and what policies say of an object. The types name what each
// expression is to give; k8s.io/apiserver's cel packages do the rest.
package expression

import (
	"sync"

	celgo "github.com/google/cel-go/cel"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// Env is the environment of all expressions; made at the first use, because it
// costs megabytes that most servers never need.
var Env = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

// compiler keeps no state of its own: one for all.
var compiler = sync.OnceValue(func() plugincel.Compiler { return plugincel.NewCompiler(Env()) })

// Compiler for expressions that use no variables of a policy.
func Compiler() plugincel.Compiler { return compiler() }

// Composed is a new compiler for one policy, which remembers its variables.
func Composed() (*plugincel.CompositedCompiler, error) {
	return plugincel.NewCompositedCompiler(Env())
}

// Bool is an expression that says yes or no.
type Bool string

// GetExpression implements plugincel.ExpressionAccessor.
func (b Bool) GetExpression() string { return string(b) }

// ReturnTypes implements plugincel.ExpressionAccessor.
func (Bool) ReturnTypes() []*celgo.Type { return []*celgo.Type{celgo.BoolType} }

// Text is an expression that gives a message.
type Text string

// GetExpression implements plugincel.ExpressionAccessor.
func (s Text) GetExpression() string { return string(s) }

// ReturnTypes implements plugincel.ExpressionAccessor.
func (Text) ReturnTypes() []*celgo.Type { return []*celgo.Type{celgo.StringType} }

// Maybe is an expression that gives a text or null.
type Maybe string

// GetExpression implements plugincel.ExpressionAccessor.
func (s Maybe) GetExpression() string { return string(s) }

// ReturnTypes implements plugincel.ExpressionAccessor.
func (Maybe) ReturnTypes() []*celgo.Type { return []*celgo.Type{celgo.StringType, celgo.NullType} }

// Variable is a named expression of a policy; it may be of any type.
type Variable struct{ Name, Expression string }

// GetName implements plugincel.NamedExpressionAccessor.
func (v *Variable) GetName() string { return v.Name }

// GetExpression implements plugincel.ExpressionAccessor.
func (v *Variable) GetExpression() string { return v.Expression }

// ReturnTypes implements plugincel.ExpressionAccessor.
func (*Variable) ReturnTypes() []*celgo.Type { return []*celgo.Type{celgo.AnyType, celgo.DynType} }

// Patch is an expression that gives a change: the list of a JSON patch, or an
// object to apply.
type Patch struct {
	Expression string
	Result     *celgo.Type
}

// JSONPatch is an expression that gives the operations of a JSON patch.
func JSONPatch(text string) Patch {
	return Patch{Expression: text, Result: celgo.ListType(celgo.ObjectType(mutation.JSONPatchTypeName))}
}

// ApplyConfiguration is an expression that gives an object to apply.
func ApplyConfiguration(text string) Patch {
	return Patch{Expression: text, Result: celgo.ObjectType(mutation.ObjectTypeName)}
}

// GetExpression implements plugincel.ExpressionAccessor.
func (p Patch) GetExpression() string { return p.Expression }

// ReturnTypes implements plugincel.ExpressionAccessor.
func (p Patch) ReturnTypes() []*celgo.Type { return []*celgo.Type{p.Result} }

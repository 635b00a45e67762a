package admission

import (
	"context"
	"fmt"
	"slices"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
	"knarr.dev/knarr/internal/view"
)

// What both kinds of policies share: what they match, their parameters, and
// what their expressions begin with.

const (
	errNoParams        = failure("no params found for policy binding with `Deny` parameterNotFoundAction")
	errParamNamespace  = failure("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	errParamNamespaced = failure("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
)

// failure is why a policy cannot be used.
type failure string

func (f failure) Error() string { return string(f) }

// scope is MatchResources with its selectors parsed; nil matches everything.
type scope struct {
	*registrationv1.MatchResources
	namespaces, objects labels.Selector
}

func scopeOf(m *registrationv1.MatchResources) (*scope, error) {
	if m == nil {
		return nil, nil
	}
	namespaces, err := metav1.LabelSelectorAsSelector(m.NamespaceSelector)
	if err != nil {
		return nil, err
	}
	objects, err := metav1.LabelSelectorAsSelector(m.ObjectSelector)
	return &scope{m, namespaces, objects}, err
}

// within says as which kind a policy is to see the request, or nil: not at all.
func (q *question) within(ctx context.Context, s *scope) (*kinds.Kind, error) {
	if s == nil {
		return q.r.Ref.Kind, nil
	}
	if !q.objectsMatch(s.objects) {
		return nil, nil
	}
	in := func(rules []registrationv1.NamedRuleWithOperations) *kinds.Kind {
		return q.kindFor(s.MatchPolicy, len(rules), func(i int, k *kinds.Kind) bool {
			r := &rules[i]
			return q.ruleMatches(&r.RuleWithOperations, k) && (len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, q.r.Ref.Name))
		})
	}
	if in(s.ExcludeResourceRules) != nil {
		return nil, nil
	}
	k := q.r.Ref.Kind
	if len(s.ResourceRules) > 0 {
		k = in(s.ResourceRules)
	}
	if k == nil {
		return nil, nil
	}
	if ok, err := q.namespaceMatches(ctx, s.namespaces); !ok || err != nil {
		return nil, err
	}
	return k, q.prepare(ctx, k)
}

// ownPolicy: policies are no matter of policies, so that the cluster can be
// freed from a bad one; nor are reviews, which say whether anybody may do
// anything.
func ownPolicy(r *Request) bool {
	switch r.Ref.Kind.Resource {
	case "validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings":
		return r.Ref.Kind.GVK.Group == registrationv1.GroupName
	}
	return review(r)
}

// namespaceObject is the object's namespace, as expressions see it.
func (q *question) namespaceObject(ctx context.Context) (*corev1.Namespace, error) {
	if q.namespace == "" || q.r.Ref.Kind == kinds.Namespace {
		return nil, nil
	}
	ns, err := find[*corev1.Namespace](ctx, q.c, kinds.Namespace, "", q.namespace)
	if err == nil && ns == nil {
		err = apierrors.NewNotFound(kinds.Namespace.GroupResource(), q.namespace)
	}
	return plugincel.CreateNamespaceObject(ns), err
}

// inForce is what a binding says about where its policy holds.
type inForce struct {
	scope    *scope
	selector labels.Selector // of parameters; nil: by name, or none
}

func inForceOf(where *registrationv1.MatchResources, ref *registrationv1.ParamRef) (f inForce, err error) {
	if f.scope, err = scopeOf(where); err == nil {
		f.selector, err = selectorOf(ref)
	}
	return f, err
}

// bound are the parameters by which a binding applies its policy to the
// request: none at all if it does not.
func (q *question) bound(ctx context.Context, f inForce, kind *registrationv1.ParamKind, ref *registrationv1.ParamRef) ([]runtime.Object, error) {
	if in, err := q.within(ctx, f.scope); in == nil || err != nil {
		return nil, err
	}
	return q.params(ctx, kind, ref, f.selector)
}

// prelude is what a policy's expressions begin with, compiled.
type prelude struct {
	declared   plugincel.OptionalVariableDeclarations
	variables  *plugincel.CompositedCompiler // nil: none
	conditions matchconditions.Matcher       // nil: none
}

// preludeOf compiles. An expression that does not compile any more fails when
// it is used.
func preludeOf(policy string, kind *registrationv1.ParamKind, variables []registrationv1.Variable, conditions []registrationv1.MatchCondition,
	failure *registrationv1.FailurePolicyType) prelude {
	out := prelude{declared: plugincel.OptionalVariableDeclarations{HasParams: kind != nil, HasAuthorizer: true}}
	if len(variables) > 0 {
		if composed, err := expression.Composed(); err == nil {
			for _, v := range variables {
				composed.CompileAndStoreVariable(&expression.Variable{Name: v.Name, Expression: v.Expression}, out.declared, environment.StoredExpressions)
			}
			out.variables = composed
		}
	}
	if len(conditions) > 0 {
		out.conditions = matcher(conditions, kind != nil, failure, "policy", policy)
	}
	return out
}

// selectorOf parameters; nil: they are found by name, or there are none.
func selectorOf(ref *registrationv1.ParamRef) (labels.Selector, error) {
	if ref == nil || ref.Selector == nil {
		return nil, nil
	}
	return metav1.LabelSelectorAsSelector(ref.Selector)
}

// params are the objects that a binding goes by, one after the other; one nil
// is to go by none.
func (q *question) params(ctx context.Context, kind *registrationv1.ParamKind, ref *registrationv1.ParamRef, selector labels.Selector) ([]runtime.Object, error) {
	if kind == nil || ref == nil {
		return []runtime.Object{nil}, nil
	}
	gvk := schema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind)
	k := q.c.Table.ByGVK(gvk)
	held := q.c.held(k)
	if held == nil {
		return nil, failure(fmt.Sprintf("paramKind kind `%v` not known", kind.String()))
	}
	namespace := ref.Namespace
	switch {
	case !k.Namespaced && namespace != "":
		return nil, errParamNamespace
	case k.Namespaced && namespace == "":
		if namespace = q.namespace; namespace == "" {
			return nil, errParamNamespaced
		}
	}
	var found []kinds.Object
	if selector == nil {
		o, err := find[kinds.Object](ctx, q.c, held, namespace, ref.Name)
		if err != nil {
			return nil, err
		}
		if o != nil {
			found = append(found, o)
		}
	} else {
		for _, o := range view.NowList[kinds.Object](q.c.View, held, namespace) {
			if selector.Matches(labels.Set(o.GetLabels())) {
				found = append(found, o)
			}
		}
	}
	if len(found) == 0 && ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == registrationv1.DenyAction {
		return nil, errNoParams
	}
	out := make([]runtime.Object, len(found))
	for i, o := range found {
		if raw, ok := o.(*kinds.Raw); ok {
			loaded, err := k.Load(ctx, raw.JSON)
			if err != nil {
				return nil, err
			}
			out[i] = loaded
			continue
		}
		out[i] = shownAs(k, o, gvk)
	}
	return out, nil
}

// held is the kind in whose form the view has the objects of k, or nil.
func (c *Config) held(k *kinds.Kind) *kinds.Kind {
	if k == nil {
		return nil
	}
	if c.View.Has(stored(k)) {
		return stored(k)
	}
	for _, raw := range c.View.Kinds() {
		if raw.Now != nil && raw.Prefix == k.Prefix {
			return raw
		}
	}
	return nil
}

package validate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/internal/kinds/expression"
)

const (
	maxAuditAnnotations = 20
	maxAuditExpression  = 5 << 10 // bytes
)

// identifier of CEL; reserved words are none.
var identifier = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")

var reservedWords = []string{"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
	"loop", "package", "namespace", "return", "var", "void", "while"}

// mutable operations: what is deleted cannot be changed.
var mutable = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Create, admissionv1.Update, admissionv1.Connect}

// ValidatingAdmissionPolicy judges a new one.
func ValidatingAdmissionPolicy(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	e := extensionMeta(&p.ObjectMeta)
	e.validatingPolicy(p, nil)
	return e.list
}

// ValidatingAdmissionPolicyUpdate judges a changed one.
func ValidatingAdmissionPolicyUpdate(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	e := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	if !same(p.Spec, old.Spec) { // it was compiled when it came
		e.validatingPolicy(p, old)
	}
	return e.list
}

// ValidatingAdmissionPolicyStatusUpdate judges a changed status.
func ValidatingAdmissionPolicyStatusUpdate(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	e := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	if t := p.Status.TypeChecking; t != nil {
		for i, w := range t.ExpressionWarnings {
			at := statusPath.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				e.required(at.Child("warning"))
			}
			if strings.TrimSpace(w.FieldRef) == "" {
				e.required(at.Child("fieldRef"))
			}
		}
	}
	e.all(metavalidation.ValidateConditions(p.Status.Conditions, statusPath.Child("conditions")))
	return e.list
}

func (e *errors) validatingPolicy(p, old *admissionv1.ValidatingAdmissionPolicy) {
	s := &p.Spec
	var known []admissionv1.MatchCondition
	if old != nil && same(s.ParamKind, old.Spec.ParamKind) {
		known = old.Spec.MatchConditions
	}
	x := e.policy(policySpec{s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions, s.Variables}, known)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const why = "validations or auditAnnotations must contain at least one item"
		e.add(field.Required(specPath.Child("validations"), why), field.Required(specPath.Child("auditAnnotations"), why))
	}
	for i := range s.Validations {
		x.validation(specPath.Child("validations").Index(i), &s.Validations[i])
	}
	if len(s.AuditAnnotations) > maxAuditAnnotations {
		e.invalid(specPath.Child("auditAnnotations"), s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations))
	}
	keys := map[string]bool{}
	for i := range s.AuditAnnotations {
		at := specPath.Child("auditAnnotations").Index(i)
		x.annotation(at, p.Name, &s.AuditAnnotations[i])
		unique(e, keys, at.Child("key"), s.AuditAnnotations[i].Key, s.AuditAnnotations[i].Key)
	}
}

// policySpec is what both kinds of policies have.
type policySpec struct {
	failure    *admissionv1.FailurePolicyType
	params     *admissionv1.ParamKind
	match      *admissionv1.MatchResources
	conditions []admissionv1.MatchCondition
	variables  []admissionv1.Variable
}

// policyExpressions compiles those of one policy, which see its variables.
type policyExpressions struct {
	*errors
	compiler plugincel.Compiler
	vars     plugincel.OptionalVariableDeclarations
}

// policy judges what both kinds have, and returns what compiles the rest.
func (e *errors) policy(s policySpec, known []admissionv1.MatchCondition) *policyExpressions {
	if s.failure == nil {
		e.required(specPath.Child("failurePolicy"))
	}
	inPtr(e, specPath.Child("failurePolicy"), s.failure, admissionv1.Ignore, admissionv1.Fail)
	if s.params != nil {
		e.paramKind(specPath.Child("paramKind"), s.params)
	}
	if constraints := specPath.Child("matchConstraints"); s.match == nil {
		e.required(constraints)
	} else {
		e.matchResources(constraints, s.match)
		if len(s.match.ResourceRules) == 0 {
			e.required(constraints.Child("resourceRules"))
		}
	}
	if !same(s.conditions, known) || len(known) == 0 {
		e.matchConditions(specPath.Child("matchConditions"), s.conditions, s.params != nil, nil)
	}
	x := &policyExpressions{errors: e, compiler: expression.Compiler(), vars: plugincel.OptionalVariableDeclarations{HasParams: s.params != nil, HasAuthorizer: true}}
	if len(s.variables) > 0 {
		x.variables(specPath.Child("variables"), s.variables)
	}
	return x
}

func (x *policyExpressions) variables(p *field.Path, list []admissionv1.Variable) {
	composed, err := expression.Composed()
	if err != nil {
		x.add(field.InternalError(p, err))
		return
	}
	x.compiler = composed
	for i, v := range list {
		at := p.Index(i)
		if strings.TrimSpace(v.Name) == "" {
			x.add(field.Required(at.Child("name"), "name is not specified"))
		} else if !identifier.MatchString(v.Name) || slices.Contains(reservedWords, v.Name) {
			x.invalid(at.Child("name"), v.Name, "must be a valid CEL identifier")
		}
		if strings.TrimSpace(v.Expression) == "" {
			x.add(field.Required(at.Child("expression"), "expression is not specified"))
			continue
		}
		named := &expression.Variable{Name: v.Name, Expression: v.Expression}
		x.compiled(at.Child("expression"), named, composed.CompileAndStoreVariable(named, x.vars, environment.NewExpressions).Error)
	}
}

func (x *policyExpressions) validation(p *field.Path, v *admissionv1.Validation) {
	if strings.TrimSpace(v.Expression) == "" {
		x.add(field.Required(p.Child("expression"), "expression is not specified"))
	} else {
		x.compiles(p.Child("expression"), x.compiler, expression.Bool(v.Expression), x.vars)
	}
	if v.MessageExpression != "" {
		if strings.TrimSpace(v.MessageExpression) == "" {
			x.invalid(p.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified")
		} else {
			vars := x.vars
			vars.HasAuthorizer = false
			x.compiles(p.Child("messageExpression"), x.compiler, expression.Text(v.MessageExpression), vars)
		}
	}
	switch text := strings.TrimSpace(v.Message); {
	case v.Message != "" && text == "":
		x.invalid(p.Child("message"), v.Message, "must be non-empty if specified")
	case strings.ContainsAny(text, "\n\r"):
		x.invalid(p.Child("message"), v.Message, "must not contain line breaks")
	}
	inPtr(x.errors, p.Child("reason"), v.Reason, metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)
}

func (x *policyExpressions) annotation(p *field.Path, policy string, a *admissionv1.AuditAnnotation) {
	if policy == "" {
		x.invalid(p.Child("key"), a.Key, "requires metadata.name be non-empty")
	} else {
		x.qualifiedName(p.Child("key"), policy+"/"+a.Key)
	}
	at := p.Child("valueExpression")
	switch text := strings.TrimSpace(a.ValueExpression); {
	case text == "":
		x.add(field.Required(at, "valueExpression is not specified"))
	case len(text) > maxAuditExpression:
		x.add(field.Required(at, fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpression)))
	default:
		x.compiles(at, x.compiler, expression.Maybe(text), x.vars)
	}
}

func (e *errors) paramKind(p *field.Path, k *admissionv1.ParamKind) {
	at := p.Child("apiVersion")
	group, version, slash := strings.Cut(k.APIVersion, "/")
	if !slash {
		group, version = "", k.APIVersion
	}
	switch {
	case k.APIVersion == "":
		e.required(at)
	case strings.Contains(version, "/"):
		e.invalid(at, k.APIVersion, "unexpected GroupVersion string: "+k.APIVersion)
	default:
		if bad := validation.IsDNS1123Subdomain(group); group != "" && len(bad) > 0 {
			e.invalid(at, group, strings.Join(bad, ","))
		}
		if version == "" {
			e.invalid(at, k.APIVersion, "version must be specified")
		} else if bad := validation.IsDNS1035Label(version); len(bad) > 0 {
			e.invalid(at, version, strings.Join(bad, ","))
		}
	}
	if k.Kind == "" {
		e.required(p.Child("kind"))
	} else if bad := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(bad) > 0 {
		e.invalid(p.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(bad, ","))
	}
}

func (e *errors) matchResources(p *field.Path, m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	if m.MatchPolicy == nil {
		e.required(p.Child("matchPolicy"))
	}
	inPtr(e, p.Child("matchPolicy"), m.MatchPolicy, admissionv1.Exact, admissionv1.Equivalent)
	e.requiredSelector(p.Child("namespaceSelector"), m.NamespaceSelector)
	e.requiredSelector(p.Child("objectSelector"), m.ObjectSelector)
	e.namedRules(p.Child("resourceRules"), m.ResourceRules)
	e.namedRules(p.Child("excludeResourceRules"), m.ExcludeResourceRules)
}

func (e *errors) requiredSelector(p *field.Path, s *metav1.LabelSelector) {
	if s == nil {
		e.required(p)
	}
	e.selector(p, s)
}

func (e *errors) namedRules(p *field.Path, rules []admissionv1.NamedRuleWithOperations) {
	for i := range rules {
		names := map[string]bool{}
		for j, name := range rules[i].ResourceNames {
			at := p.Index(i).Child("resourceNames").Index(j)
			e.msgs(at, name, path.IsValidPathSegmentName(name))
			unique(e, names, at, name, name)
		}
		e.rule(p.Index(i), &rules[i].RuleWithOperations)
	}
}

// ValidatingAdmissionPolicyBinding judges a new one.
func ValidatingAdmissionPolicyBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	e := extensionMeta(&b.ObjectMeta)
	e.validatingBinding(&b.Spec)
	return e.list
}

// ValidatingAdmissionPolicyBindingUpdate judges a changed one.
func ValidatingAdmissionPolicyBindingUpdate(b, old *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	e := metaUpdate(&b.ObjectMeta, &old.ObjectMeta)
	e.validatingBinding(&b.Spec)
	return e.list
}

func (e *errors) validatingBinding(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) {
	e.binding(s.PolicyName, s.ParamRef, s.MatchResources)
	p := specPath.Child("validationActions")
	if len(s.ValidationActions) == 0 {
		e.required(p)
	}
	seen := map[admissionv1.ValidationAction]bool{}
	for i, a := range s.ValidationActions {
		oneOf(e, p.Index(i), a, admissionv1.Deny, admissionv1.Warn, admissionv1.Audit)
		unique(e, seen, p.Index(i), a, a)
	}
	if seen[admissionv1.Deny] && seen[admissionv1.Warn] {
		e.invalid(p, s.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)")
	}
}

func (e *errors) binding(policy string, ref *admissionv1.ParamRef, m *admissionv1.MatchResources) {
	e.name(specPath.Child("policyName"), policy, subdomain)
	if ref != nil {
		e.paramRef(specPath.Child("paramRef"), ref)
	}
	e.matchResources(specPath.Child("matchResources"), m)
}

func (e *errors) paramRef(p *field.Path, r *admissionv1.ParamRef) {
	const exclusive = "name and selector are mutually exclusive"
	if r.Name != "" {
		e.msgs(p.Child("name"), r.Name, path.IsValidPathSegmentName(r.Name))
		if r.Selector != nil {
			e.forbid(p.Child("name"), exclusive)
		}
	}
	if r.Selector != nil {
		e.selector(p.Child("selector"), r.Selector)
		if r.Name != "" {
			e.forbid(p.Child("selector"), exclusive)
		}
	}
	if r.Name == "" && r.Selector == nil {
		e.add(field.Required(p, "one of name or selector must be specified"))
	}
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		e.required(p.Child("parameterNotFoundAction"))
	} else {
		oneOf(e, p.Child("parameterNotFoundAction"), *r.ParameterNotFoundAction, admissionv1.DenyAction, admissionv1.AllowAction)
	}
}

// MutatingAdmissionPolicy judges a new one.
func MutatingAdmissionPolicy(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	e := extensionMeta(&p.ObjectMeta)
	e.mutatingPolicy(&p.Spec, nil)
	return e.list
}

// MutatingAdmissionPolicyUpdate judges a changed one.
func MutatingAdmissionPolicyUpdate(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	e := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	if !same(p.Spec, old.Spec) {
		e.mutatingPolicy(&p.Spec, &old.Spec)
	}
	return e.list
}

func (e *errors) mutatingPolicy(s, old *admissionv1.MutatingAdmissionPolicySpec) {
	var known []admissionv1.MatchCondition
	if old != nil && same(s.ParamKind, old.ParamKind) {
		known = old.MatchConditions
	}
	x := e.policy(policySpec{s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions, s.Variables}, known)
	x.vars.HasPatchTypes = true
	e.mutableRules(specPath.Child("matchConstraints"), s.MatchConstraints)
	if len(s.Mutations) == 0 {
		e.add(field.Required(specPath.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		x.mutation(specPath.Child("mutations").Index(i), &s.Mutations[i])
	}
	in(e, specPath.Child("reinvocationPolicy"), s.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy)
}

func (e *errors) mutableRules(p *field.Path, m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	for _, r := range m.ResourceRules {
		for _, op := range r.Operations {
			oneOf(e, p.Child("resourceRules", "operations"), op, mutable...)
		}
	}
}

func (x *policyExpressions) mutation(p *field.Path, m *admissionv1.Mutation) {
	apply, patch := p.Child("applyConfiguration"), p.Child("jsonPatch")
	in(x.errors, p.Child("patchType"), m.PatchType, admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	switch m.PatchType {
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			x.add(field.Required(patch, "must be specified when patchType is JSONPatch"))
		} else {
			x.patch(patch.Child("expression"), expression.JSONPatch(strings.TrimSpace(m.JSONPatch.Expression)))
		}
		if m.ApplyConfiguration != nil {
			x.invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch")
		}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			x.add(field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			x.patch(apply.Child("expression"), expression.ApplyConfiguration(strings.TrimSpace(m.ApplyConfiguration.Expression)))
		}
		if m.JSONPatch != nil {
			x.invalid(patch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration")
		}
	}
}

func (x *policyExpressions) patch(p *field.Path, change expression.Patch) {
	if change.Expression == "" {
		x.required(p)
		return
	}
	x.compiles(p, x.compiler, change, x.vars)
}

// MutatingAdmissionPolicyBinding judges a new one.
func MutatingAdmissionPolicyBinding(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	e := extensionMeta(&b.ObjectMeta)
	e.mutatingBinding(&b.Spec)
	return e.list
}

// MutatingAdmissionPolicyBindingUpdate judges a changed one.
func MutatingAdmissionPolicyBindingUpdate(b, old *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	e := metaUpdate(&b.ObjectMeta, &old.ObjectMeta)
	e.mutatingBinding(&b.Spec)
	return e.list
}

func (e *errors) mutatingBinding(s *admissionv1.MutatingAdmissionPolicyBindingSpec) {
	e.binding(s.PolicyName, s.ParamRef, s.MatchResources)
	e.mutableRules(specPath.Child("matchResources"), s.MatchResources)
}

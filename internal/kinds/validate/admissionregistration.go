package validate

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/internal/kinds/expression"
)

const (
	// staticSuffix ends the names that upstream keeps for files on the server.
	staticSuffix = ".static.k8s.io"
	// maxConditions of one webhook or policy.
	maxConditions     = 64
	maxWebhookTimeout = 30 // seconds
	urlForm           = "; desired format: https://host[/path]"
)

// reviewVersions are those that this server speaks.
var reviewVersions = []string{"v1", "v1beta1"}

// MutatingWebhookConfiguration judges a new one.
func MutatingWebhookConfiguration(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	e := extensionMeta(&c.ObjectMeta)
	e.webhooks(c.Webhooks, nil)
	return e.list
}

// MutatingWebhookConfigurationUpdate judges a changed one.
func MutatingWebhookConfigurationUpdate(c, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	e.webhooks(c.Webhooks, old.Webhooks)
	return e.list
}

// ValidatingWebhookConfiguration judges a new one.
func ValidatingWebhookConfiguration(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	e := extensionMeta(&c.ObjectMeta)
	e.webhooks(allMutating(c.Webhooks), nil)
	return e.list
}

// ValidatingWebhookConfigurationUpdate judges a changed one.
func ValidatingWebhookConfigurationUpdate(c, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	e.webhooks(allMutating(c.Webhooks), allMutating(old.Webhooks))
	return e.list
}

// Mutating is a validating webhook in the form of a mutating one, which has a
// field more; it shares what w holds.
func Mutating(w *admissionv1.ValidatingWebhook) admissionv1.MutatingWebhook {
	return admissionv1.MutatingWebhook{
		Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
		NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects, TimeoutSeconds: w.TimeoutSeconds,
		AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
	}
}

func allMutating(ws []admissionv1.ValidatingWebhook) []admissionv1.MutatingWebhook {
	out := make([]admissionv1.MutatingWebhook, len(ws))
	for i := range ws {
		out[i] = Mutating(&ws[i])
	}
	return out
}

// extensionMeta judges the metadata of a new webhook configuration or policy.
func extensionMeta(o *metav1.ObjectMeta) *errors {
	e := meta(o, false, subdomain)
	if strings.HasSuffix(o.Name, staticSuffix) {
		e.invalid(metaPath.Child("name"), o.Name, fmt.Sprintf("names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", staticSuffix))
	}
	return e
}

// webhooks are judged whole, but for conditions that stand already: those were
// compiled when they came.
func (e *errors) webhooks(hooks, old []admissionv1.MutatingWebhook) {
	known := map[string]bool{}
	for _, w := range old {
		for _, c := range w.MatchConditions {
			known[c.Expression] = true
		}
	}
	names := map[string]bool{}
	for i := range hooks {
		p := field.NewPath("webhooks").Index(i)
		e.webhook(p, &hooks[i], known)
		e.reviewVersions(p.Child("admissionReviewVersions"), hooks[i].AdmissionReviewVersions)
		if hooks[i].Name != "" {
			unique(e, names, p.Child("name"), hooks[i].Name, hooks[i].Name)
		}
	}
}

func (e *errors) webhook(p *field.Path, w *admissionv1.MutatingWebhook, known map[string]bool) {
	e.all(validation.IsFullyQualifiedName(p.Child("name"), w.Name))
	for i := range w.Rules {
		e.rule(p.Child("rules").Index(i), &w.Rules[i])
	}
	inPtr(e, p.Child("failurePolicy"), w.FailurePolicy, admissionv1.Ignore, admissionv1.Fail)
	inPtr(e, p.Child("matchPolicy"), w.MatchPolicy, admissionv1.Exact, admissionv1.Equivalent)
	if w.SideEffects == nil {
		e.add(field.Required(p.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	}
	inPtr(e, p.Child("sideEffects"), w.SideEffects, admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)
	if t := w.TimeoutSeconds; t != nil && (*t > maxWebhookTimeout || *t < 1) {
		e.invalid(p.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds")
	}
	e.selector(p.Child("namespaceSelector"), w.NamespaceSelector)
	e.selector(p.Child("objectSelector"), w.ObjectSelector)
	inPtr(e, p.Child("reinvocationPolicy"), w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy)
	e.webhookClient(p.Child("clientConfig"), w.ClientConfig.URL, w.ClientConfig.Service)
	e.matchConditions(p.Child("matchConditions"), w.MatchConditions, false, known)
}

func (e *errors) webhookClient(p *field.Path, link *string, service *admissionv1.ServiceReference) {
	switch {
	case (link == nil) == (service == nil):
		e.add(field.Required(p, "exactly one of url or service is required"))
	case link != nil:
		e.webhookURL(p.Child("url"), *link)
	default:
		e.webhookService(p.Child("service"), service)
	}
}

func (e *errors) webhookURL(p *field.Path, link string) {
	u, err := url.Parse(link)
	if err != nil {
		e.add(field.Required(p, "url must be a valid URL: "+err.Error()+urlForm))
		return
	}
	if u.Scheme != "https" {
		e.invalid(p, u.Scheme, "'https' is the only allowed URL scheme"+urlForm)
	}
	if u.Host == "" {
		e.invalid(p, u.Host, "host must be specified"+urlForm)
	}
	if u.User != nil {
		e.invalid(p, u.User.String(), "user information is not permitted in the URL")
	}
	if u.Fragment != "" {
		e.invalid(p, u.Fragment, "fragments are not permitted in the URL")
	}
	if u.RawQuery != "" {
		e.invalid(p, u.RawQuery, "query parameters are not permitted in the URL")
	}
}

func (e *errors) webhookService(p *field.Path, s *admissionv1.ServiceReference) {
	if s.Name == "" {
		e.required(p.Child("name"))
	}
	if s.Namespace == "" {
		e.required(p.Child("namespace"))
	}
	if s.Port != nil {
		if bad := validation.IsValidPortNum(int(*s.Port)); len(bad) > 0 {
			e.invalid(p.Child("port"), *s.Port, "port is not valid: "+strings.Join(bad, ", "))
		}
	}
	if s.Path == nil || *s.Path == "" || *s.Path == "/" {
		return
	}
	path, at := *s.Path, p.Child("path")
	if path == "//" {
		e.invalid(at, path, "segment[0] may not be empty")
		return
	}
	if !strings.HasPrefix(path, "/") {
		e.invalid(at, path, "must start with a '/'")
	}
	for i, part := range strings.Split(strings.TrimSuffix(path[1:], "/"), "/") {
		if part == "" {
			e.invalid(at, path, fmt.Sprintf("segment[%d] may not be empty", i))
			continue
		}
		for _, m := range validation.IsDNS1123Subdomain(part) {
			e.invalid(at, path, fmt.Sprintf("segment[%d]: %v", i, m))
		}
	}
}

func (e *errors) reviewVersions(p *field.Path, versions []string) {
	speaks := strings.Join(reviewVersions, ", ")
	if len(versions) == 0 {
		e.add(field.Required(p, "must specify one of "+speaks))
		return
	}
	seen, common := map[string]bool{}, false
	for i, v := range versions {
		if seen[v] {
			e.invalid(p.Index(i), v, "duplicate version")
			continue
		}
		seen[v] = true
		e.msgs(p.Index(i), v, validation.IsDNS1035Label(v))
		common = common || slices.Contains(reviewVersions, v)
	}
	if !common {
		e.invalid(p, versions, "must include at least one of "+speaks)
	}
}

func (e *errors) rule(p *field.Path, r *admissionv1.RuleWithOperations) {
	ops := p.Child("operations")
	if len(r.Operations) == 0 {
		e.required(ops)
	}
	if len(r.Operations) > 1 && slices.Contains(r.Operations, admissionv1.OperationAll) {
		e.invalid(ops, r.Operations, "if '*' is present, must not specify other operations")
	}
	for i, op := range r.Operations {
		oneOf(e, ops.Index(i), op, admissionv1.OperationAll, admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect)
	}
	e.orWildcard(p.Child("apiGroups"), r.APIGroups, "if '*' is present, must not specify other API groups")
	e.orWildcard(p.Child("apiVersions"), r.APIVersions, "if '*' is present, must not specify other API versions")
	for i, v := range r.APIVersions {
		if v == "" {
			e.required(p.Child("apiVersions").Index(i))
		}
	}
	e.ruleResources(p.Child("resources"), r.Resources)
	inPtr(e, p.Child("scope"), r.Scope, admissionv1.ClusterScope, admissionv1.NamespacedScope, admissionv1.AllScopes)
}

func (e *errors) orWildcard(p *field.Path, list []string, why string) {
	if len(list) == 0 {
		e.required(p)
	}
	if len(list) > 1 && slices.Contains(list, "*") {
		e.invalid(p, list, why)
	}
}

// ruleResources may not say twice what a wildcard says.
func (e *errors) ruleResources(p *field.Path, list []string) {
	if len(list) == 0 {
		e.required(p)
	}
	allSubs, allResources := map[string]bool{}, map[string]bool{} // x/*, */x
	whole, plain := false, false
	for i, name := range list {
		if name == "" {
			e.required(p.Index(i))
			continue
		}
		whole = whole || name == "*"
		resource, sub, ok := strings.Cut(name, "/")
		if !ok {
			plain = name != "*" // of the last one, as upstream
			continue
		}
		if allSubs[resource] {
			e.invalid(p.Index(i), name, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, name))
		}
		if allResources[sub] {
			e.invalid(p.Index(i), name, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, name))
		}
		if sub == "*" {
			allSubs[resource] = true
		}
		if resource == "*" {
			allResources[sub] = true
		}
	}
	if len(list) > 1 && slices.Contains(list, "*/*") {
		e.invalid(p, list, "if '*/*' is present, must not specify other resources")
	}
	if whole && plain {
		e.invalid(p, list, "if '*' is present, must not specify other resources without subresources")
	}
}

func (e *errors) matchConditions(p *field.Path, list []admissionv1.MatchCondition, params bool, known map[string]bool) {
	if len(list) > maxConditions {
		e.add(field.TooMany(p, len(list), maxConditions))
		return // compiling costs
	}
	names := map[string]bool{}
	for i, c := range list {
		at := p.Index(i)
		if text := strings.TrimSpace(c.Expression); text == "" {
			e.required(at.Child("expression"))
		} else if !known[c.Expression] {
			e.compiles(at.Child("expression"), expression.Compiler(), expression.Bool(text), plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true})
		}
		if c.Name == "" {
			e.required(at.Child("name"))
			continue
		}
		e.qualifiedName(at.Child("name"), c.Name)
		unique(e, names, at.Child("name"), c.Name, c.Name)
	}
}

// compiles reports why an expression does not.
func (e *errors) compiles(p *field.Path, c plugincel.Compiler, x plugincel.ExpressionAccessor, vars plugincel.OptionalVariableDeclarations) {
	e.compiled(p, x, c.CompileCELExpression(x, vars, environment.NewExpressions).Error)
}

func (e *errors) compiled(p *field.Path, x plugincel.ExpressionAccessor, err *cel.Error) {
	switch {
	case err == nil:
	case err.Type == cel.ErrorTypeRequired:
		e.add(field.Required(p, err.Detail))
	case err.Type == cel.ErrorTypeInvalid:
		e.invalid(p, x.GetExpression(), err.Detail)
	default:
		e.add(field.InternalError(p, err))
	}
}

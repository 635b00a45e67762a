package validate

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// FlowSchema judges a new schema.
func FlowSchema(f *flowcontrolv1.FlowSchema) field.ErrorList {
	e := meta(&f.ObjectMeta, false, subdomain)
	e.flowSchema(f)
	return e.list
}

// FlowSchemaUpdate judges a changed one.
func FlowSchemaUpdate(f, old *flowcontrolv1.FlowSchema) field.ErrorList {
	e := metaUpdate(&f.ObjectMeta, &old.ObjectMeta)
	e.flowSchema(f)
	return e.list
}

// FlowSchemaStatusUpdate judges a changed status.
func FlowSchemaStatusUpdate(f, old *flowcontrolv1.FlowSchema) field.ErrorList {
	e := metaUpdate(&f.ObjectMeta, &old.ObjectMeta)
	e.flowSchemaStatus(f)
	return e.list
}

func (e *errors) flowSchemaStatus(f *flowcontrolv1.FlowSchema) {
	flowConditions(e, f.Status.Conditions, func(c *flowcontrolv1.FlowSchemaCondition) string { return string(c.Type) })
}

// flowConditions have a type each, and no two the same.
func flowConditions[C any](e *errors, list []C, typeOf func(*C) string) {
	seen := map[string]bool{}
	for i := range list {
		at, t := statusPath.Child("conditions").Index(i).Child("type"), typeOf(&list[i])
		unique(e, seen, at, t, any(t))
		if t == "" {
			e.required(at)
		}
	}
}

func (e *errors) flowSchema(f *flowcontrolv1.FlowSchema) {
	s := &f.Spec
	at := specPath.Child("matchingPrecedence")
	if s.MatchingPrecedence <= 0 {
		e.invalid(at, s.MatchingPrecedence, "must be a positive value")
	}
	if s.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		e.invalid(at, s.MatchingPrecedence, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence))
	}
	if s.MatchingPrecedence == 1 && f.Name != flowcontrolv1.FlowSchemaNameExempt {
		e.invalid(at, s.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1")
	}
	if d := s.DistinguisherMethod; d != nil {
		oneOf(e, specPath.Child("distinguisherMethod", "type"), d.Type, flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)
	}
	if at, name := specPath.Child("priorityLevelConfiguration", "name"), s.PriorityLevelConfiguration.Name; name == "" {
		e.add(field.Required(at, "must reference a priority level"))
	} else {
		e.msgs(at, name, subdomain(name, false))
	}
	for i := range s.Rules {
		e.flowRule(specPath.Child("rules").Index(i), &s.Rules[i])
	}
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == f.Name && !same(fixed.Spec, f.Spec) {
			e.invalid(specPath, f.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", f.Name))
		}
	}
	e.flowSchemaStatus(f)
}

func (e *errors) flowRule(p *field.Path, r *flowcontrolv1.PolicyRulesWithSubjects) {
	if len(r.Subjects) == 0 {
		e.add(field.Required(p.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		e.flowSubject(p.Child("subjects").Index(i), &r.Subjects[i])
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		e.add(field.Required(p, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		e.flowResources(p.Child("resourceRules").Index(i), &r.ResourceRules[i])
	}
	for i := range r.NonResourceRules {
		e.flowPaths(p.Child("nonResourceRules").Index(i), &r.NonResourceRules[i])
	}
}

func (e *errors) flowSubject(p *field.Path, s *flowcontrolv1.Subject) {
	kinds := []flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}
	if !slices.Contains(kinds, s.Kind) {
		oneOf(e, p.Child("kind"), s.Kind, kinds...)
		return
	}
	e.flowSubjectParts(p, s)
	for _, part := range []struct {
		name string
		kind flowcontrolv1.SubjectKind
		set  bool
	}{
		{"serviceAccount", flowcontrolv1.SubjectKindServiceAccount, s.ServiceAccount != nil},
		{"user", flowcontrolv1.SubjectKindUser, s.User != nil},
		{"group", flowcontrolv1.SubjectKindGroup, s.Group != nil},
	} {
		switch {
		case part.kind == s.Kind && !part.set:
			e.add(field.Required(p.Child(part.name), fmt.Sprintf("%s is required when subject kind is '%s'", part.name, part.kind)))
		case part.kind != s.Kind && part.set:
			e.forbid(p.Child(part.name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", part.name, part.kind))
		}
	}
}

// flowSubjectParts judges the part that the kind names; the others are refused.
func (e *errors) flowSubjectParts(p *field.Path, s *flowcontrolv1.Subject) {
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil && s.User.Name == "":
		e.required(p.Child("user", "name"))
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil && s.Group.Name == "":
		e.required(p.Child("group", "name"))
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		a, at := s.ServiceAccount, p.Child("serviceAccount")
		if a.Name != flowcontrolv1.NameAll {
			e.name(at.Child("name"), a.Name, apivalidation.ValidateServiceAccountName)
		}
		if a.Namespace == "" {
			e.add(field.Required(at.Child("namespace"), "must specify namespace for service account"))
		} else {
			e.msgs(at.Child("namespace"), a.Namespace, apivalidation.ValidateNamespaceName(a.Namespace, false))
		}
	}
}

var flowVerbs = []string{"get", "list", "create", "update", "delete", "deletecollection", "patch", "watch", "proxy"}

func (e *errors) flowVerbs(p *field.Path, verbs []string) {
	if len(verbs) == 0 {
		e.add(field.Required(p, "verbs must contain at least one value"))
	} else if e.alone(p, verbs, "verbs") && slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(flowVerbs, v) }) {
		e.add(field.NotSupported(p, verbs, slices.Sorted(slices.Values(flowVerbs))))
	}
}

// alone reports whether a list has no wildcard; one that has more than that is
// refused.
func (e *errors) alone(p *field.Path, list []string, what string) bool {
	if !slices.Contains(list, "*") {
		return true
	}
	if len(list) > 1 {
		e.invalid(p, list, "if '*' is present, must not specify other "+what)
	}
	return false
}

func (e *errors) flowPaths(p *field.Path, r *flowcontrolv1.NonResourcePolicyRule) {
	e.flowVerbs(p.Child("verbs"), r.Verbs)
	at := p.Child("nonResourceURLs")
	if len(r.NonResourceURLs) == 0 {
		e.add(field.Required(at, "nonResourceURLs must contain at least one value"))
	} else if e.alone(at, r.NonResourceURLs, "non-resource URLs") {
		for i, path := range r.NonResourceURLs {
			e.flowPath(at.Index(i), path)
		}
	}
}

func (e *errors) flowPath(p *field.Path, path string) {
	stars := strings.Count(path, "*")
	switch {
	case path == "":
		e.invalid(p, path, "must not be empty")
	case path == "/":
	case path[0] != '/':
		e.invalid(p, path, "must start with slash")
	case strings.Contains(path, " "):
		e.invalid(p, path, "must not contain white-space")
	case strings.Contains(path, "//"):
		e.invalid(p, path, "must not contain double slash")
	case stars > 1, stars == 1 && !strings.HasSuffix(path, "/*"):
		e.invalid(p, path, "wildcard can only do suffix matching")
	}
}

func (e *errors) flowResources(p *field.Path, r *flowcontrolv1.ResourcePolicyRule) {
	e.flowVerbs(p.Child("verbs"), r.Verbs)
	if at := p.Child("apiGroups"); len(r.APIGroups) == 0 {
		e.add(field.Required(at, "resource rules must supply at least one api group"))
	} else {
		e.alone(at, r.APIGroups, "api groups")
	}
	if at := p.Child("resources"); len(r.Resources) == 0 {
		e.add(field.Required(at, "resource rules must supply at least one resource"))
	} else {
		e.alone(at, r.Resources, "resources")
	}
	at := p.Child("namespaces")
	if len(r.Namespaces) == 0 && !r.ClusterScope {
		e.add(field.Required(at, "resource rules that are not cluster scoped must supply at least one namespace"))
	} else if e.alone(at, r.Namespaces, "namespaces") {
		for i, ns := range r.Namespaces {
			for _, m := range apivalidation.ValidateNamespaceName(ns, false) {
				e.invalid(at.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+m)
			}
		}
	}
}

// PriorityLevelConfiguration judges a new level.
func PriorityLevelConfiguration(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	e := meta(&p.ObjectMeta, false, subdomain)
	e.priorityLevel(p)
	return e.list
}

// PriorityLevelConfigurationUpdate judges a changed one.
func PriorityLevelConfigurationUpdate(p, old *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	e := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	e.priorityLevel(p)
	return e.list
}

// PriorityLevelConfigurationStatusUpdate judges a changed status.
func PriorityLevelConfigurationStatusUpdate(p, old *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	e := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	e.priorityLevelStatus(p)
	return e.list
}

func (e *errors) priorityLevelStatus(p *flowcontrolv1.PriorityLevelConfiguration) {
	flowConditions(e, p.Status.Conditions, func(c *flowcontrolv1.PriorityLevelConfigurationCondition) string { return string(c.Type) })
}

// preserveZero marked v1beta3 objects; v1 has no use for it.
const preserveZero = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares"

func (e *errors) priorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if _, ok := p.Annotations[preserveZero]; ok {
		e.forbid(metaPath.Child("annotations"), fmt.Sprintf("annotation '%s' is forbidden", preserveZero))
	}
	s := &p.Spec
	at := specPath.Child("type")
	if (p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		e.invalid(at, s.Type, "must be 'Exempt' if and only if `name` is 'exempt'")
	}
	in(e, at, s.Type, flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
	if limited := s.Type == flowcontrolv1.PriorityLevelEnablementLimited; s.Limited == nil && limited {
		e.required(specPath.Child("limited"))
	} else if s.Limited != nil && !limited {
		e.forbid(specPath.Child("limited"), "")
	} else if limited {
		e.limitedLevel(specPath.Child("limited"), s.Limited)
	}
	if exempt := s.Type == flowcontrolv1.PriorityLevelEnablementExempt; s.Exempt != nil && !exempt {
		e.forbid(specPath.Child("exempt"), "")
	} else if s.Exempt != nil {
		at := specPath.Child("exempt")
		e.shares(at, s.Exempt.NominalConcurrencyShares)
		e.percent(at.Child("lendablePercent"), s.Exempt.LendablePercent)
	}
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != p.Name {
			continue
		}
		want, except := fixed.Spec, ""
		if p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt { // how much it lends is the administrator's
			want.Exempt, except = s.Exempt, " except the 'spec.exempt' field"
		}
		if !same(want, p.Spec) {
			e.invalid(specPath, p.Spec, fmt.Sprintf("spec of '%s'%s must equal the fixed value", p.Name, except))
		}
	}
	e.priorityLevelStatus(p)
}

func (e *errors) shares(p *field.Path, n *int32) {
	if n != nil && *n < 0 {
		e.invalid(p.Child("nominalConcurrencyShares"), *n, "must be a non-negative integer")
	}
}

func (e *errors) percent(p *field.Path, n *int32) {
	if n != nil && (*n < 0 || *n > 100) {
		e.invalid(p, *n, "must be between 0 and 100, inclusive")
	}
}

func (e *errors) limitedLevel(p *field.Path, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
	e.shares(p, l.NominalConcurrencyShares)
	r, at := &l.LimitResponse, p.Child("limitResponse")
	in(e, at.Child("type"), r.Type, flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)
	if queue := r.Type == flowcontrolv1.LimitResponseTypeQueue; r.Queuing == nil && queue {
		e.required(at.Child("queuing"))
	} else if r.Queuing != nil && !queue {
		e.forbid(at.Child("queuing"), "")
	} else if queue {
		e.queuing(at.Child("queuing"), r.Queuing)
	}
	e.percent(p.Child("lendablePercent"), l.LendablePercent)
	if n := l.BorrowingLimitPercent; n != nil && *n < 0 {
		e.invalid(p.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer")
	}
}

// mostQueues is upstream's bound.
const mostQueues = 10_000_000

func (e *errors) queuing(p *field.Path, q *flowcontrolv1.QueuingConfiguration) {
	if q.QueueLengthLimit <= 0 {
		e.invalid(p.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive")
	}
	if q.Queues <= 0 {
		e.invalid(p.Child("queues"), q.Queues, "must be positive")
	} else if q.Queues > mostQueues {
		e.invalid(p.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", mostQueues))
	}
	at := p.Child("handSize")
	if q.HandSize <= 0 {
		e.invalid(at, q.HandSize, "must be positive")
	} else if q.HandSize > q.Queues {
		e.invalid(at, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues))
	} else if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
		e.invalid(at, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits))
	}
}

package validate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// LimitRange judges a new limit range.
func LimitRange(lr *corev1.LimitRange) field.ErrorList {
	e := meta(&lr.ObjectMeta, true, subdomain)
	e.limitRange(&lr.Spec)
	return e.list
}

// LimitRangeUpdate judges a changed one.
func LimitRangeUpdate(lr, old *corev1.LimitRange) field.ErrorList {
	e := metaUpdate(&lr.ObjectMeta, &old.ObjectMeta)
	e.limitRange(&lr.Spec)
	return e.list
}

func (e *errors) limitRange(spec *corev1.LimitRangeSpec) {
	seen := map[corev1.LimitType]bool{}
	for i := range spec.Limits {
		it, p := &spec.Limits[i], specPath.Child("limits").Index(i)
		e.qualifiedName(p.Child("type"), string(it.Type))
		if !strings.Contains(string(it.Type), "/") {
			switch it.Type {
			case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
			default:
				e.invalid(p.Child("type"), it.Type, "must be a standard limit type or fully qualified")
			}
		}
		unique(e, seen, p.Child("type"), it.Type, it.Type)
		e.limitItem(p, it)
	}
}

func (e *errors) limitItem(p *field.Path, it *corev1.LimitRangeItem) {
	keys := sets.New[corev1.ResourceName]()
	names := func(child string, list corev1.ResourceList) {
		for k := range list {
			keys.Insert(k)
			if it.Type == corev1.LimitTypePod || it.Type == corev1.LimitTypeContainer {
				e.containerResource(p.Child(child).Key(string(k)), k)
			} else {
				e.resourceName(p.Child(child).Key(string(k)), k)
			}
		}
	}
	names("max", it.Max)
	names("min", it.Min)
	names("maxLimitRequestRatio", it.MaxLimitRequestRatio)
	defaults, requests := it.Default, it.DefaultRequest
	if it.Type == corev1.LimitTypePod {
		if len(defaults) > 0 {
			e.forbid(p.Child("default"), "may not be specified when `type` is 'Pod'")
		}
		if len(requests) > 0 {
			e.forbid(p.Child("defaultRequest"), "may not be specified when `type` is 'Pod'")
		}
		defaults, requests = nil, nil
	} else {
		names("default", defaults)
		names("defaultRequest", requests)
	}
	if it.Type == corev1.LimitTypePersistentVolumeClaim {
		_, low := it.Min[corev1.ResourceStorage]
		_, high := it.Max[corev1.ResourceStorage]
		if !low && !high {
			e.add(field.Required(p.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	above := func(child string, k corev1.ResourceName, a, b corev1.ResourceList, value corev1.ResourceList, aName, bName string) {
		qa, oka := a[k]
		qb, okb := b[k]
		if oka && okb && qa.Cmp(qb) > 0 {
			v := value[k]
			e.invalid(p.Child(child).Key(string(k)), v.String(), fmt.Sprintf("%s value %s is greater than %s value %s", aName, qa.String(), bName, qb.String()))
		}
	}
	for _, k := range sets.List(keys) {
		above("min", k, it.Min, it.Max, it.Min, "min", "max")
		above("defaultRequest", k, it.Min, requests, requests, "min", "default request")
		above("defaultRequest", k, requests, it.Max, requests, "default request", "max")
		above("defaultRequest", k, requests, defaults, requests, "default request", "default limit")
		above("default", k, it.Min, defaults, it.Min, "min", "default")
		above("default", k, defaults, it.Max, it.Max, "default", "max")
		e.ratio(p.Child("maxLimitRequestRatio").Key(string(k)), k, it)
		d, okd := defaults[k]
		r, okr := requests[k]
		if okd && okr && !overcommit(k) && d.Cmp(r) != 0 {
			e.invalid(p.Child("defaultRequest").Key(string(k)), r.String(), fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", d.String(), r.String(), k))
		}
	}
}

// ratio of limit to request cannot be under 1, nor over what max and min allow.
func (e *errors) ratio(p *field.Path, k corev1.ResourceName, it *corev1.LimitRangeItem) {
	ratio, ok := it.MaxLimitRequestRatio[k]
	if !ok {
		return
	}
	if ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
		e.invalid(p, ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String()))
	}
	low, okLow := it.Min[k]
	high, okHigh := it.Max[k]
	if !okLow || !okHigh || low.IsZero() {
		return
	}
	if most := high.AsApproximateFloat64() / low.AsApproximateFloat64(); ratio.AsApproximateFloat64() > most {
		e.invalid(p, ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most))
	}
}

// What quotas can bound without a domain, and which of it each scope knows.
var (
	quotaPods    = []corev1.ResourceName{corev1.ResourcePods}
	quotaCompute = []corev1.ResourceName{
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	}
	quotaOther = []corev1.ResourceName{
		corev1.ResourceRequestsStorage, corev1.ResourcePersistentVolumeClaims, corev1.ResourceQuotas, corev1.ResourceServices,
		corev1.ResourceReplicationControllers, corev1.ResourceSecrets, corev1.ResourceConfigMaps,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
	quotaClaims = []corev1.ResourceName{corev1.ResourceRequestsStorage, corev1.ResourcePersistentVolumeClaims}
)

func standardQuota(name corev1.ResourceName) bool {
	return slices.Contains(quotaPods, name) || slices.Contains(quotaCompute, name) || slices.Contains(quotaOther, name) ||
		hugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

func (e *errors) quotaList(p *field.Path, list corev1.ResourceList) {
	for k, q := range list {
		at := p.Key(string(k))
		e.resourceNameOfQuota(at, k)
		e.quantity(at, k, q)
	}
}

func (e *errors) resourceNameOfQuota(p *field.Path, k corev1.ResourceName) {
	if !strings.Contains(string(k), "/") && standardQuota(k) {
		e.qualifiedName(p, string(k))
		return
	}
	e.resourceName(p, k)
	if !strings.Contains(string(k), "/") {
		e.invalid(p, k, "must be a standard resource for quota")
	}
}

// ResourceQuota judges a new quota.
func ResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	e := meta(&q.ObjectMeta, true, subdomain)
	e.quota(&q.Spec)
	return e.list
}

// ResourceQuotaUpdate judges a changed quota; its scopes stay.
func ResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	e := metaUpdate(&q.ObjectMeta, &old.ObjectMeta)
	e.quota(&q.Spec)
	if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		e.invalid(specPath.Child("scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg)
	}
	return e.list
}

// ResourceQuotaStatusUpdate judges what is used.
func ResourceQuotaStatusUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	e := metaUpdate(&q.ObjectMeta, &old.ObjectMeta)
	e.quotaList(statusPath.Child("hard"), q.Status.Hard)
	e.quotaList(statusPath.Child("used"), q.Status.Used)
	return e.list
}

func (e *errors) quota(spec *corev1.ResourceQuotaSpec) {
	e.quotaList(specPath.Child("hard"), spec.Hard)
	p, seen := specPath.Child("scopes"), map[corev1.ResourceQuotaScope]bool{}
	for i, s := range spec.Scopes {
		e.scope(p.Index(i), p.Index(i), s, spec.Hard)
		seen[s] = true
	}
	e.conflictingScopes(p, seen)
	if spec.ScopeSelector == nil {
		return
	}
	seen = map[corev1.ResourceQuotaScope]bool{}
	for i := range spec.ScopeSelector.MatchExpressions {
		r, at := &spec.ScopeSelector.MatchExpressions[i], specPath.Child("scopeSelector", "matchExpressions")
		e.scope(at.Child("scopeName"), at, r.ScopeName, spec.Hard)
		e.scopeExpression(at, r)
		seen[r.ScopeName] = true
	}
	e.conflictingScopes(specPath.Child("scopes"), seen)
}

func (e *errors) scope(p, whole *field.Path, s corev1.ResourceQuotaScope, hard corev1.ResourceList) {
	var knows []corev1.ResourceName
	switch s {
	case corev1.ResourceQuotaScopeBestEffort:
		knows = quotaPods
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		knows = append(slices.Clone(quotaPods), quotaCompute...)
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		knows = quotaClaims
	default:
		e.invalid(p, s, "unsupported scope")
		return
	}
	for k := range hard {
		if standardQuota(k) && !slices.Contains(knows, k) {
			e.invalid(whole, s, "unsupported scope applied to resource")
			return
		}
	}
}

func (e *errors) scopeExpression(p *field.Path, r *corev1.ScopedResourceSelectorRequirement) {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
		corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		if r.Operator != corev1.ScopeSelectorOpExists {
			e.invalid(p.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
		}
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			e.add(field.Required(p.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) != 0 {
			e.invalid(p.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
		}
	default:
		e.invalid(p.Child("operator"), r.Operator, "not a valid selector operator")
	}
}

func (e *errors) conflictingScopes(p *field.Path, seen map[corev1.ResourceQuotaScope]bool) {
	for _, pair := range [...][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if seen[pair[0]] && seen[pair[1]] {
			e.invalid(p, pair[0], "conflicting scopes")
		}
	}
}

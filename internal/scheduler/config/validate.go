package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/internal/kinds/validate"
)

func checkNodeAffinity(path *field.Path, a *corev1.NodeAffinity) (errs field.ErrorList) {
	if a == nil {
		return nil
	}
	if required := a.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		at := path.Child("requiredDuringSchedulingIgnoredDuringExecution")
		if _, err := nodeaffinity.NewNodeSelector(required, field.WithPath(at)); err != nil {
			errs = append(errs, field.Invalid(at, "", err.Error()))
		}
	}
	if terms := a.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
		at := path.Child("preferredDuringSchedulingIgnoredDuringExecution")
		if _, err := nodeaffinity.NewPreferredSchedulingTerms(terms, field.WithPath(at)); err != nil {
			errs = append(errs, field.Invalid(at, "", err.Error()))
		}
	}
	return errs
}

func checkResources(path *field.Path, a *configv1.NodeResourcesFitArgs) (errs field.ErrorList) {
	for i, name := range a.IgnoredResources {
		errs = append(errs, metav1validation.ValidateLabelName(name, path.Child("ignoredResources").Index(i))...)
	}
	for i, group := range a.IgnoredResourceGroups {
		at := path.Child("ignoredResourceGroups").Index(i)
		if strings.Contains(group, "/") {
			errs = append(errs, field.Invalid(at, group, "resource group name can't contain '/'"))
		}
		errs = append(errs, metav1validation.ValidateLabelName(group, at)...)
	}
	s, at := a.ScoringStrategy, path.Child("scoringStrategy")
	types := []configv1.ScoringStrategyType{configv1.LeastAllocated, configv1.MostAllocated, configv1.RequestedToCapacityRatio}
	if !slices.Contains(types, s.Type) {
		errs = append(errs, field.NotSupported(at.Child("type"), s.Type, types))
	}
	for i, r := range s.Resources {
		if r.Weight <= 0 || r.Weight > 100 {
			errs = append(errs, field.Invalid(at.Child("resources").Index(i).Child("weight"), r.Weight, fmt.Sprintf("resource weight of %v not in valid range (0, 100]", r.Name)))
		}
	}
	errs = append(errs, checkUnique(at.Child("resources"), s.Resources)...)
	ratio := at.Child("requestedToCapacityRatio")
	switch {
	case s.Type != configv1.RequestedToCapacityRatio && s.RequestedToCapacityRatio != nil:
		errs = append(errs, field.Forbidden(ratio, "must be nil when type is not RequestedToCapacityRatio"))
	case s.Type == configv1.RequestedToCapacityRatio && s.RequestedToCapacityRatio == nil:
		errs = append(errs, field.Required(ratio, "must be specified when type is RequestedToCapacityRatio"))
	case s.Type == configv1.RequestedToCapacityRatio:
		errs = append(errs, checkShape(ratio.Child("shape"), s.RequestedToCapacityRatio.Shape)...)
	}
	return errs
}

func checkShape(path *field.Path, shape []configv1.UtilizationShapePoint) (errs field.ErrorList) {
	if len(shape) == 0 {
		return field.ErrorList{field.Required(path, "at least one point must be specified")}
	}
	for i := 1; i < len(shape); i++ {
		if shape[i-1].Utilization >= shape[i].Utilization {
			errs = append(errs, field.Invalid(path.Index(i).Child("utilization"), shape[i].Utilization, "values must be sorted in increasing order"))
			break
		}
	}
	for i, p := range shape {
		if p.Utilization < 0 || p.Utilization > 100 {
			errs = append(errs, field.Invalid(path.Index(i).Child("utilization"), p.Utilization, "not in valid range [0, 100]"))
		}
		if p.Score < 0 || p.Score > 10 {
			errs = append(errs, field.Invalid(path.Index(i).Child("score"), p.Score, "not in valid range [0, 10]"))
		}
	}
	return errs
}

func checkUnique(path *field.Path, list []configv1.ResourceSpec) (errs field.ErrorList) {
	seen := map[string]bool{}
	for i, r := range list {
		if seen[r.Name] {
			errs = append(errs, field.Duplicate(path.Index(i).Child("name"), r.Name))
		}
		seen[r.Name] = true
	}
	return errs
}

func checkBalance(path *field.Path, list []configv1.ResourceSpec) field.ErrorList {
	errs := checkUnique(path, list)
	for i, r := range list {
		if r.Weight != 1 {
			errs = append(errs, field.Invalid(path.Index(i).Child("weight"), r.Weight, "must be 1"))
		}
	}
	return errs
}

func checkSpread(path *field.Path, a *configv1.PodTopologySpreadArgs) (errs field.ErrorList) {
	kind := path.Child("defaultingType")
	switch {
	case a.DefaultingType != configv1.SystemDefaulting && a.DefaultingType != configv1.ListDefaulting:
		errs = append(errs, field.NotSupported(kind, a.DefaultingType, []configv1.PodTopologySpreadConstraintsDefaulting{configv1.SystemDefaulting, configv1.ListDefaulting}))
	case a.DefaultingType == configv1.SystemDefaulting && len(a.DefaultConstraints) > 0:
		errs = append(errs, field.Invalid(kind, a.DefaultingType, "when .defaultConstraints are not empty"))
	}
	seen := map[[2]string]bool{}
	for i := range a.DefaultConstraints {
		c, at := &a.DefaultConstraints[i], path.Child("defaultConstraints").Index(i)
		errs = append(errs, checkConstraint(at, c)...)
		id := [2]string{c.TopologyKey, string(c.WhenUnsatisfiable)}
		if seen[id] {
			errs = append(errs, field.Duplicate(at, fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
		}
		seen[id] = true
	}
	return errs
}

func checkConstraint(path *field.Path, c *corev1.TopologySpreadConstraint) (errs field.ErrorList) {
	if c.MaxSkew <= 0 {
		errs = append(errs, field.Invalid(path.Child("maxSkew"), c.MaxSkew, "not in valid range (0, inf)"))
	}
	if c.TopologyKey == "" {
		errs = append(errs, field.Required(path.Child("topologyKey"), "can not be empty"))
	} else {
		errs = append(errs, metav1validation.ValidateLabelName(c.TopologyKey, path.Child("topologyKey"))...)
	}
	actions := []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}
	if c.WhenUnsatisfiable == "" {
		errs = append(errs, field.Required(path.Child("whenUnsatisfiable"), "can not be empty"))
	} else if !slices.Contains(actions, c.WhenUnsatisfiable) {
		errs = append(errs, field.NotSupported(path.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, actions))
	}
	if c.LabelSelector != nil {
		errs = append(errs, field.Forbidden(path.Child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"))
	}
	if len(c.MatchLabelKeys) > 0 {
		errs = append(errs, field.Forbidden(path.Child("matchLabelKeys"), "has no effect, as selectors are deduced for each pod"))
	}
	if c.MinDomains != nil && *c.MinDomains <= 0 {
		errs = append(errs, field.Invalid(path.Child("minDomains"), *c.MinDomains, "must be greater than 0"))
	}
	policies := []corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}
	for name, p := range map[string]*corev1.NodeInclusionPolicy{"nodeAffinityPolicy": c.NodeAffinityPolicy, "nodeTaintsPolicy": c.NodeTaintsPolicy} {
		if p != nil && !slices.Contains(policies, *p) {
			errs = append(errs, field.NotSupported(path.Child(name), *p, policies))
		}
	}
	return errs
}

func checkPreemption(path *field.Path, percent, least int32) (errs field.ErrorList) {
	p, a := path.Child("minCandidateNodesPercentage"), path.Child("minCandidateNodesAbsolute")
	if percent < 0 || percent > 100 {
		errs = append(errs, field.Invalid(p, percent, "not in valid range [0, 100]"))
	}
	if least < 0 {
		errs = append(errs, field.Invalid(a, least, "not in valid range [0, inf)"))
	}
	if percent == 0 && least == 0 {
		errs = append(errs, field.Invalid(p, percent, "cannot be zero at the same time as minCandidateNodesAbsolute"),
			field.Invalid(a, least, "cannot be zero at the same time as minCandidateNodesPercentage"))
	}
	return errs
}

func checkVolumes(path *field.Path, a *configv1.VolumeBindingArgs) (errs field.ErrorList) {
	if seconds := *a.BindTimeoutSeconds; seconds < 0 {
		errs = append(errs, field.Invalid(path.Child("bindTimeoutSeconds"), seconds, "invalid BindTimeoutSeconds, should not be a negative value"))
	}
	return append(errs, checkShape(path.Child("shape"), a.Shape)...)
}

func checkDevices(path *field.Path, a *configv1.DynamicResourcesArgs) (errs field.ErrorList) {
	if d := a.FilterTimeout.Duration; d < 0 {
		errs = append(errs, field.Invalid(path.Child("filterTimeout"), d.String(), "must be zero or positive"))
	}
	if d := a.BindingTimeout.Duration; d < time.Second {
		errs = append(errs, field.Invalid(path.Child("bindingTimeout"), d.String(), "must be at least 1 second"))
	}
	return errs
}

func checkExtenders(list []configv1.Extender) (errs field.ErrorList) {
	root, binders, managed := field.NewPath("extenders"), 0, map[string]bool{}
	for i := range list {
		e, path := &list[i], root.Index(i)
		if e.PrioritizeVerb != "" && e.Weight <= 0 {
			errs = append(errs, field.Invalid(path.Child("weight"), e.Weight, "must have a positive weight applied to it"))
		}
		if e.HTTPTimeout.Duration < 0 {
			errs = append(errs, field.Invalid(path.Child("httpTimeout"), e.HTTPTimeout.Duration.String(), "must not be negative"))
		}
		if e.BindVerb != "" {
			binders++
		}
		for j, r := range e.ManagedResources {
			at := path.Child("managedResources").Index(j).Child("name")
			errs = append(errs, checkExtended(at, r.Name)...)
			if managed[r.Name] {
				errs = append(errs, field.Invalid(at, r.Name, "duplicate extender managed resource name"))
			}
			managed[r.Name] = true
		}
	}
	if binders > 1 {
		errs = append(errs, field.Invalid(root, fmt.Sprintf("found %d extenders implementing bind", binders), "only one extender can implement bind"))
	}
	return errs
}

// checkExtended: the name must be that of a device or the like.
func checkExtended(path *field.Path, name string) (errs field.ErrorList) {
	for _, msg := range validation.IsQualifiedName(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	if len(errs) == 0 && (validate.NativeResource(corev1.ResourceName(name)) || strings.HasPrefix(name, corev1.DefaultResourceRequestsPrefix)) {
		errs = append(errs, field.Invalid(path, name, "is an invalid extended resource name"))
	}
	return errs
}

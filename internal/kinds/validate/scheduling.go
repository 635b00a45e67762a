package validate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const weightRange = "must be in the range 1-100"

func (s *podScope) affinity(p *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := p.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			s.nodeSelector(at.Child(required), n.RequiredDuringSchedulingIgnoredDuringExecution)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			t, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferred).Index(i)
			s.weight(at.Child("weight"), t.Weight)
			// Values are not judged here, as they only prefer.
			s.nodeTerm(at.Child("preference"), &t.Preference, false)
		}
	}
	pods := func(at *field.Path, must []corev1.PodAffinityTerm, prefer []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			s.podTerm(at.Child(required).Index(i), &must[i])
		}
		for i := range prefer {
			at := at.Child(preferred).Index(i)
			s.weight(at.Child("weight"), prefer[i].Weight)
			s.podTerm(at.Child("podAffinityTerm"), &prefer[i].PodAffinityTerm)
		}
	}
	if t := a.PodAffinity; t != nil {
		pods(p.Child("podAffinity"), t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if t := a.PodAntiAffinity; t != nil {
		pods(p.Child("podAntiAffinity"), t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (s *podScope) weight(p *field.Path, w int32) {
	if w <= 0 || w > 100 {
		s.invalid(p, w, weightRange)
	}
}

// nodeSelector is a pod's node affinity or a volume's.
func (e *errors) nodeSelector(p *field.Path, n *corev1.NodeSelector) {
	at := p.Child("nodeSelectorTerms")
	if len(n.NodeSelectorTerms) == 0 {
		e.add(field.Required(at, "must have at least one node selector term"))
	}
	for i := range n.NodeSelectorTerms {
		e.nodeTerm(at.Index(i), &n.NodeSelectorTerms[i], true)
	}
}

func (e *errors) nodeTerm(p *field.Path, t *corev1.NodeSelectorTerm, values bool) {
	for i := range t.MatchExpressions {
		e.nodeExpression(p.Child("matchExpressions").Index(i), &t.MatchExpressions[i], values)
	}
	for i := range t.MatchFields {
		e.nodeField(p.Child("matchFields").Index(i), &t.MatchFields[i])
	}
}

func (e *errors) nodeExpression(p *field.Path, r *corev1.NodeSelectorRequirement, values bool) {
	at := p.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			e.add(field.Required(at, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			e.forbid(at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			e.add(field.Required(at, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		e.invalid(p.Child("operator"), r.Operator, "not a valid selector operator")
	}
	e.labelName(p.Child("key"), r.Key)
	if !values {
		return
	}
	for i, v := range r.Values {
		e.msgs(at.Index(i), v, validation.IsValidLabelValue(v))
	}
}

// nodeField can only be the name.
func (e *errors) nodeField(p *field.Path, r *corev1.NodeSelectorRequirement) {
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			e.add(field.Required(p.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		e.invalid(p.Child("operator"), r.Operator, "not a valid selector operator")
	}
	if r.Key != metav1.ObjectNameField {
		e.invalid(p.Child("key"), r.Key, "not a valid field selector key")
		return
	}
	for i, v := range r.Values {
		e.msgs(p.Child("values").Index(i), v, subdomain(v, false))
	}
}

func (s *podScope) podTerm(p *field.Path, t *corev1.PodAffinityTerm) {
	s.selector(p.Child("labelSelector"), t.LabelSelector)
	s.selector(p.Child("namespaceSelector"), t.NamespaceSelector)
	for _, ns := range t.Namespaces {
		s.msgs(p.Child("namespace"), ns, label(ns, false))
	}
	s.matchKeys(p, "matchLabelKeys", t.MatchLabelKeys, t.LabelSelector, true)
	s.matchKeys(p, "mismatchLabelKeys", t.MismatchLabelKeys, t.LabelSelector, false)
	mismatch := make(map[string]bool, len(t.MismatchLabelKeys))
	for _, k := range t.MismatchLabelKeys {
		mismatch[k] = true
	}
	for i, k := range t.MatchLabelKeys {
		if mismatch[k] {
			s.invalid(p.Child("matchLabelKeys").Index(i), k, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
	s.topologyKey(p.Child("topologyKey"), t.TopologyKey)
}

func (s *podScope) topologyKey(p *field.Path, key string) {
	if key == "" {
		s.add(field.Required(p, "can not be empty"))
	}
	s.labelName(p, key)
}

// matchKeys extend a selector. Where a key picks one value (exclusive), the
// selector may not name it too; the one requirement that preparing has made of
// the key is no conflict.
func (s *podScope) matchKeys(p *field.Path, name string, keys []string, sel *metav1.LabelSelector, exclusive bool) {
	if len(keys) == 0 {
		return
	}
	at := p.Child(name)
	if sel == nil {
		s.forbid(at, "must not be specified when labelSelector is not set")
		return
	}
	uses, merged := map[string]int{}, map[string]bool{}
	for k := range sel.MatchLabels {
		uses[k]++
	}
	for _, r := range sel.MatchExpressions {
		if r.Operator == metav1.LabelSelectorOpIn && len(r.Values) == 1 && !merged[r.Key] {
			merged[r.Key] = true
			continue
		}
		uses[r.Key]++
	}
	for i, k := range keys {
		s.labelName(at.Index(i), k)
		if exclusive && uses[k] > 0 {
			s.invalid(at.Index(i), k, "exists in both "+name+" and labelSelector")
		}
	}
}

func (s *podScope) spread(p *field.Path, list []corev1.TopologySpreadConstraint) {
	type pair struct {
		key  string
		when corev1.UnsatisfiableConstraintAction
	}
	seen := map[pair]bool{}
	for i := range list {
		c, at := &list[i], p.Index(i)
		if c.MaxSkew <= 0 {
			s.invalid(at.Child("maxSkew"), c.MaxSkew, notPositive)
		}
		if c.TopologyKey == "" {
			s.add(field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		oneOf(s.errors, at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		unique(s.errors, seen, at.Child("{topologyKey, whenUnsatisfiable}"), pair{c.TopologyKey, c.WhenUnsatisfiable},
			fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable))
		if m := c.MinDomains; m != nil {
			if *m <= 0 {
				s.invalid(at.Child("minDomains"), *m, notPositive)
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				s.invalid(at.Child("minDomains"), *m, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable))
			}
		}
		inPtr(s.errors, at.Child("nodeAffinityPolicy"), c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		inPtr(s.errors, at.Child("nodeTaintsPolicy"), c.NodeTaintsPolicy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		s.matchKeys(at, "matchLabelKeys", c.MatchLabelKeys, c.LabelSelector, true)
		s.selector(at.Child("labelSelector"), c.LabelSelector)
	}
}

func (s *podScope) schedulingGates(p *field.Path, gates []corev1.PodSchedulingGate) {
	seen := map[string]bool{}
	for i, g := range gates {
		s.qualifiedName(p.Index(i), g.Name)
		unique(s.errors, seen, p.Index(i), g.Name, g.Name)
	}
}

func (e *errors) tolerations(p *field.Path, list []corev1.Toleration) {
	for i := range list {
		t, at := &list[i], p.Index(i)
		if t.Key != "" {
			e.labelName(at.Child("key"), t.Key)
		} else if t.Operator != corev1.TolerationOpExists {
			e.invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			e.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if m := validation.IsValidLabelValue(t.Value); len(m) > 0 {
				e.invalid(at.Child("operator"), t.Value, strings.Join(m, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				e.invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
			}
		default:
			oneOf(e, at.Child("operator"), t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
		}
		if t.Effect != "" {
			e.taintEffect(at.Child("effect"), t.Effect)
		}
	}
}

func (e *errors) taintEffect(p *field.Path, effect corev1.TaintEffect) {
	in(e, p, effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

// onlyAddedTolerations: a running pod may tolerate more, never less.
func (e *errors) onlyAddedTolerations(p *field.Path, list, old []corev1.Toleration) {
	type fields struct {
		key, value string
		op         corev1.TolerationOperator
		effect     corev1.TaintEffect
	}
	of := func(t corev1.Toleration) fields { return fields{t.Key, t.Value, t.Operator, t.Effect} }
	have := make(map[fields]bool, len(list))
	for _, t := range list {
		have[of(t)] = true
	}
	if slices.ContainsFunc(old, func(t corev1.Toleration) bool { return !have[of(t)] }) {
		e.forbid(p, "existing toleration can not be modified except its tolerationSeconds")
	}
}

// onlyRemovedGates: gates are lifted one by one.
func (e *errors) onlyRemovedGates(p *field.Path, gates, old []corev1.PodSchedulingGate) {
	had := make(map[string]bool, len(old))
	for _, g := range old {
		had[g.Name] = true
	}
	for i, g := range gates {
		if !had[g.Name] {
			e.forbid(p.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name))
		}
	}
}

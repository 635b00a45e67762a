package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// naive answers feasibility from the API objects alone, by loops over
// everything, as the documentation of the fields says. It shares no code with
// the scheduler. Pods in it use plain requests without init containers.
type naive struct {
	nodes      map[string]*corev1.Node
	pods       []*corev1.Pod // on nodes, none ended
	namespaces map[string]map[string]string
	nominated  []*corev1.Pod // wait for room on the node that their status names
	budgets    []*policyv1.PodDisruptionBudget
	naiveStorage
	naiveExtended
}

func (w *naive) feasible(p *corev1.Pod) []string {
	var out []string
	for name, n := range w.nodes {
		if w.fits(p, n) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (w *naive) fits(p *corev1.Pod, n *corev1.Node) bool {
	return w.resources(p, n) && w.devicesFit(p, n) && w.admits(p, n) && w.ports(p, n) && w.affine(p, n) && w.spread(p, n) && w.storageFits(p, n)
}

func (w *naive) on(n *corev1.Node) (out []*corev1.Pod) {
	for _, p := range w.pods {
		if p.Spec.NodeName == n.Name {
			out = append(out, p)
		}
	}
	return out
}

func (w *naive) resources(p *corev1.Pod, n *corev1.Node) bool {
	here := w.on(n)
	if pods := n.Status.Allocatable[corev1.ResourcePods]; int64(len(here)+1) > pods.Value() {
		return false
	}
	for name, want := range p.Spec.Containers[0].Resources.Requests {
		if have := n.Status.Allocatable[name]; want.IsZero() || name == widget && have.IsZero() && w.class != "" {
			continue // it is nothing, or devices serve it
		}
		sum := want.DeepCopy()
		for _, x := range here {
			sum.Add(x.Spec.Containers[0].Resources.Requests[name])
		}
		if sum.Cmp(n.Status.Allocatable[name]) > 0 {
			return false
		}
	}
	return true
}

func (w *naive) tolerated(p *corev1.Pod, t corev1.Taint) bool {
	for _, tol := range p.Spec.Tolerations { // only Exists by key in these tests
		if tol.Key == t.Key {
			return true
		}
	}
	return false
}

func (w *naive) taints(p *corev1.Pod, n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !w.tolerated(p, t) {
			return false
		}
	}
	return true
}

func (w *naive) selected(p *corev1.Pod, n *corev1.Node) bool {
	for k, v := range p.Spec.NodeSelector {
		if n.Labels[k] != v {
			return false
		}
	}
	return true
}

func (w *naive) admits(p *corev1.Pod, n *corev1.Node) bool {
	return w.taints(p, n) && w.selected(p, n) && (!n.Spec.Unschedulable || w.tolerated(p, corev1.Taint{Key: corev1.TaintNodeUnschedulable}))
}

func (w *naive) ports(p *corev1.Pod, n *corev1.Node) bool {
	for _, x := range w.on(n) {
		for _, a := range x.Spec.Containers[0].Ports {
			for _, b := range p.Spec.Containers[0].Ports {
				any := a.HostIP == "" || b.HostIP == "" || a.HostIP == b.HostIP
				if any && a.HostPort == b.HostPort && a.Protocol == b.Protocol {
					return false
				}
			}
		}
	}
	return true
}

// found reports whether a term of a pod in namespace ns finds x.
func (w *naive) found(t corev1.PodAffinityTerm, ns string, x *corev1.Pod) bool {
	in := slices.Contains(t.Namespaces, x.Namespace)
	if t.NamespaceSelector != nil {
		sel, _ := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		in = in || sel.Matches(labels.Set(w.namespaces[x.Namespace]))
	} else if len(t.Namespaces) == 0 {
		in = x.Namespace == ns
	}
	sel, _ := metav1.LabelSelectorAsSelector(t.LabelSelector)
	return in && sel.Matches(labels.Set(x.Labels))
}

// together reports whether both nodes are in the same domain.
func (w *naive) together(key string, a, b *corev1.Node) bool {
	if a == nil || b == nil {
		return false
	}
	va, oka := a.Labels[key]
	vb, okb := b.Labels[key]
	return oka && okb && va == vb
}

func (w *naive) affine(p *corev1.Pod, n *corev1.Node) bool {
	for _, x := range w.pods {
		for _, t := range antiTerms(x) {
			if w.found(t, x.Namespace, p) && w.together(t.TopologyKey, w.nodes[x.Spec.NodeName], n) {
				return false
			}
		}
		for _, t := range antiTerms(p) {
			if w.found(t, p.Namespace, x) && w.together(t.TopologyKey, w.nodes[x.Spec.NodeName], n) {
				return false
			}
		}
	}
	terms := nearTerms(p)
	if len(terms) == 0 {
		return true
	}
	all := func(x *corev1.Pod) bool {
		return !slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return !w.found(t, p.Namespace, x) })
	}
	ok, anywhere := true, false
	for _, t := range terms {
		if _, has := n.Labels[t.TopologyKey]; !has {
			return false
		}
		here := false
		for _, x := range w.pods {
			if !all(x) {
				continue
			}
			other := w.nodes[x.Spec.NodeName]
			if other == nil {
				continue
			}
			if _, has := other.Labels[t.TopologyKey]; has {
				anywhere = true
			}
			here = here || w.together(t.TopologyKey, other, n)
		}
		ok = ok && here
	}
	return ok || !anywhere && all(p)
}

func antiTerms(p *corev1.Pod) []corev1.PodAffinityTerm {
	if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func nearTerms(p *corev1.Pod) []corev1.PodAffinityTerm {
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil {
		return a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func (w *naive) spread(p *corev1.Pod, n *corev1.Node) bool {
	var hard []corev1.TopologySpreadConstraint
	for _, c := range p.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, c)
		}
	}
	for _, c := range hard {
		here, ok := n.Labels[c.TopologyKey]
		if !ok {
			return false
		}
		sel, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
		counts := map[string]int{}
		for _, m := range w.nodes {
			if !w.counted(p, m, c, hard) {
				continue
			}
			counts[m.Labels[c.TopologyKey]] += 0
			for _, x := range w.on(m) {
				if x.Namespace == p.Namespace && x.DeletionTimestamp == nil && sel.Matches(labels.Set(x.Labels)) {
					counts[m.Labels[c.TopologyKey]]++
				}
			}
		}
		least := -1
		for _, v := range counts {
			if least < 0 || v < least {
				least = v
			}
		}
		if least < 0 || c.MinDomains != nil && len(counts) < int(*c.MinDomains) {
			least = 0
		}
		self := 0
		if sel.Matches(labels.Set(p.Labels)) {
			self = 1
		}
		if counts[here]+self-least > int(c.MaxSkew) {
			return false
		}
	}
	return true
}

func (w *naive) counted(p *corev1.Pod, m *corev1.Node, c corev1.TopologySpreadConstraint, hard []corev1.TopologySpreadConstraint) bool {
	for _, other := range hard {
		if _, ok := m.Labels[other.TopologyKey]; !ok {
			return false
		}
	}
	if (c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor) && !w.selected(p, m) {
		return false
	}
	return c.NodeTaintsPolicy == nil || *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyIgnore || w.taints(p, m)
}

package daemonset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// where a set's pods may be: read once per set, asked per node.
type where struct {
	node        string // the only one, if the template names it
	tolerations []corev1.Toleration
	affinity    nodeaffinity.RequiredNodeAffinity
}

func whereOf(set *appsv1.DaemonSet) where {
	spec := &set.Spec.Template.Spec
	return where{spec.NodeName, tolerations(spec), nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity)}
}

// on says whether the node (nil: none) gets a pod, and whether one that it has
// may stay: taints that only keep new pods away let it.
func (w where) on(n *corev1.Node) (run, stay bool) {
	if n == nil || w.node != "" && w.node != n.Name {
		return false, false
	}
	// An affinity that cannot be read matches no node: validation refuses it.
	if ok, err := w.affinity.Match(n); !ok || err != nil {
		return false, false
	}
	run = true
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || w.tolerates(t) {
			continue
		}
		run = false
		if t.Effect == corev1.TaintEffectNoExecute {
			return false, false
		}
	}
	return run, true
}

func (w where) tolerates(t *corev1.Taint) bool {
	return slices.ContainsFunc(w.tolerations, func(x corev1.Toleration) bool { return x.ToleratesTaint(klog.Logger{}, t, true) })
}

// tolerations of a daemon pod: the template's, and what keeps it on nodes in
// trouble, which is where it is needed.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	own := []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodePIDPressure, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule},
	}
	if spec.HostNetwork {
		own = append(own, corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule})
	}
	out := slices.Clone(spec.Tolerations)
	for _, t := range own {
		t.Operator = corev1.TolerationOpExists
		if i := slices.IndexFunc(out, func(x corev1.Toleration) bool { return t.MatchToleration(&x) }); i >= 0 {
			out[i] = t // without an end
		} else {
			out = append(out, t)
		}
	}
	return out
}

// bind lets a pod go to that node only, whatever nodes its template asks for:
// the set has looked at that already.
func bind(affinity *corev1.Affinity, node string) *corev1.Affinity {
	if affinity == nil {
		affinity = &corev1.Affinity{}
	}
	if affinity.NodeAffinity == nil {
		affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}},
	}}
	return affinity
}

// target is the node that a pod is on, or is for; empty: any.
func target(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

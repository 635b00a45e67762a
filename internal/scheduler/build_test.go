package scheduler

import (
	"fmt"
	"math/rand/v2"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

func list(kv ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return l
}

// aNode has 4 cores, 8 GiB, room for 10 pods, its host name as a label, and
// what the options make of it.
func aNode(name string, opts ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: list("cpu", "4", "memory", "8Gi", "pods", "10", "ephemeral-storage", "100Gi")},
	}
	for _, o := range opts {
		o(n)
	}
	return n
}

func labelled(kv ...string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		for i := 0; i < len(kv); i += 2 {
			n.Labels[kv[i]] = kv[i+1]
		}
	}
}

func zone(z string) func(*corev1.Node) { return labelled(corev1.LabelTopologyZone, z) }

func tainted(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect})
	}
}

func has(kv ...string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		for k, v := range list(kv...) {
			n.Status.Allocatable[k] = v
		}
	}
}

// aPod in namespace default, of the scheduler default-scheduler.
func aPod(name string, opts ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid")},
		Spec:       corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func requests(kv ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list(kv...) }
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func with(kv ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			p.Labels[kv[i]] = kv[i+1]
		}
	}
}

func hostPorts(specs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, s := range specs {
			var port corev1.ContainerPort
			f := strings.Split(s, "/") // ip/protocol/port
			port.HostIP, port.Protocol = f[0], corev1.Protocol(f[1])
			fmt.Sscan(f[2], &port.HostPort)
			p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, port)
		}
	}
}

func affinity(p *corev1.Pod) *corev1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	return p.Spec.Affinity
}

func selecting(kv ...string) *metav1.LabelSelector {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return &metav1.LabelSelector{MatchLabels: m}
}

func near(key string, sel *metav1.LabelSelector) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		a := affinity(p)
		if a.PodAffinity == nil {
			a.PodAffinity = &corev1.PodAffinity{}
		}
		a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
			corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: sel})
	}
}

func apart(key string, sel *metav1.LabelSelector) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		a := affinity(p)
		if a.PodAntiAffinity == nil {
			a.PodAntiAffinity = &corev1.PodAntiAffinity{}
		}
		a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
			corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: sel})
	}
}

// likes other pods with weight; below zero: dislikes.
func likes(weight int32, key string, sel *metav1.LabelSelector) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		t := corev1.WeightedPodAffinityTerm{Weight: max(weight, -weight), PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: sel}}
		if weight > 0 {
			affinity(p).PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{t}}
		} else {
			affinity(p).PodAntiAffinity = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{t}}
		}
	}
}

func spreads(key string, skew int32, when corev1.UnsatisfiableConstraintAction, sel *metav1.LabelSelector, opts ...func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := corev1.TopologySpreadConstraint{MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: when, LabelSelector: sel}
		for _, o := range opts {
			o(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func tolerating(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
	}
}

// world builds a cluster of nodes and placed pods.
func world(objects ...any) *cluster {
	c := newCluster()
	c.setNamespace("default", nil)
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Node:
			c.setNode(o)
		case *corev1.Pod:
			c.place(placed(o), o.Spec.NodeName)
		case *corev1.Namespace:
			c.setNamespace(o.Name, o.Labels)
		case *corev1.Service:
			c.setService(o, false)
		case kinds.Object:
			c.take(o, false)
		default:
			panic(fmt.Sprintf("%T", o))
		}
	}
	return c
}

func rulesOf(p Profile) *rules {
	r, err := newRules(&p)
	if err != nil {
		panic(err)
	}
	return r
}

// newDecider decides by the default profile.
func newDecider(rng *rand.Rand) *decider { return deciderBy(rulesOf(DefaultProfile()), nil, rng) }

func decideFor(c *cluster, p *corev1.Pod) (node, why string) {
	d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, pending(p))
	if d.node != nil {
		return d.node.name, ""
	}
	return "", d.why
}

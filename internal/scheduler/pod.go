package scheduler

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// pod is a pod as the scheduler sees it: parsed once, never changed.
type pod struct {
	obj  *corev1.Pod
	node *node // where it counts; nil: nowhere

	request     amounts
	scoreCPU    int64
	scoreMemory int64
	ports       []hostPort
	claims      []string         // namespace/name
	ownClaims   []string         // those of them that must be this pod's own
	disks       []*corev1.Volume // see isDisk

	// What it asks of others, and, once it is placed, what others must mind.
	near, apart []*affinityTerm // required affinity and anti-affinity
	likes       []*affinityTerm // preferred ones, with the weight's sign
	carried     []*affinityTerm // all of them

	// Only for pods that are not placed yet.
	class        classID
	nodeAffinity *nodeaffinity.RequiredNodeAffinity // nil: any node
	onlyNodes    []string                           // those that the affinity names, sorted; nil: it names none
	preferNodes  *nodeaffinity.PreferredSchedulingTerms
	spread       []spreadRule
	images       []string
}

// hostPort is an address of the node that a pod takes.
type hostPort struct {
	ip       string // "" is every address
	protocol corev1.Protocol
	port     int32
}

// clashes reports whether both cannot be had at once.
func (h hostPort) clashes(o hostPort) bool {
	return h.port == o.port && h.protocol == o.protocol && (h.ip == "" || o.ip == "" || h.ip == o.ip)
}

// spreadRule is one topology spread constraint.
type spreadRule struct {
	topologyKey string
	maxSkew     int32
	minDomains  int32
	hard        bool
	selector    *selector
	honorNodes  bool // count only nodes that the pod's node affinity allows
	honorTaints bool // count only nodes whose taints the pod tolerates
}

// placed parses what matters of a pod that is on a node.
func placed(obj *corev1.Pod) *pod {
	p := &pod{obj: obj}
	p.request, p.scoreCPU, p.scoreMemory = requestOf(obj)
	p.ports = portsOf(obj)
	p.claims, p.ownClaims = claimsOf(obj)
	p.disks = disksOf(obj)
	p.parseAffinity()
	return p
}

// pending parses a pod that is to be placed.
func pending(obj *corev1.Pod) *pod {
	p := placed(obj)
	if a := obj.Spec.Affinity; len(obj.Spec.NodeSelector) > 0 || a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		required := nodeaffinity.GetRequiredNodeAffinity(obj)
		p.nodeAffinity = &required
		p.onlyNodes = namedNodes(obj)
	}
	if a := obj.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		if terms := a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
			// Terms that cannot be read prefer nothing; validation refuses them.
			if parsed, err := nodeaffinity.NewPreferredSchedulingTerms(terms); err == nil {
				p.preferNodes = parsed
			}
		}
	}
	for i := range obj.Spec.TopologySpreadConstraints {
		p.spread = append(p.spread, spreadRuleOf(obj, &obj.Spec.TopologySpreadConstraints[i]))
	}
	for _, list := range [...][]corev1.Container{obj.Spec.InitContainers, obj.Spec.Containers} {
		for i := range list {
			p.images = append(p.images, imageName(list[i].Image))
		}
	}
	for i := range obj.Spec.Volumes {
		if v := obj.Spec.Volumes[i].Image; v != nil {
			p.images = append(p.images, imageName(v.Reference))
		}
	}
	return p
}

// namedNodes are the nodes that a pod's affinity allows by their names, as that
// of a daemon set's pod does; nil: it does not go by names. Looking these up
// spares the search.
func namedNodes(obj *corev1.Pod) []string {
	a := obj.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) == 0 {
		return nil
	}
	names := []string{}
	for i := range terms {
		var both []string // of all requirements of the term
		for _, r := range terms[i].MatchFields {
			if r.Key != metav1.ObjectNameField || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if both == nil {
				both = append([]string{}, r.Values...)
			} else {
				both = slices.DeleteFunc(both, func(name string) bool { return !slices.Contains(r.Values, name) })
			}
		}
		if both == nil {
			return nil // terms are alternatives, and this one allows any name
		}
		names = append(names, both...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func spreadRuleOf(obj *corev1.Pod, c *corev1.TopologySpreadConstraint) spreadRule {
	r := spreadRule{
		topologyKey: c.TopologyKey, maxSkew: c.MaxSkew, minDomains: 1,
		hard:       c.WhenUnsatisfiable == corev1.DoNotSchedule,
		selector:   newSelector(obj.Namespace, nil, nil, c.LabelSelector),
		honorNodes: true,
	}
	if c.MinDomains != nil {
		r.minDomains = *c.MinDomains
	}
	if c.NodeAffinityPolicy != nil {
		r.honorNodes = *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
	}
	if c.NodeTaintsPolicy != nil {
		r.honorTaints = *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
	}
	return r
}

func (p *pod) parseAffinity() {
	a := p.obj.Spec.Affinity
	if a == nil {
		return
	}
	if pa := a.PodAffinity; pa != nil {
		p.near = p.terms(pa.RequiredDuringSchedulingIgnoredDuringExecution, wantsNear)
		p.likes = p.weighted(p.likes, pa.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if pa := a.PodAntiAffinity; pa != nil {
		p.apart = p.terms(pa.RequiredDuringSchedulingIgnoredDuringExecution, keepsAway)
		p.likes = p.weighted(p.likes, pa.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	p.carried = append(append(append(p.carried, p.near...), p.apart...), p.likes...)
}

func (p *pod) terms(list []corev1.PodAffinityTerm, kind termKind) []*affinityTerm {
	out := make([]*affinityTerm, 0, len(list))
	for i := range list {
		out = append(out, p.term(&list[i], kind, 0))
	}
	return out
}

func (p *pod) weighted(out []*affinityTerm, list []corev1.WeightedPodAffinityTerm, sign int32) []*affinityTerm {
	for i := range list {
		out = append(out, p.term(&list[i].PodAffinityTerm, likesNear, sign*list[i].Weight))
	}
	return out
}

func (p *pod) term(t *corev1.PodAffinityTerm, kind termKind, weight int32) *affinityTerm {
	s := newSelector(p.obj.Namespace, t.Namespaces, t.NamespaceSelector, t.LabelSelector)
	return &affinityTerm{
		key:  strconv.Itoa(int(kind)) + "|" + strconv.Itoa(int(weight)) + "|" + t.TopologyKey + "|" + s.key,
		kind: kind, weight: weight, topologyKey: t.TopologyKey, selector: s,
	}
}

// portsOf lists the host ports of a pod. Those of init containers count only
// for sidecars: the others have ended when the pod's own begin.
func portsOf(obj *corev1.Pod) []hostPort {
	var out []hostPort
	for i := range obj.Spec.InitContainers {
		if c := &obj.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = containerPorts(out, c)
		}
	}
	for i := range obj.Spec.Containers {
		out = containerPorts(out, &obj.Spec.Containers[i])
	}
	return out
}

func containerPorts(out []hostPort, c *corev1.Container) []hostPort {
	for _, p := range c.Ports {
		if p.HostPort <= 0 {
			continue
		}
		h := hostPort{ip: p.HostIP, protocol: p.Protocol, port: p.HostPort}
		if h.protocol == "" {
			h.protocol = corev1.ProtocolTCP
		}
		if ip, err := netip.ParseAddr(h.ip); err == nil && ip.IsUnspecified() {
			h.ip = ""
		}
		out = append(out, h)
	}
	return out
}

// claimsOf names the persistent volume claims that a pod mounts, and those of
// them that belong to the pod because it has an ephemeral volume.
func claimsOf(obj *corev1.Pod) (claims, own []string) {
	for i := range obj.Spec.Volumes {
		v := &obj.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			claims = append(claims, obj.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			name := obj.Namespace + "/" + obj.Name + "-" + v.Name
			claims, own = append(claims, name), append(own, name)
		}
	}
	return claims, own
}

// imageName is the name under which nodes list an image: with a tag.
func imageName(image string) string {
	if strings.Contains(image, "@") || strings.LastIndexByte(image, ':') > strings.LastIndexByte(image, '/') {
		return image
	}
	return image + ":latest"
}

// preempts reports whether others may be deleted to make room for the pod.
func (p *pod) preempts() bool {
	return p.obj.Spec.PreemptionPolicy == nil || *p.obj.Spec.PreemptionPolicy != corev1.PreemptNever
}

// profile is the name of the pod's.
func (p *pod) profile() string { return p.obj.Spec.SchedulerName }

func (p *pod) priority() int32 {
	if p.obj.Spec.Priority != nil {
		return *p.obj.Spec.Priority
	}
	return 0
}

// ended pods hold nothing any more.
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// sameForUs reports whether nothing changed in a pod that the scheduler looks
// at, its node apart. Most changes are of the status, so this is quick for them.
func sameForUs(a, b *corev1.Pod) bool {
	return (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		ended(a) == ended(b) && maps.Equal(a.Labels, b.Labels) && sameSpec(a, b) &&
		resourceclaim.PodStatusEqual(a.Status.ResourceClaimStatuses, b.Status.ResourceClaimStatuses) &&
		hasStatusResources(a) == hasStatusResources(b) && (!hasStatusResources(b) || sameRequest(a, b))
}

// sameSpec trusts the generation that the API server counts up with each
// change of the spec. (A binding does not change it.)
func sameSpec(a, b *corev1.Pod) bool {
	if a.Generation != 0 && a.Generation == b.Generation {
		return true
	}
	return apiequality.Semantic.DeepEqual(&a.Spec, &b.Spec)
}

func sameRequest(a, b *corev1.Pod) bool {
	ra, _, _ := requestOf(a)
	rb, _, _ := requestOf(b)
	return ra.cpu == rb.cpu && ra.memory == rb.memory && ra.storage == rb.storage && maps.Equal(ra.more, rb.more)
}

// condition of a pod, or nil.
func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func keyOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

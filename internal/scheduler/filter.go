package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/internal/kinds/validate"
)

// filter says on which nodes a pod may run.
type filter interface {
	// Name is upstream's name of the plugin.
	Name() string
	// Fits reports whether the pod may run on the node.
	Fits(c *cycle, n *node) bool
	// Explain appends why not, in the words that users know from upstream, and
	// whether that stays so whatever pods leave the node. It is asked only about
	// a node that does not fit.
	Explain(c *cycle, n *node, why []string) (_ []string, stays bool)
	// Advise appends the smallest changes after which the filter would let the
	// pod in. It is asked only about a node that does not fit.
	Advise(c *cycle, n *node, out []change) []change
	// Helps reports whether an event may have made room for a pod that this
	// filter refused somewhere. A yes too many costs a decision, a no too many
	// leaves the pod waiting for ever.
	Helps(c *cycle, e *event) bool
}

// filters in the order in which they are asked, with a profile's arguments: cheap
// ones that refuse many nodes first. The first refusal is the reason that users see. alone is how many
// of them, from the first on, look at nothing but the pod's class and one node.
func filters(r *rules) (list []filter, alone int) {
	list = []filter{unschedulable{}, nodeName{}, taints{}, nodeAffinity{r.added}, nodePorts{}, resources{&r.ignored}}
	return append(list, volumeRestrictions{}, volumeLimits{}, volumes{}, volumeZone{}, spread{}, podAffinity{}, dynamicResources{}), len(list)
}

// cycle is one decision: a pod, the cluster, and what filters and scorers have
// prepared for this pod.
type cycle struct {
	*cluster
	pod       *pod
	class     *class
	rules     *rules   // of the pod's profile
	alone     []filter // those that look at one node alone
	onlyNodes []string // those that the pod's affinity names; nil: it names none

	// refusal is why no node can do, whatever the nodes are like, and
	// refusedBy the filters whose events can change that.
	refusal   string
	refusedBy uint32

	spread []spreadCheck
	hard   []*spreadRule // of the checks
	// Affinity: the pod's own terms and those of placed pods against it.
	near     []*tally
	nearSelf bool // the pod's own terms find the pod itself
	apart    []*tally
	awayFrom []*tally

	*podVolumes
	podDevices *podDevices // nil: the pod has no claims to devices
	// early: the refusal stands until an event ends it, so there is nothing to back
	// off from; soon: that is on its way, so there is nothing to tell.
	early, soon bool

	said map[*node]answer // by extenders that will not have the pod there
}

// targets are the nodes to look at: all, unless the pod names some.
func (c *cycle) targets() []*node {
	if c.onlyNodes == nil {
		return c.candidates()
	}
	list := make([]*node, 0, len(c.onlyNodes))
	for _, name := range c.onlyNodes {
		if n := c.byName[name]; n != nil && n.obj != nil {
			list = append(list, n)
		}
	}
	return list
}

// onNode is the answer of filters that look at nothing but the node: an event
// of the right sort helps if the node is there and fits now.
func onNode(f filter, c *cycle, e *event, sorts ...what) bool {
	return slices.Contains(sorts, e.what) && e.node.obj != nil && f.Fits(c, e.node)
}

type unschedulable struct{}

func (unschedulable) Name() string { return "NodeUnschedulable" }
func (unschedulable) Fits(c *cycle, n *node) bool {
	return !n.obj.Spec.Unschedulable || tolerates(c.pod.obj, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
}
func (unschedulable) Explain(_ *cycle, _ *node, why []string) ([]string, bool) {
	return append(why, "node(s) were unschedulable"), true
}
func (unschedulable) Advise(_ *cycle, _ *node, out []change) []change {
	return append(out, change{kind: uncordon})
}
func (f unschedulable) Helps(c *cycle, e *event) bool { return onNode(f, c, e, nodeChanged) }

type nodeName struct{}

func (nodeName) Name() string { return "NodeName" }

// Fits is true for pods on their way: those with a node name are placed, and
// no longer the scheduler's. It stands for hypothetical questions.
func (nodeName) Fits(c *cycle, n *node) bool {
	return c.pod.obj.Spec.NodeName == "" || c.pod.obj.Spec.NodeName == n.name
}
func (nodeName) Explain(_ *cycle, _ *node, why []string) ([]string, bool) {
	return append(why, "node(s) didn't match the requested node name"), true
}
func (nodeName) Advise(_ *cycle, _ *node, out []change) []change {
	return append(out, change{kind: impossible})
}
func (f nodeName) Helps(c *cycle, e *event) bool { return onNode(f, c, e, nodeChanged) }

type taints struct{}

func (taints) Name() string { return "TaintToleration" }
func (taints) Fits(c *cycle, n *node) bool {
	list := n.obj.Spec.Taints
	for i := range list {
		if list[i].Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(c.pod.obj, &list[i]) {
			return false
		}
	}
	return true
}
func (taints) Explain(_ *cycle, _ *node, why []string) ([]string, bool) {
	return append(why, "node(s) had untolerated taint(s)"), true
}
func (taints) Advise(c *cycle, n *node, out []change) []change {
	list := n.obj.Spec.Taints
	for i := range list {
		if n.obj.Spec.Unschedulable && list[i].Key == corev1.TaintNodeUnschedulable {
			continue // it goes with what unschedulable advises
		}
		if list[i].Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(c.pod.obj, &list[i]) {
			out = append(out, change{kind: tolerate, taint: &list[i]})
		}
	}
	return out
}
func (f taints) Helps(c *cycle, e *event) bool { return onNode(f, c, e, nodeChanged) }

func tolerates(p *corev1.Pod, t *corev1.Taint) bool {
	for i := range p.Spec.Tolerations {
		if p.Spec.Tolerations[i].ToleratesTaint(klog.Logger{}, t, true) {
			return true
		}
	}
	return false
}

type nodeAffinity struct {
	added *nodeaffinity.NodeSelector // on top of the pod's own; nil: nothing
}

func (nodeAffinity) Name() string                  { return "NodeAffinity" }
func (f nodeAffinity) Fits(c *cycle, n *node) bool { return f.addedFits(n) && c.pod.wants(n) }

func (f nodeAffinity) addedFits(n *node) bool { return f.added == nil || f.added.Match(n.obj) }

// wants reports whether a pod's own selector and affinity allow a node.
func (p *pod) wants(n *node) bool {
	if p.nodeAffinity == nil {
		return true
	}
	// An affinity that cannot be read matches no node: validation refuses it.
	ok, err := p.nodeAffinity.Match(n.obj)
	return ok && err == nil
}

func (f nodeAffinity) Explain(_ *cycle, n *node, why []string) ([]string, bool) {
	if !f.addedFits(n) {
		return append(why, "node(s) didn't match scheduler-enforced node affinity"), true
	}
	return append(why, "node(s) didn't match Pod's node affinity/selector"), true
}
func (f nodeAffinity) Advise(c *cycle, n *node, out []change) []change {
	if !f.addedFits(n) {
		out = append(out, change{kind: enforced})
	}
	if !c.pod.wants(n) {
		out = adviseLabels(c.pod.obj, n.obj, out)
	}
	return out
}
func (f nodeAffinity) Helps(c *cycle, e *event) bool { return onNode(f, c, e, nodeChanged) }

type nodePorts struct{}

func (nodePorts) Name() string { return "NodePorts" }
func (nodePorts) Fits(c *cycle, n *node) bool {
	if len(n.ports) == 0 {
		return true
	}
	for _, want := range c.pod.ports {
		if n.taken(want) {
			return false
		}
	}
	return true
}

func (n *node) taken(want hostPort) bool {
	if want.ip != "" {
		any := want
		any.ip = ""
		return n.ports[want] > 0 || n.ports[any] > 0
	}
	for have := range n.ports {
		if have.clashes(want) {
			return true
		}
	}
	return false
}

func (nodePorts) Explain(_ *cycle, _ *node, why []string) ([]string, bool) {
	return append(why, "node(s) didn't have free ports for the requested pod ports"), false
}
func (nodePorts) Advise(c *cycle, n *node, out []change) []change {
	for _, want := range c.pod.ports {
		if n.taken(want) {
			out = append(out, change{kind: freePort, name: string(want.protocol), missing: int64(want.port)})
		}
	}
	return out
}
func (f nodePorts) Helps(c *cycle, e *event) bool {
	return onNode(f, c, e, nodeChanged, podLeft, podChanged) || c.preemptable(f, e)
}

type resources struct{ ignored *ignoredResources }

func (resources) Name() string { return "NodeResourcesFit" }
func (f resources) Fits(c *cycle, n *node) bool {
	want, have, used := &c.pod.request, &n.allocatable, &n.used
	if len(n.pods)+1 > n.maxPods ||
		lacks(want.cpu, have.cpu, used.cpu) || lacks(want.memory, have.memory, used.memory) || lacks(want.storage, have.storage, used.storage) {
		return false
	}
	for name, v := range want.more {
		if lacks(v, have.more[name], used.more[name]) && !f.ignored.has(name) && !c.delegated(n, name) {
			return false
		}
	}
	return true
}

// lacks: a pod that wants nothing fits even where too much is taken already.
func lacks(want, have, used int64) bool { return want > 0 && want > have-used }

// short calls fn with each resource of which the node has too little left.
func (f resources) short(c *cycle, n *node, fn func(name corev1.ResourceName, want, have, used int64)) {
	want, have, used := &c.pod.request, &n.allocatable, &n.used
	for _, r := range [...]struct {
		name             corev1.ResourceName
		want, have, used int64
	}{
		{corev1.ResourceCPU, want.cpu, have.cpu, used.cpu}, {corev1.ResourceMemory, want.memory, have.memory, used.memory},
		{corev1.ResourceEphemeralStorage, want.storage, have.storage, used.storage},
	} {
		if lacks(r.want, r.have, r.used) {
			fn(r.name, r.want, r.have, r.used)
		}
	}
	if len(want.more) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(want.more)) {
		if v := want.more[name]; lacks(v, have.more[name], used.more[name]) && !f.ignored.has(name) && !c.delegated(n, name) {
			fn(name, v, have.more[name], used.more[name])
		}
	}
}

// byOthers: whoever makes the resource puts it into the node's status.
func byOthers(name corev1.ResourceName) bool {
	_, ok := implicit(name)
	return ok || !validate.NativeResource(name)
}

// insufficient spares the text of the usual resources, which is told per node.
func insufficient(name corev1.ResourceName) string {
	switch name {
	case corev1.ResourceCPU:
		return "Insufficient cpu"
	case corev1.ResourceMemory:
		return "Insufficient memory"
	case corev1.ResourceEphemeralStorage:
		return "Insufficient ephemeral-storage"
	}
	return "Insufficient " + string(name)
}

// Explain: what the whole node does not have, no pod's leaving gives.
func (f resources) Explain(c *cycle, n *node, why []string) ([]string, bool) {
	stays := false
	if len(n.pods)+1 > n.maxPods {
		why = append(why, "Too many pods")
	}
	f.short(c, n, func(name corev1.ResourceName, want, have, _ int64) {
		why = append(why, insufficient(name))
		stays = stays || want > have
	})
	return why, stays
}
func (f resources) Advise(c *cycle, n *node, out []change) []change {
	if len(n.pods)+1 > n.maxPods {
		out = append(out, change{kind: fewerPods, missing: int64(len(n.pods) + 1 - n.maxPods)})
	}
	f.short(c, n, func(name corev1.ResourceName, want, have, used int64) {
		kind, missing := freeResource, want-(have-used)
		switch {
		case have == 0 && byOthers(name):
			kind = offered
		case want > have:
			kind, missing = smallerRequest, want-have
		}
		out = append(out, change{kind: kind, name: string(name), missing: missing, of: want})
	})
	return out
}

// Helps: the pod fits now, or could once pods of lower priority made room; or
// devices stand for what it asks for.
func (f resources) Helps(c *cycle, e *event) bool {
	return e.what == deviceClassChanged && c.ofClass(e.name) || onNode(f, c, e, nodeChanged, podLeft, podChanged) || c.preemptable(f, e)
}

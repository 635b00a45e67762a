package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// filter says on which nodes a pod may run.
type filter interface {
	// Name is upstream's name of the plugin.
	Name() string
	// Fits reports whether the pod may run on the node.
	Fits(c *cycle, n *node) bool
	// Explain says why not, in the words that users know from upstream. It is
	// asked only about a node that does not fit.
	Explain(c *cycle, n *node) []string
	// Helps reports whether an event may have made room for a pod that this
	// filter refused somewhere. A yes too many costs a decision, a no too many
	// leaves the pod waiting for ever.
	Helps(c *cycle, e *event) bool
}

// filters in the order in which they are asked: cheap ones that refuse many
// nodes first. The first refusal is the reason that users see.
func filters() []filter {
	return []filter{
		unschedulable{}, nodeName{}, taints{}, nodeAffinity{}, nodePorts{}, resources{}, volumes{}, spread{}, podAffinity{},
	}
}

// cycle is one decision: a pod, the cluster, and what filters and scorers have
// prepared for this pod.
type cycle struct {
	*cluster
	pod *pod

	// refusal is why no node can do, whatever the nodes are like, and
	// refusedBy the filters whose events can change that.
	refusal   string
	refusedBy uint32

	spread []spreadCheck
	// Affinity: the pod's own terms and those of placed pods against it.
	near      []*tally
	nearAlone bool // the pod is the first of its kind and may go anywhere
	apart     []*tally
	awayFrom  []*tally

	claimNodes []*volumeNodes
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
func (unschedulable) Explain(*cycle, *node) []string {
	return []string{"node(s) were unschedulable"}
}
func (f unschedulable) Helps(c *cycle, e *event) bool { return onNode(f, c, e, nodeChanged) }

type nodeName struct{}

func (nodeName) Name() string { return "NodeName" }

// Fits is true for pods on their way: those with a node name are placed, and
// no longer the scheduler's. It stands for hypothetical questions.
func (nodeName) Fits(c *cycle, n *node) bool {
	return c.pod.obj.Spec.NodeName == "" || c.pod.obj.Spec.NodeName == n.name
}
func (nodeName) Explain(*cycle, *node) []string {
	return []string{"node(s) didn't match the requested node name"}
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
func (taints) Explain(*cycle, *node) []string  { return []string{"node(s) had untolerated taint(s)"} }
func (f taints) Helps(c *cycle, e *event) bool { return onNode(f, c, e, nodeChanged) }

func tolerates(p *corev1.Pod, t *corev1.Taint) bool {
	for i := range p.Spec.Tolerations {
		if p.Spec.Tolerations[i].ToleratesTaint(klog.Logger{}, t, true) {
			return true
		}
	}
	return false
}

type nodeAffinity struct{}

func (nodeAffinity) Name() string { return "NodeAffinity" }
func (nodeAffinity) Fits(c *cycle, n *node) bool {
	if c.pod.nodeAffinity == nil {
		return true
	}
	// An affinity that cannot be read matches no node: validation refuses it.
	ok, err := c.pod.nodeAffinity.Match(n.obj)
	return ok && err == nil
}
func (nodeAffinity) Explain(*cycle, *node) []string {
	return []string{"node(s) didn't match Pod's node affinity/selector"}
}
func (f nodeAffinity) Helps(c *cycle, e *event) bool { return onNode(f, c, e, nodeChanged) }

type nodePorts struct{}

func (nodePorts) Name() string { return "NodePorts" }
func (nodePorts) Fits(c *cycle, n *node) bool {
	if len(n.ports) == 0 {
		return true
	}
	for _, want := range c.pod.ports {
		if want.ip != "" {
			any := want
			any.ip = ""
			if n.ports[want] > 0 || n.ports[any] > 0 {
				return false
			}
			continue
		}
		for have := range n.ports {
			if have.clashes(want) {
				return false
			}
		}
	}
	return true
}
func (nodePorts) Explain(*cycle, *node) []string {
	return []string{"node(s) didn't have free ports for the requested pod ports"}
}
func (f nodePorts) Helps(c *cycle, e *event) bool {
	return onNode(f, c, e, nodeChanged, podLeft, podChanged)
}

type resources struct{}

func (resources) Name() string { return "NodeResourcesFit" }
func (resources) Fits(c *cycle, n *node) bool {
	want, have, used := &c.pod.request, &n.allocatable, &n.used
	if len(n.pods)+1 > n.maxPods ||
		lacks(want.cpu, have.cpu, used.cpu) || lacks(want.memory, have.memory, used.memory) || lacks(want.storage, have.storage, used.storage) {
		return false
	}
	for name, v := range want.more {
		if lacks(v, have.more[name], used.more[name]) {
			return false
		}
	}
	return true
}

// lacks: a pod that wants nothing fits even where too much is taken already.
func lacks(want, have, used int64) bool { return want > 0 && want > have-used }

func (resources) Explain(c *cycle, n *node) []string {
	var why []string
	want, have, used := &c.pod.request, &n.allocatable, &n.used
	if len(n.pods)+1 > n.maxPods {
		why = append(why, "Too many pods")
	}
	if lacks(want.cpu, have.cpu, used.cpu) {
		why = append(why, "Insufficient cpu")
	}
	if lacks(want.memory, have.memory, used.memory) {
		why = append(why, "Insufficient memory")
	}
	if lacks(want.storage, have.storage, used.storage) {
		why = append(why, "Insufficient ephemeral-storage")
	}
	for name, v := range want.more {
		if lacks(v, have.more[name], used.more[name]) {
			why = append(why, "Insufficient "+string(name))
		}
	}
	slices.Sort(why)
	return why
}
func (f resources) Helps(c *cycle, e *event) bool {
	return onNode(f, c, e, nodeChanged, podLeft, podChanged)
}

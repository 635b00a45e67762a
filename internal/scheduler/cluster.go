package scheduler

import (
	"cmp"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// cluster is what decisions are made on: nodes and what is left of them, kept
// up to date change by change. It belongs to one goroutine. A change costs
// what it touches, not the size of the cluster.
type cluster struct {
	slots  []*node // nil: free
	free   []int
	byName map[string]*node
	order  []*node // those that pods can go to, zones by turns
	sorted bool    // order is current
	pods   map[types.UID]*pod
	// epoch counts changes that move nodes between topology domains.
	epoch uint64
	clock uint64
	// version counts all changes that decisions may see.
	version uint64

	topologies map[string]*topology
	counters   map[string]*counter
	countersBy pinned[*counter]
	terms      map[string]*term
	termsBy    pinned[*term]

	namespaces map[string]labels.Set
	services   map[string]map[string]labels.Selector // by namespace and name
	owners     map[types.UID]labels.Selector         // of replica sets and the like
	storage
	devices
	claimUsers map[string]int // pods on nodes by claim
	images     map[string]*image

	priorities map[int32]int        // pods on nodes by priority
	budgets    map[string][]*budget // by namespace, sorted by name
	nominees   map[types.UID]*node  // pods that wait for others to leave a node
	// doomed are pods whose deletion was asked for, until the view shows it.
	doomed map[types.UID]bool
}

// node is a node with what its pods leave of it. obj is nil while only pods
// are known that are bound to it.
type node struct {
	name        string
	slot        int
	obj         *corev1.Node
	version     uint64 // the cluster's, when the node or its pods changed last
	allocatable amounts
	maxPods     int

	used        amounts
	scoreCPU    int64
	scoreMemory int64
	pods        map[types.UID]*pod
	ports       map[hostPort]int
	images      []string
	nominated   []*pod // pods without a node for which room is made here
}

// image is one that nodes have.
type image struct {
	size  int64
	nodes map[int]bool // by slot
}

func newCluster() *cluster {
	return &cluster{
		byName: map[string]*node{}, pods: map[types.UID]*pod{}, epoch: 1, version: 1,
		topologies: map[string]*topology{}, counters: map[string]*counter{}, terms: map[string]*term{},
		namespaces: map[string]labels.Set{}, services: map[string]map[string]labels.Selector{}, owners: map[types.UID]labels.Selector{},
		storage: newStorage(), devices: newDevices(), claimUsers: map[string]int{}, images: map[string]*image{},
		priorities: map[int32]int{}, budgets: map[string][]*budget{}, nominees: map[types.UID]*node{}, doomed: map[types.UID]bool{},
	}
}

// setNode takes in a node that is new or has changed.
func (c *cluster) setNode(obj *corev1.Node) (n *node, isNew bool) {
	n = c.nodeNamed(obj.Name)
	c.touch(n)
	old := n.obj
	n.obj = obj
	if old == nil || !maps.Equal(old.Labels, obj.Labels) {
		c.epoch++
		c.sorted = false
	}
	n.allocatable = amountsOf(obj.Status.Allocatable)
	pods := obj.Status.Allocatable[corev1.ResourcePods]
	n.maxPods = int(pods.Value())
	c.setImages(n, obj.Status.Images)
	return n, old == nil
}

// dropNode forgets a node. Its pods stay known, in case it comes back.
func (c *cluster) dropNode(name string) *node {
	n := c.byName[name]
	if n == nil || n.obj == nil {
		return nil
	}
	n.obj = nil
	c.touch(n)
	c.epoch++
	c.sorted = false
	c.setImages(n, nil)
	c.release(n)
	return n
}

func (c *cluster) touch(n *node) {
	c.version++
	n.version = c.version
}

func (c *cluster) nodeNamed(name string) *node {
	if n := c.byName[name]; n != nil {
		return n
	}
	n := &node{name: name, pods: map[types.UID]*pod{}}
	if last := len(c.free) - 1; last >= 0 {
		n.slot = c.free[last]
		c.free = c.free[:last]
		c.slots[n.slot] = n
	} else {
		n.slot = len(c.slots)
		c.slots = append(c.slots, n)
	}
	c.byName[name] = n
	c.epoch++
	return n
}

// release gives up a node that is neither there nor has pods.
func (c *cluster) release(n *node) {
	if n.obj != nil || len(n.pods) > 0 || len(n.nominated) > 0 {
		return
	}
	delete(c.byName, n.name)
	c.slots[n.slot] = nil
	c.free = append(c.free, n.slot)
	c.epoch++
}

func (c *cluster) setImages(n *node, list []corev1.ContainerImage) {
	var names []string
	for _, i := range list {
		names = append(names, i.Names...)
	}
	if slices.Equal(names, n.images) {
		return
	}
	for _, name := range n.images {
		if img := c.images[name]; img != nil {
			if delete(img.nodes, n.slot); len(img.nodes) == 0 {
				delete(c.images, name)
			}
		}
	}
	n.images = names
	for _, i := range list {
		for _, name := range i.Names {
			img := c.images[name]
			if img == nil {
				img = &image{nodes: map[int]bool{}}
				c.images[name] = img
			}
			img.size = max(img.size, i.SizeBytes)
			img.nodes[n.slot] = true
		}
	}
}

// place counts a pod on a node.
func (c *cluster) place(p *pod, name string) *node {
	n := c.nodeNamed(name)
	p.node = n
	n.pods[p.obj.UID] = p
	c.pods[p.obj.UID] = p
	c.account(p, 1)
	return n
}

// remove takes a pod off its node.
func (c *cluster) remove(p *pod) {
	c.account(p, -1)
	delete(p.node.pods, p.obj.UID)
	delete(c.pods, p.obj.UID)
	c.release(p.node)
	p.node = nil
}

func (c *cluster) account(p *pod, sign int64) {
	n := p.node
	c.touch(n)
	n.used.add(p.request, sign)
	n.scoreCPU += sign * p.scoreCPU
	n.scoreMemory += sign * p.scoreMemory
	for _, h := range p.ports {
		if n.ports == nil {
			n.ports = map[hostPort]int{}
		}
		if n.ports[h] += int(sign); n.ports[h] == 0 {
			delete(n.ports, h)
		}
	}
	priority := p.priority()
	if c.priorities[priority] += int(sign); c.priorities[priority] == 0 {
		delete(c.priorities, priority)
	}
	for _, claim := range p.claims {
		if c.claimUsers[claim] += int(sign); c.claimUsers[claim] == 0 {
			delete(c.claimUsers, claim)
		}
	}
	c.count(p.obj, n, int32(sign))
	c.carry(p, n, int32(sign))
}

// candidates are the nodes that pods can go to, ordered so that neighbours are
// in different zones: a decision that looks at a part of them sees all zones.
func (c *cluster) candidates() []*node {
	if c.sorted {
		return c.order
	}
	c.sorted = true
	zones := map[string][]*node{}
	for _, n := range c.slots {
		if n != nil && n.obj != nil {
			zone := n.obj.Labels[corev1.LabelTopologyZone]
			zones[zone] = append(zones[zone], n)
		}
	}
	names := slices.Sorted(maps.Keys(zones))
	for _, z := range names {
		slices.SortFunc(zones[z], func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	}
	c.order = c.order[:0]
	for i := 0; len(names) > 0; i++ {
		names = slices.DeleteFunc(names, func(z string) bool { return i >= len(zones[z]) })
		for _, z := range names {
			c.order = append(c.order, zones[z][i])
		}
	}
	return c.order
}

// setNamespace takes in the labels that namespace selectors look at.
func (c *cluster) setNamespace(name string, set map[string]string) (changed bool) {
	if old, ok := c.namespaces[name]; ok && maps.Equal(old, set) {
		return false
	}
	c.namespaces[name] = set
	for key, k := range c.counters {
		if slices.ContainsFunc(k.all, func(s *selector) bool { return s.others != nil }) {
			c.dropCounter(key)
		}
	}
	return true
}

// setOwner takes in the selector of something that owns pods, for spreading
// pods that ask for nothing; nil: it is gone.
func (c *cluster) setOwner(o kinds.Object, gone bool) {
	if gone {
		delete(c.owners, o.GetUID())
		return
	}
	var sel labels.Selector
	switch o := o.(type) {
	case *appsv1.ReplicaSet:
		sel = parse(o.Spec.Selector)
	case *appsv1.StatefulSet:
		sel = parse(o.Spec.Selector)
	case *corev1.ReplicationController:
		sel = labels.SelectorFromSet(o.Spec.Selector)
	}
	c.owners[o.GetUID()] = sel
}

func (c *cluster) setService(svc *corev1.Service, gone bool) {
	all := c.services[svc.Namespace]
	if gone || len(svc.Spec.Selector) == 0 {
		if delete(all, svc.Name); len(all) == 0 {
			delete(c.services, svc.Namespace)
		}
		return
	}
	if all == nil {
		all = map[string]labels.Selector{}
		c.services[svc.Namespace] = all
	}
	all[svc.Name] = labels.SelectorFromSet(svc.Spec.Selector)
}

// siblings finds the pods that one is to be spread with when it says nothing:
// those that all services of the pod and its owner select together. nil: none.
func (c *cluster) siblings(p *corev1.Pod) *selector {
	var reqs []labels.Requirement
	names := make([]string, 0, 4)
	for name, sel := range c.services[p.Namespace] {
		if sel.Matches(labels.Set(p.Labels)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		r, _ := c.services[p.Namespace][name].Requirements()
		reqs = append(reqs, r...)
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		if sel := c.owners[ref.UID]; sel != nil {
			r, _ := sel.Requirements()
			reqs = append(reqs, r...)
		}
	}
	if len(reqs) == 0 {
		return nil
	}
	slices.SortFunc(reqs, func(a, b labels.Requirement) int { return cmp.Compare(a.String(), b.String()) })
	reqs = slices.CompactFunc(reqs, func(a, b labels.Requirement) bool { return a.Equal(b) })
	return ownSelector(p.Namespace, labels.NewSelector().Add(reqs...))
}

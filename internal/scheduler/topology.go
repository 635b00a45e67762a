package scheduler

import corev1 "k8s.io/api/core/v1"

const (
	// maxTopologies and maxCounters bound what is kept for topology keys and
	// selectors that pods name; what is dropped is counted anew when needed.
	maxTopologies = 256
	maxCounters   = 1024
)

// topology numbers the domains that a label of nodes makes.
type topology struct {
	key   string
	epoch uint64
	ids   []int32 // domain by slot of the node; -1: none
	sizes []int32 // nodes in each domain
	nodes int     // in all domains
	names map[string]int32
}

// topology returns the domains of a label as nodes have it now.
func (c *cluster) topology(key string) *topology {
	t := c.topologies[key]
	if t == nil {
		if len(c.topologies) >= maxTopologies {
			clear(c.topologies)
		}
		t = &topology{key: key}
		c.topologies[key] = t
	}
	t.refresh(c)
	return t
}

func (t *topology) refresh(c *cluster) {
	if t.epoch == c.epoch {
		return
	}
	t.epoch = c.epoch
	t.ids, t.sizes, t.names, t.nodes = make([]int32, len(c.slots)), nil, map[string]int32{}, 0
	for slot, n := range c.slots {
		t.ids[slot] = -1
		if n == nil || n.obj == nil {
			continue
		}
		value, ok := n.obj.Labels[t.key]
		if !ok {
			continue
		}
		id, ok := t.names[value]
		if !ok {
			id = int32(len(t.sizes))
			t.names[value] = id
			t.sizes = append(t.sizes, 0)
		}
		t.ids[slot] = id
		t.sizes[id]++
		t.nodes++
	}
}

// of is the domain of a node, or -1.
func (t *topology) of(n *node) int32 { return t.ids[n.slot] }

// spots counts pods per node, and per domain of the topologies that are asked
// for.
type spots struct {
	perNode []int32
	total   int
	tallies map[string]*tally
}

// tally is a count per domain, kept while no node comes, goes or changes its
// labels, and counted anew then.
type tally struct {
	topology *topology
	epoch    uint64
	counts   []int32
	sum      int // over all domains
}

func (s *spots) add(c *cluster, slot int, by int32) {
	if slot >= len(s.perNode) {
		grown := make([]int32, len(c.slots))
		copy(grown, s.perNode)
		s.perNode = grown
	}
	s.perNode[slot] += by
	s.total += int(by)
	for _, t := range s.tallies {
		if t.epoch != c.epoch {
			continue
		}
		if id := t.topology.ids[slot]; id >= 0 {
			t.counts[id] += by
			t.sum += int(by)
		}
	}
}

// on is the count on one node.
func (s *spots) on(n *node) int32 {
	if n.slot < len(s.perNode) {
		return s.perNode[n.slot]
	}
	return 0
}

// tally per domain of the topology key.
func (s *spots) tally(c *cluster, key string) *tally {
	t := s.tallies[key]
	if t == nil {
		t = &tally{}
		if s.tallies == nil {
			s.tallies = make(map[string]*tally, 1)
		}
		s.tallies[key] = t
	}
	if t.epoch == c.epoch && t.topology != nil {
		return t
	}
	t.topology, t.epoch, t.sum = c.topology(key), c.epoch, 0
	t.counts = make([]int32, len(t.topology.sizes))
	for slot, n := range s.perNode {
		if n == 0 || slot >= len(t.topology.ids) {
			continue
		}
		if id := t.topology.ids[slot]; id >= 0 {
			t.counts[id] += n
			t.sum += int(n)
		}
	}
	return t
}

// at is the count in the node's domain; ok is false if it is in none.
func (t *tally) at(n *node) (count int32, ok bool) {
	id := t.topology.ids[n.slot]
	if id < 0 {
		return 0, false
	}
	return t.counts[id], true
}

// counter counts the pods on nodes that all of its selectors find.
type counter struct {
	spots
	all  []*selector
	live bool // pods that are being deleted do not count
	used uint64
}

func counterKey(all []*selector, live bool) string {
	key := "a"
	if live {
		key = "l"
	}
	for _, s := range all {
		key += "&" + s.key
	}
	return key
}

func (k *counter) counts(c *cluster, p *corev1.Pod) bool {
	if k.live && p.DeletionTimestamp != nil {
		return false
	}
	for _, s := range k.all {
		if !s.finds(c, p) {
			return false
		}
	}
	return true
}

// counter returns the running count of the pods that all selectors find. The
// first time it looks at every pod; from then on at those that come and go.
func (c *cluster) counter(live bool, all ...*selector) *counter {
	key := counterKey(all, live)
	k := c.counters[key]
	if k == nil {
		if len(c.counters) >= maxCounters {
			c.forgetCounter()
		}
		k = &counter{all: all, live: live}
		for _, p := range c.pods {
			if k.counts(c, p.obj) {
				k.add(c, p.node.slot, 1)
			}
		}
		c.counters[key] = k
		c.countersBy.add(all[0], k)
	}
	c.clock++
	k.used = c.clock
	return k
}

// forgetCounter drops the one that has not been used for the longest time.
func (c *cluster) forgetCounter() {
	var oldest string
	for key, k := range c.counters {
		if oldest == "" || k.used < c.counters[oldest].used {
			oldest = key
		}
	}
	c.dropCounter(oldest)
}

func (c *cluster) dropCounter(key string) {
	k := c.counters[key]
	delete(c.counters, key)
	c.countersBy.remove(k.all[0], k)
}

// count tells the counters that a pod came to a node or left it.
func (c *cluster) count(p *corev1.Pod, n *node, by int32) {
	c.countersBy.each(p, func(k *counter) {
		if k.counts(c, p) {
			k.add(c, n.slot, by)
		}
	})
}

// termKind says what a pod that is placed wants of those that come.
type termKind byte

const (
	keepsAway termKind = iota // required anti-affinity
	wantsNear                 // required affinity
	likesNear                 // preferred affinity, or anti-affinity with a negative weight
)

// term is an affinity term that pods on nodes have, with where they are. It is
// shared by all pods with the same term.
type term struct {
	spots
	*affinityTerm
	refs int
}

// affinityTerm is one parsed term of a pod.
type affinityTerm struct {
	key         string
	kind        termKind
	weight      int32 // of likesNear
	topologyKey string
	selector    *selector
}

// carry tells the cluster that a pod with these terms came to a node or left it.
func (c *cluster) carry(p *pod, n *node, by int32) {
	for _, a := range p.carried {
		t := c.terms[a.key]
		if t == nil {
			t = &term{affinityTerm: a}
			c.terms[a.key] = t
			c.termsBy.add(a.selector, t)
		}
		t.add(c, n.slot, by)
		if t.refs += int(by); t.refs == 0 {
			delete(c.terms, a.key)
			c.termsBy.remove(t.selector, t)
		}
	}
}

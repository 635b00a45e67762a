package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// spread holds topology spread constraints with DoNotSchedule.
type spread struct{}

// spreadCheck is one constraint with the counts that decide about each node.
type spreadCheck struct {
	*spreadRule
	topology *topology
	counts   []int32 // per domain
	nodes    []int32 // that count, per domain
	own      bool    // counts are this cycle's, not the running ones
	least    int32   // the smallest count, or 0 with fewer domains than minDomains
	self     int32   // 1 if the pod counts itself
}

func (spread) Name() string { return "PodTopologySpread" }

// hardRules are the constraints that must hold for the pod.
func (c *cycle) hardRules() (hard []*spreadRule) {
	rules := c.pod.spread
	if len(rules) == 0 && c.rules.spreadHard {
		rules = c.defaultRules(true)
	}
	for i := range rules {
		if rules[i].hard {
			hard = append(hard, &rules[i])
		}
	}
	return hard
}

func (c *cycle) prepareSpread() {
	c.hard = c.hardRules()
	for _, r := range c.hard {
		c.spread = append(c.spread, c.spreadCheck(r))
	}
}

func (c *cycle) spreadCheck(r *spreadRule) spreadCheck {
	k := c.counter(true, r.selector)
	s := spreadCheck{spreadRule: r, topology: c.topology(r.topologyKey)}
	if r.selector.finds(c.cluster, c.pod.obj) {
		s.self = 1
	}
	s.nodes = s.topology.sizes
	if c.allCount(r, c.hard) {
		s.counts = k.tally(c.cluster, r.topologyKey).counts
	} else {
		s.own = true
		s.counts, s.nodes = make([]int32, len(s.topology.sizes)), make([]int32, len(s.topology.sizes))
		for _, n := range c.candidates() {
			if id := s.topology.of(n); id >= 0 && c.included(r, c.hard, n) {
				s.nodes[id]++
				s.counts[id] += k.on(n)
			}
		}
	}
	s.findLeast()
	return s
}

func (s *spreadCheck) findLeast() {
	s.least = math.MaxInt32
	domains := int32(0)
	for id, size := range s.nodes {
		if size > 0 {
			domains++
			s.least = min(s.least, s.counts[id])
		}
	}
	if domains < s.minDomains || domains == 0 {
		s.least = 0
	}
}

// shift follows a pod that came to a node or left it.
func (s *spreadCheck) shift(c *cycle, p *pod, n *node, by int32) {
	if p.obj.DeletionTimestamp != nil || !s.selector.finds(c.cluster, p.obj) {
		return
	}
	if id := s.topology.of(n); s.own && id >= 0 && c.included(s.spreadRule, c.hard, n) {
		s.counts[id] += by
	}
	s.findLeast()
}

// allCount reports whether every node with the label counts, so that the
// running counts can be taken as they are.
func (c *cycle) allCount(r *spreadRule, all []*spreadRule) bool {
	if r.honorTaints || r.honorNodes && c.pod.nodeAffinity != nil {
		return false
	}
	for _, other := range all {
		if other.topologyKey != r.topologyKey && !c.sameNodes(r.topologyKey, other.topologyKey) {
			return false
		}
	}
	return true
}

// sameNodes reports whether every node has both labels, as is usual.
func (c *cycle) sameNodes(a, b string) bool {
	all := len(c.candidates())
	return c.topology(a).nodes == all && c.topology(b).nodes == all
}

// included reports whether a node and its pods count for a constraint.
func (c *cycle) included(r *spreadRule, all []*spreadRule, n *node) bool {
	for _, other := range all {
		if c.topology(other.topologyKey).of(n) < 0 {
			return false
		}
	}
	if r.honorNodes && !c.pod.wants(n) {
		return false
	}
	return !r.honorTaints || taints{}.Fits(c, n)
}

func (s *spreadCheck) fits(n *node) bool {
	id := s.topology.of(n)
	return id >= 0 && s.counts[id]+s.self-s.least <= s.maxSkew
}

func (spread) Fits(c *cycle, n *node) bool {
	for i := range c.spread {
		if !c.spread[i].fits(n) {
			return false
		}
	}
	return true
}

func (spread) Explain(c *cycle, n *node, why []string) ([]string, bool) {
	for i := range c.spread {
		if c.spread[i].topology.of(n) < 0 {
			return append(why, "node(s) didn't match pod topology spread constraints (missing required label)"), true
		}
		if !c.spread[i].fits(n) {
			break
		}
	}
	return append(why, "node(s) didn't match pod topology spread constraints"), false
}

func (spread) Advise(c *cycle, n *node, out []change) []change {
	for i := range c.spread {
		s := &c.spread[i]
		switch id := s.topology.of(n); {
		case id < 0:
			out = append(out, change{kind: anyLabel, name: s.topologyKey})
		case !s.fits(n):
			out = append(out, change{kind: lessSkew, name: s.topologyKey, value: n.obj.Labels[s.topologyKey], missing: int64(s.counts[id] + s.self - s.least - s.maxSkew)})
		}
	}
	return out
}

// Helps: a pod that counts came, went or changed, or the domains did.
func (spread) Helps(c *cycle, e *event) bool {
	switch e.what {
	case nodeChanged:
		return true
	case podCame, podLeft, podChanged:
		hard := c.hardRules()
		return e.touches(func(other *corev1.Pod) bool {
			return slices.ContainsFunc(hard, func(r *spreadRule) bool { return r.selector.finds(c.cluster, other) })
		})
	}
	return false
}

package scheduler

import (
	corev1 "k8s.io/api/core/v1"
)

// podAffinity holds required inter-pod affinity and anti-affinity, the pod's
// own and that of placed pods against it.
type podAffinity struct{}

func (podAffinity) Name() string { return "InterPodAffinity" }

// prepareAffinity looks up the counts that decide about each node.
func (c *cycle) prepareAffinity() {
	p := c.pod
	c.prepareAway()
	for _, a := range p.apart {
		c.apart = append(c.apart, c.counter(false, a.selector).tally(c.cluster, a.topologyKey))
	}
	if len(p.near) == 0 {
		return
	}
	// A placed pod is a neighbour only if all of the terms find it.
	all := make([]*selector, 0, len(p.near))
	c.nearSelf = true
	for _, a := range p.near {
		all = append(all, a.selector)
		c.nearSelf = c.nearSelf && a.selector.finds(c.cluster, p.obj)
	}
	together := c.counter(false, all...)
	for _, a := range p.near {
		c.near = append(c.near, together.tally(c.cluster, a.topologyKey))
	}
}

// prepareAway finds the placed pods that keep this one away.
func (c *cycle) prepareAway() {
	c.awayFrom = c.awayFrom[:0]
	c.termsBy.each(c.pod.obj, func(t *term) {
		if t.kind == keepsAway && t.selector.finds(c.cluster, c.pod.obj) {
			c.awayFrom = append(c.awayFrom, t.tally(c.cluster, t.topologyKey))
		}
	})
}

// nearAlone: otherwise the first pod of a group that wants to be together
// could never start.
func (c *cycle) nearAlone() bool {
	if !c.nearSelf {
		return false
	}
	for _, t := range c.near {
		if t.sum > 0 {
			return false
		}
	}
	return true
}

func (podAffinity) Fits(c *cycle, n *node) bool {
	return c.nearOthers(n) && c.apartFrom(c.apart, n) && c.apartFrom(c.awayFrom, n)
}

func (c *cycle) nearOthers(n *node) bool {
	for _, t := range c.near {
		count, ok := t.at(n)
		if !ok || count == 0 && !c.nearAlone() {
			return false
		}
	}
	return true
}

func (c *cycle) apartFrom(list []*tally, n *node) bool {
	for _, t := range list {
		if count, _ := t.at(n); count > 0 {
			return false
		}
	}
	return true
}

func (podAffinity) Explain(c *cycle, n *node, why []string) ([]string, bool) {
	switch {
	case !c.nearOthers(n):
		return append(why, "node(s) didn't match pod affinity rules"), true
	case !c.apartFrom(c.apart, n):
		return append(why, "node(s) didn't match pod anti-affinity rules"), false
	}
	return append(why, "node(s) didn't satisfy existing pods anti-affinity rules"), false
}

func (podAffinity) Advise(c *cycle, n *node, out []change) []change {
	for i, t := range c.near {
		a := c.pod.near[i]
		switch count, ok := t.at(n); {
		case !ok:
			out = append(out, change{kind: anyLabel, name: a.topologyKey})
		case count == 0 && !c.nearAlone():
			out = append(out, change{kind: neighbour, name: a.topologyKey, value: n.obj.Labels[a.topologyKey]})
		}
	}
	for _, list := range [...][]*tally{c.apart, c.awayFrom} {
		for _, t := range list {
			if count, _ := t.at(n); count > 0 {
				out = append(out, change{kind: noNeighbour, name: t.topology.key, value: n.obj.Labels[t.topology.key], missing: int64(count)})
			}
		}
	}
	return out
}

// Helps: a pod that one of the terms finds came or went, a placed pod whose
// term finds this one went, or the domains changed.
func (podAffinity) Helps(c *cycle, e *event) bool {
	switch e.what {
	case nodeChanged:
		return true
	case podCame, podLeft, podChanged:
		return e.touches(func(other *corev1.Pod) bool {
			for _, list := range [...][]*affinityTerm{c.pod.near, c.pod.apart} {
				for _, a := range list {
					if a.selector.finds(c.cluster, other) {
						return true
					}
				}
			}
			return false
		}) || e.what != podCame && e.keptAway(c)
	case namespaceChanged:
		return len(c.pod.near) > 0 || len(c.pod.apart) > 0 || len(c.termsBy.loose) > 0
	}
	return false
}

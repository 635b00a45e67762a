package scheduler

// trial asks what would be if pods came to a node or left it. It changes the
// cluster and the cycle in place, which costs what the pods touch and no copy;
// undo puts everything back, and must be deferred: a filter may panic.
type trial struct {
	cycle *cycle
	node  *node
	done  []tried
}

// tried is a pod that was put on the node or taken off it.
type tried struct {
	pod *pod
	put bool
}

func (t *trial) put(p *pod) {
	t.shift(p, true)
	t.done = append(t.done, tried{p, true})
}

func (t *trial) take(p *pod) {
	t.shift(p, false)
	t.done = append(t.done, tried{p, false})
}

func (t *trial) undo() {
	for i := len(t.done) - 1; i >= 0; i-- {
		t.shift(t.done[i].pod, !t.done[i].put)
	}
	t.done = t.done[:0]
}

func (t *trial) shift(p *pod, put bool) {
	by := int32(1)
	if put {
		t.cycle.place(p, t.node.name)
	} else {
		by = -1
		t.cycle.remove(p)
	}
	t.cycle.shift(p, t.node, by)
}

// shift makes what the cycle has prepared follow a pod that came to a node or
// left it. Running counts do so themselves.
func (c *cycle) shift(p *pod, n *node, by int32) {
	for i := range c.spread {
		c.spread[i].shift(c, p, n, by)
	}
	if len(p.apart) > 0 {
		c.prepareAway()
	}
}

// keep puts the pods on the node that are nominated to it and to which the
// cycle's pod must yield. It reports whether there are any.
func (t *trial) keep() bool {
	for _, p := range t.node.nominated {
		if p.obj.UID != t.cycle.pod.obj.UID && p.priority() >= t.cycle.pod.priority() {
			t.put(p)
		}
	}
	return len(t.done) > 0
}

// kept marks a refusal that is only so because of pods that are nominated.
const kept = 1 << 6

// refuses returns the first filter that does not let the pod onto the node, or
// -1. Where room is kept for others, the pod must fit with them and without
// them: they are not there yet and may never come.
func (d *decider) refuses(cy *cycle, n *node) int8 {
	if len(n.nominated) > 0 {
		t := trial{cycle: cy, node: n}
		defer t.undo()
		if t.keep() {
			if refused := d.first(cy, n); refused >= 0 {
				return refused | kept
			}
			t.undo()
		}
	}
	return d.first(cy, n)
}

func (d *decider) first(cy *cycle, n *node) int8 {
	if refused := cy.view(n).refused; refused >= 0 {
		return refused
	}
	if refused := first(cy, n, d.filters[len(cy.alone):]); refused >= 0 {
		return refused + int8(len(cy.alone))
	}
	return -1
}

func first(cy *cycle, n *node, filters []filter) int8 {
	for i, f := range filters {
		if !f.Fits(cy, n) {
			return int8(i)
		}
	}
	return -1
}

// asRefused calls fn with the filter of a refusal, and the cluster as it was
// when the filter was asked.
func (d *decider) asRefused(cy *cycle, n *node, refused int8, fn func(filter)) {
	if refused&kept != 0 {
		t := trial{cycle: cy, node: n}
		defer t.undo()
		t.keep()
	}
	fn(d.filters[refused&^kept])
}

// nominate keeps room for a pod on a node, for which others had to go.
func (c *cluster) nominate(p *pod, name string) {
	c.withdraw(p)
	n := c.nodeNamed(name)
	c.version++
	n.nominated = append(n.nominated, p)
	c.nominees[p.obj.UID] = n
}

// withdraw ends a nomination and returns the node, or nil.
func (c *cluster) withdraw(p *pod) *node {
	n := c.nominees[p.obj.UID]
	if n == nil {
		return nil
	}
	c.version++
	delete(c.nominees, p.obj.UID)
	for i, other := range n.nominated {
		if other.obj.UID == p.obj.UID {
			n.nominated = append(n.nominated[:i:i], n.nominated[i+1:]...)
			break
		}
	}
	c.release(n)
	return n
}

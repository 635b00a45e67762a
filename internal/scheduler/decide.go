package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// decision about one pod.
type decision struct {
	node *node
	// Otherwise: why, for the user, and the filters that refused nodes, a bit
	// each in the order of filters().
	why     string
	refused uint32
}

// decider finds nodes for pods. It keeps buffers and where the next search
// begins; everything that a decision rests on is in the cluster.
type decider struct {
	filters []filter
	scorers []scorer
	next    int
	rand    *rand.Rand
	told    func(part, status string, took time.Duration) // may be nil

	feasible []*node
	failed   []int8 // by position in the search: the filter that refused
	out      []float64
	total    []float64
}

func newDecider(rng *rand.Rand) *decider {
	return &decider{filters: filters(), scorers: scorers(), rand: rng}
}

func (d *decider) cycle(c *cluster, p *pod) *cycle {
	cy := &cycle{cluster: c, pod: p}
	if len(p.obj.Spec.ResourceClaims) > 0 {
		cy.refusal = "dynamic resource allocation is not supported: spec.resourceClaims cannot be satisfied"
		return cy // nothing that happens to the cluster can help
	}
	if cy.prepareVolumes(); cy.refusal != "" {
		cy.refusedBy = d.bit(volumes{}.Name())
		return cy
	}
	cy.prepareSpread()
	cy.prepareAffinity()
	return cy
}

// decide picks the best node for the pod among those that fit.
func (d *decider) decide(c *cluster, p *pod) decision {
	nodes := c.candidates()
	if len(nodes) == 0 {
		return decision{why: "no nodes available to schedule pods", refused: ^uint32(0)}
	}
	cy := d.cycle(c, p)
	if cy.refusal != "" {
		return decision{why: fmt.Sprintf("0/%d nodes are available: %s.", len(nodes), cy.refusal), refused: cy.refusedBy}
	}
	began := time.Now()
	d.search(cy, nodes)
	switch len(d.feasible) {
	case 0:
		d.tell("Filter", "Unschedulable", began)
		return d.explain(cy, nodes)
	case 1:
		d.tell("Filter", "Success", began)
		return decision{node: d.feasible[0]}
	}
	d.tell("Filter", "Success", began)
	began = time.Now()
	best := d.pick(cy)
	d.tell("Score", "Success", began)
	return decision{node: best}
}

// tell how long a part of the decision took; it decides nothing, so it may
// look at the clock.
func (d *decider) tell(part, status string, began time.Time) {
	if d.told != nil {
		d.told(part, status, time.Since(began))
	}
}

// search fills feasible with enough nodes that fit, beginning where the last
// search ended, so that all nodes get their turn.
func (d *decider) search(cy *cycle, nodes []*node) {
	d.feasible, d.failed = d.feasible[:0], d.failed[:0]
	enough := sample(len(nodes))
	start := d.next % len(nodes)
	looked := 0
	for looked < len(nodes) && len(d.feasible) < enough {
		n := nodes[(start+looked)%len(nodes)]
		looked++
		refused := int8(-1)
		for i, f := range d.filters {
			if !f.Fits(cy, n) {
				refused = int8(i)
				break
			}
		}
		d.failed = append(d.failed, refused)
		if refused < 0 {
			d.feasible = append(d.feasible, n)
		}
	}
	if len(d.feasible) == 0 {
		return // explain reads d.failed from the same start
	}
	d.next = (start + looked) % len(nodes)
}

// sample is how many fitting nodes are enough: all of up to 100, then a share
// that falls from half to a twentieth, as upstream.
func sample(nodes int) int {
	const all = 100
	if nodes <= all {
		return nodes
	}
	percent := max(50-nodes/125, 5)
	return max(nodes*percent/100, all)
}

// pick is the feasible node with the highest score; among equals, any.
func (d *decider) pick(cy *cycle) *node {
	n := len(d.feasible)
	d.total = append(d.total[:0], make([]float64, n)...)
	d.out = append(d.out[:0], make([]float64, n)...)
	for _, s := range d.scorers {
		if s.score(cy, d.feasible, d.out) {
			for i, v := range d.out {
				d.total[i] += s.weight * v
			}
		}
	}
	top, ties := 0, 1
	for i := 1; i < n; i++ {
		switch {
		case d.total[i] > d.total[top]:
			top, ties = i, 1
		case d.total[i] == d.total[top]:
			if ties++; d.rand.IntN(ties) == 0 {
				top = i
			}
		}
	}
	return d.feasible[top]
}

// explain says why no node fits, from the refusals of the last search.
func (d *decider) explain(cy *cycle, nodes []*node) decision {
	reasons := map[string]int{}
	var dec decision
	start := d.next % len(nodes)
	for i, f := range d.failed {
		dec.refused |= 1 << f
		for _, r := range d.filters[f].Explain(cy, nodes[(start+i)%len(nodes)]) {
			reasons[r]++
		}
	}
	dec.why = message(len(nodes), reasons)
	return dec
}

// message is upstream's form: counts per reason, sorted as text.
func message(nodes int, reasons map[string]int) string {
	parts := make([]string, 0, len(reasons))
	for _, r := range slices.Sorted(maps.Keys(reasons)) {
		parts = append(parts, fmt.Sprintf("%d %s", reasons[r], r))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}

func (d *decider) bit(name string) uint32 {
	for i, f := range d.filters {
		if f.Name() == name {
			return 1 << i
		}
	}
	return 0
}

// helps reports whether an event may have made room for a pod that the
// filters in refused turned away.
func (d *decider) helps(c *cluster, p *pod, refused uint32, e *event) bool {
	cy := &cycle{cluster: c, pod: p}
	for i, f := range d.filters {
		if refused&(1<<i) != 0 && f.Helps(cy, e) {
			return true
		}
	}
	return false
}

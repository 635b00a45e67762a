package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/cel"
)

// decision about one pod.
type decision struct {
	node *node
	// wanted has to be bound or made for the pod first; nil: nothing.
	wanted *outcome
	grants []grant // claims to devices that the pod must have first
	// Otherwise: why, for the user, what preemption says, and what would help;
	// and the filters that refused nodes, a bit each in the order of filters().
	why        string
	preemption string
	remedies   []remedy
	refused    uint32
	room       *room // to be made for the pod
	lost       bool  // a nomination of before is of no use
	err        error // an extender failed: nothing is known

	deallocation string                    // what becomes of the devices that its claims have
	idle         *resourcev1.ResourceClaim // is to give its devices back; nil: none
	stale        *resourcev1.ResourceClaim // is to be deleted; nil: none
	early, soon  bool                      // see cycle
}

// maxMessage bounds what is said of a pod: as much as an event may hold.
const maxMessage = 1024

// message is upstream's text, which clients match on, and then the advice.
func (d *decision) message() string {
	s := d.why
	if d.deallocation != "" {
		s += " " + d.deallocation
	}
	if d.preemption != "" {
		s += separator(d.deallocation) + " preemption: " + d.preemption
	}
	// As many as there is room for.
	for list := d.remedies; len(list) > 0; list = list[:len(list)-1] {
		if advice := " " + adviceText(list); len(s)+len(advice) <= maxMessage {
			s += advice
			break
		}
	}
	return cut(s)
}

// separator is between what several plugins say of a pod that fits nowhere.
func separator(before string) string {
	if before != "" {
		return ","
	}
	return ""
}

func cut(s string) string {
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage-len(" ...")], "") + " ..."
	}
	return s
}

// decider finds nodes for the pods of one profile. It keeps buffers and where the
// next search begins; everything that a decision rests on is in the cluster,
// and with extenders.
type decider struct {
	rules   *rules
	filters []filter // the profile's, and the extenders'
	outside *outside // nil: there are no extenders
	classes classes
	next    int
	rand    *rand.Rand
	told    func(part, status string, took time.Duration) // may be nil

	noVolumes podVolumes // see volumesOf
	selectors *cel.Cache // of devices

	feasible []*node
	looked   []*node // in the order of the search
	failed   []int8  // by position in looked: the filter that refused, perhaps with kept
	stays    []bool  // by position in looked: whatever pods leave the node
	inRooms  uint32  // the filters that refused even then
	out      []float64
	total    []float64
}

func deciderBy(r *rules, out *outside, rng *rand.Rand) *decider {
	d := &decider{rules: r, filters: r.filters, outside: out, rand: rng, selectors: newSelectors()}
	if out.filters() {
		d.filters = append(slices.Clone(d.filters), extended{})
	}
	return d
}

func (d *decider) cycle(c *cluster, p *pod, cl *class) *cycle {
	cy := &cycle{cluster: c, pod: p, class: cl, rules: d.rules, alone: d.filters[:d.rules.alone], podVolumes: d.volumesOf(p)}
	if cy.needsDevices() {
		if cy.prepareDevices(d.selectors); cy.refusal != "" {
			cy.refusedBy = d.bit(dynamicResources{}.Name())
			return cy
		}
	}
	if d.rules.namesNodes {
		cy.onlyNodes = p.onlyNodes
	}
	if cy.onlyNodes != nil && len(cy.onlyNodes) == 0 {
		cy.refusal = "pod affinity terms conflict"
		return cy
	}
	if cy.prepareVolumes(); cy.refusal != "" {
		cy.refusedBy = d.bit(volumes{}.Name())
		return cy
	}
	cy.prepareSpread()
	cy.prepareAffinity()
	return cy
}

// decide picks the best node for the pod among those that fit, or says what
// keeps it from all of them and which pods would have to go.
func (d *decider) decide(c *cluster, p *pod) decision {
	if len(c.candidates()) == 0 {
		return decision{why: "no nodes available to schedule pods", refused: ^uint32(0)}
	}
	cl := d.classes.of(p)
	waits := c.nominees[p.obj.UID] != nil || c.staleClaim(p) != nil // for others to leave, or for its own claim to go
	if cl.failedAt == c.version && !waits {
		return cl.failed
	}
	dec := d.evaluate(c, p, cl)
	if dec.node == nil && dec.room == nil && !waits && !d.outside.decides(p) {
		cl.failed, cl.failedAt = dec, c.version
	}
	return dec
}

func (d *decider) evaluate(c *cluster, p *pod, cl *class) decision {
	cy := d.cycle(c, p, cl)
	d.inRooms = 0
	if cy.refusal != "" {
		d.looked, d.failed, d.stays = d.looked[:0], d.failed[:0], d.stays[:0]
		dec := decision{why: fmt.Sprintf("0/%d nodes are available: %s.", len(c.candidates()), cy.refusal), refused: cy.refusedBy, early: cy.early, soon: cy.soon}
		if cy.podDevices != nil {
			dec.deallocation = "no new claims to deallocate"
		}
		dec.room, dec.preemption, dec.lost = d.preempt(cy)
		return dec
	}
	// Others had to go for it: that node first, whatever the scores say.
	if n := c.nominees[p.obj.UID]; n != nil && n.obj != nil && d.refuses(cy, n) < 0 && d.outside.agrees(cy, n) {
		return placement(cy, n)
	}
	began := time.Now()
	d.search(cy, cy.targets())
	if err := d.consult(cy); err != nil {
		d.tell("Filter", "Error", began)
		return decision{err: err}
	}
	switch len(d.feasible) {
	case 0:
		dec := d.explain(cy)
		d.tell("Filter", "Unschedulable", began)
		began = time.Now()
		if cy.podDevices != nil {
			// Rather this than that some pod goes.
			dec.deallocation = "still not schedulable"
			if dec.idle = d.idle(cy); dec.idle != nil {
				dec.deallocation = "deallocation of ResourceClaim completed"
			} else if dec.stale = cy.podDevices.stale; dec.stale != nil {
				dec.deallocation = "deletion of ResourceClaim completed"
			}
		}
		dec.room, dec.preemption, dec.lost = d.preempt(cy)
		dec.refused |= d.inRooms // their events may make preemption possible
		status := "Unschedulable"
		if dec.room != nil {
			status = "Success"
		} else {
			dec.remedies = d.advice(cy)
		}
		d.tell("PostFilter", status, began)
		return dec
	case 1:
		d.tell("Filter", "Success", began)
		return placement(cy, d.feasible[0])
	}
	d.tell("Filter", "Success", began)
	began = time.Now()
	best := d.pick(cy)
	d.tell("Score", "Success", began)
	return placement(cy, best)
}

// placement is a decision for a node.
func placement(cy *cycle, n *node) decision {
	return decision{node: n, wanted: cy.wantedVolumes(n), grants: cy.grants(n)}
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
	d.feasible, d.looked, d.failed = d.feasible[:0], d.looked[:0], d.failed[:0]
	enough := sample(len(nodes), d.rules.percent)
	if d.rules.anyNodeServes && !d.outside.compares() {
		enough = 1
	}
	at := 0
	if len(nodes) > 0 {
		at = d.next % len(nodes)
	}
	for len(d.looked) < len(nodes) && len(d.feasible) < enough {
		n := nodes[at]
		if at++; at == len(nodes) {
			at = 0
		}
		refused := d.refuses(cy, n)
		d.looked, d.failed = append(d.looked, n), append(d.failed, refused)
		if refused < 0 {
			d.feasible = append(d.feasible, n)
		}
	}
	if cy.onlyNodes == nil && len(d.feasible) > 0 {
		d.next = at
	}
}

// sample is how many fitting nodes are enough: all of up to 100, then a share,
// which falls from half to a twentieth if it is 0, as upstream.
func sample(nodes, percent int) int {
	const all = 100
	if nodes <= all {
		return nodes
	}
	if percent == 0 {
		percent = max(50-nodes/125, 5)
	}
	return max(nodes*percent/100, all)
}

// pick is the feasible node with the highest score; among equals, any.
func (d *decider) pick(cy *cycle) *node {
	n := len(d.feasible)
	d.total = append(d.total[:0], make([]float64, n)...)
	d.out = append(d.out[:0], make([]float64, n)...)
	for _, s := range d.rules.scorers {
		if s.score(cy, d.feasible, d.out) {
			for i, v := range d.out {
				d.total[i] += s.weight * v
			}
		}
	}
	d.outside.score(cy, d.feasible, d.total)
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

// explain says why no node fits, from the refusals of the last search, and
// notes where no pod's leaving would help.
func (d *decider) explain(cy *cycle) decision {
	reasons := map[string]int{}
	var dec decision
	var why []string
	d.stays = append(d.stays[:0], make([]bool, len(d.looked))...)
	for i, n := range d.looked {
		dec.refused |= 1 << (d.failed[i] &^ kept)
		d.asRefused(cy, n, d.failed[i], func(f filter) { why, d.stays[i] = f.Explain(cy, n, why[:0]) })
		for _, r := range why {
			reasons[r]++
		}
	}
	all := len(cy.candidates())
	if others := all - len(d.looked); others > 0 {
		reasons["node(s) didn't satisfy plugin(s) [NodeAffinity]"] = others
		dec.refused |= d.bit(nodeAffinity{}.Name())
	}
	dec.why = message(all, reasons)
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
	cy := &cycle{cluster: c, pod: p, rules: d.rules, podVolumes: d.volumesOf(p)}
	for i, f := range d.filters {
		if refused&(1<<i) != 0 && f.Helps(cy, e) {
			return true
		}
	}
	return false
}

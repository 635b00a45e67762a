package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Upstream's figures: how many candidates are enough, in absolute number and
// as a share of the nodes.
const (
	minCandidates    = 100
	candidatePercent = 10
)

// room is a node on which a pod fits once others are gone.
type room struct {
	node       *node
	victims    []*pod // the most important first
	violations int    // of disruption budgets
}

// budget is a disruption budget, as far as preemption respects it.
type budget struct {
	name      string
	selector  labels.Selector
	allowed   int32
	disrupted map[string]bool // pods that it has counted already
}

// setBudget takes in a disruption budget. One whose selector is empty finds
// nothing here, as upstream.
func (c *cluster) setBudget(o *policyv1.PodDisruptionBudget, gone bool) {
	list := slices.DeleteFunc(c.budgets[o.Namespace], func(b *budget) bool { return b.name == o.Name })
	if sel := parse(o.Spec.Selector); !gone && !sel.Empty() {
		b := &budget{name: o.Name, selector: sel, allowed: o.Status.DisruptionsAllowed, disrupted: map[string]bool{}}
		for name := range o.Status.DisruptedPods {
			b.disrupted[name] = true
		}
		at, _ := slices.BinarySearchFunc(list, b, func(a, b *budget) int { return cmp.Compare(a.name, b.name) })
		list = slices.Insert(list, at, b)
	}
	if len(list) == 0 {
		delete(c.budgets, o.Namespace)
	} else {
		c.budgets[o.Namespace] = list
	}
}

// violating divides pods, in their order, into those whose leaving would
// violate a budget if all before them left too, and the others.
func (c *cluster) violating(pods []*pod) (violating, others []*pod) {
	if len(c.budgets) == 0 {
		return nil, pods
	}
	left := map[*budget]int32{}
	for _, p := range pods {
		bad := false
		for _, b := range c.budgets[p.obj.Namespace] {
			if len(p.obj.Labels) == 0 || b.disrupted[p.obj.Name] || !b.selector.Matches(labels.Set(p.obj.Labels)) {
				continue
			}
			if _, ok := left[b]; !ok {
				left[b] = b.allowed
			}
			if left[b]--; left[b] < 0 {
				bad = true
				break
			}
		}
		if bad {
			violating = append(violating, p)
		} else {
			others = append(others, p)
		}
	}
	return violating, others
}

// lower reports whether some pod on a node has less priority.
func (c *cluster) lower(priority int32) bool {
	for p := range c.priorities {
		if p < priority {
			return true
		}
	}
	return false
}

// preempt plans which pods are to go so that the cycle's pod fits, after a
// search that found no node. room is nil if none helps or the pod may not; why
// is what users know from upstream. lost: a nomination of before is of no use.
func (d *decider) preempt(cy *cycle) (r *room, why string, lost bool) {
	if !d.rules.preempts {
		return nil, "", false
	}
	if why := d.ineligible(cy); why != "" {
		return nil, why, false
	}
	var potential []*node
	for i, n := range d.looked {
		if !d.stays[i] {
			potential = append(potential, n)
		}
	}
	all := len(cy.candidates())
	reasons := map[string]int{}
	if helpless := all - len(potential); helpless > 0 {
		reasons["Preemption is not helpful for scheduling"] = helpless
	}
	if found := d.rooms(cy, potential, reasons); len(found) > 0 {
		if found, why = d.outside.rooms(cy, found); len(found) == 0 {
			return nil, why, false
		}
		best := slices.MinFunc(found, compareRooms)
		return best, fmt.Sprintf("found a potential placement for pod on node %s, preempting %d victims", best.node.name, len(best.victims)), false
	}
	return nil, message(all, reasons), true
}

// rooms looks for candidates, beginning anywhere. It counts the reasons of the
// nodes that are none.
func (d *decider) rooms(cy *cycle, potential []*node, reasons map[string]int) (found []*room) {
	const none = "No preemption victims found for incoming pod"
	if len(potential) == 0 {
		return nil
	}
	if !cy.lower(cy.pod.priority()) {
		reasons[none] += len(potential)
		return nil
	}
	enough := min(len(potential), max(len(potential)*d.rules.candidates[0]/100, d.rules.candidates[1]))
	start := d.rand.IntN(len(potential))
	harmless := false
	for i := range potential {
		r, why := d.roomOn(cy, potential[(start+i)%len(potential)])
		if r == nil {
			if len(why) == 0 {
				why = []string{none}
			}
			for _, w := range why {
				reasons[w]++
			}
			continue
		}
		found = append(found, r)
		harmless = harmless || r.violations == 0
		if harmless && len(found) >= enough {
			break
		}
	}
	return found
}

// ineligible says why a pod may not preempt; empty: it may.
func (d *decider) ineligible(cy *cycle) string {
	p := cy.pod
	if !p.preempts() {
		return "not eligible due to preemptionPolicy=Never."
	}
	n := cy.nominees[p.obj.UID]
	if n == nil || n.obj == nil {
		return ""
	}
	for i, other := range d.looked {
		if other == n && d.stays[i] {
			return "" // that node is of no use any more
		}
	}
	for _, other := range n.pods {
		if other.priority() < p.priority() && (cy.doomed[other.obj.UID] || preempted(other.obj)) {
			return "not eligible due to a terminating pod on the nominated node."
		}
	}
	return ""
}

// preempted reports whether a pod is on its way out because of us.
func preempted(p *corev1.Pod) bool {
	c := condition(p, corev1.DisruptionTarget)
	return p.DeletionTimestamp != nil && c != nil && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
}

// roomOn finds the pods that must leave a node. It lets all of lower priority
// go, and then has back as many as it can: those whose leaving would violate a
// budget first, the more important before the less.
func (d *decider) roomOn(cy *cycle, n *node) (*room, []string) {
	var victims []*pod
	for _, p := range n.pods {
		if p.priority() < cy.pod.priority() {
			victims = append(victims, p)
		}
	}
	if len(victims) == 0 {
		return nil, nil
	}
	slices.SortFunc(victims, moreImportant)
	t := trial{cycle: cy, node: n}
	defer t.undo()
	for _, p := range victims {
		t.take(p)
	}
	if refused := d.refuses(cy, n); refused >= 0 {
		d.inRooms |= 1 << (refused &^ kept)
		var why []string
		d.asRefused(cy, n, refused, func(f filter) { why, _ = f.Explain(cy, n, nil) })
		return nil, why
	}
	r := &room{node: n}
	spare := func(p *pod) bool {
		t.put(p)
		if d.refuses(cy, n) < 0 {
			return true
		}
		t.take(p)
		r.victims = append(r.victims, p)
		return false
	}
	violating, others := cy.violating(victims)
	for _, p := range violating {
		if !spare(p) {
			r.violations++
		}
	}
	for _, p := range others {
		spare(p)
	}
	if len(r.victims) == 0 {
		return nil, nil
	}
	slices.SortFunc(r.victims, moreImportant)
	return r, nil
}

// moreImportant orders pods by what their loss means: by priority, and among
// equals the one that has run longer counts more.
func moreImportant(a, b *pod) int {
	return cmp.Or(cmp.Compare(b.priority(), a.priority()), started(a).Compare(started(b)), cmp.Compare(keyOf(a.obj), keyOf(b.obj)))
}

// started is when a pod began to run; one that has not yet did so last of all.
func started(p *pod) time.Time {
	if t := p.obj.Status.StartTime; t != nil {
		return t.Time
	}
	return time.Unix(math.MaxInt32, 0)
}

// compareRooms puts the better one first: fewer violations of budgets, a lower
// highest priority, a lower sum of them (shifted, so that each pod counts),
// fewer victims, and the later start of the most important ones.
func compareRooms(a, b *room) int {
	return cmp.Or(
		cmp.Compare(a.violations, b.violations),
		cmp.Compare(a.victims[0].priority(), b.victims[0].priority()),
		cmp.Compare(a.sum(), b.sum()),
		cmp.Compare(len(a.victims), len(b.victims)),
		started(b.victims[0]).Compare(started(a.victims[0])),
	)
}

func (r *room) sum() (sum int64) {
	for _, p := range r.victims {
		sum += int64(p.priority()) + math.MaxInt32 + 1
	}
	return sum
}

// preemptable reports whether an event may have made it possible that the pod
// gets room by preemption: there are pods of lower priority on the node, which
// is large enough.
func (c *cycle) preemptable(f filter, e *event) bool {
	switch e.what {
	case nodeChanged, podLeft, podChanged, csiNodeChanged, attachmentGone:
	default:
		return false
	}
	if e.node.obj == nil || !c.pod.preempts() || e.lowest() >= c.pod.priority() {
		return false
	}
	if f.Fits(c, e.node) {
		return true
	}
	_, stays := f.Explain(c, e.node, nil)
	return !stays
}

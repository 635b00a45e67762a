package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// What explanations are bounded by: nodes that are compared, reasons that get
// an advice, and bytes of one advice.
const (
	maxCompared  = 1000
	maxAdvice    = 4
	maxAdviceLen = 160
)

type changeKind byte

const (
	impossible     changeKind = iota // nothing that is done to pods or to the node helps
	uncordon                         //
	tolerate                         // taint
	enforced                         // whatever the added affinity of the profile wants
	setLabel                         // name and value
	anyLabel                         // name
	noLabel                          // name
	otherLabel                       // name; value says which would do
	freeResource                     // missing of name
	smallerRequest                   // missing of name: the node is too small
	fewerPods                        // missing
	freePort                         // name is the protocol, missing the number
	freeClaim                        // name is namespace/name
	freeDisk                         // name is the pod's of the volume
	newVolume                        // missing of class name, with the size value
	freeStorage                      // value of class name, missing times
	fewerVolumes                     // missing of driver name
	driverThere                      // name
	neighbour                        // a pod that the affinity asks for, in name=value
	noNeighbour                      // missing pods fewer, in name=value
	lessSkew                         // missing matching pods fewer, in name=value
	freeDevices                      // for the requests in value of the claim name
	devicesOf                        // missing of class value, which stand for the resource name
	offered                          // missing of name, of which the node has none
)

// change is the smallest one after which a filter would let a pod onto a node.
type change struct {
	kind        changeKind
	name, value string
	taint       *corev1.Taint
	missing, of int64 // of: what the pod asks for
}

// cost orders changes: one thing to do costs one, and the more is missing of a
// resource, the more it costs, up to one more.
func (c *change) cost() float64 {
	if c.of > 0 {
		return 1 + min(1, float64(c.missing)/float64(c.of))
	}
	return 1
}

func (c *change) String() string {
	switch c.kind {
	case uncordon:
		return "the node uncordoned"
	case tolerate:
		return "a toleration of " + c.taint.ToString()
	case enforced:
		return "the labels that the scheduler's configuration asks of nodes"
	case setLabel:
		return "the node's label " + c.name + "=" + c.value
	case anyLabel:
		return "the node's label " + c.name
	case noLabel:
		return "no label " + c.name + " on the node"
	case otherLabel:
		return "the node's label " + c.name + " " + c.value
	case freeResource:
		return amountText(c.name, c.missing) + " more " + c.name + " free"
	case smallerRequest:
		if c.of >= maxAmount { // what is beyond is not counted
			return "far less " + c.name + " requested"
		}
		return amountText(c.name, c.missing) + " less " + c.name + " requested"
	case fewerPods:
		return plural(c.missing, "pod") + " fewer on the node"
	case freePort:
		return fmt.Sprintf("host port %d/%s free", c.missing, c.name)
	case freeClaim:
		return "the claim " + c.name + " free"
	case freeDisk:
		return "the disk of its volume " + c.name + " free"
	case newVolume:
		return plural(c.missing, "PersistentVolume") + " of class " + c.name + " with " + c.value
	case freeStorage:
		if c.missing > 1 {
			return fmt.Sprint(c.missing, " times ", c.value, " of storage free for class ", c.name)
		}
		return c.value + " of storage free for class " + c.name
	case fewerVolumes:
		return plural(c.missing, "volume") + " of driver " + c.name + " fewer on the node"
	case driverThere:
		return "the CSI driver " + c.name + " on the node"
	case neighbour:
		return "a pod that its affinity asks for in " + c.name + "=" + c.value
	case noNeighbour:
		return plural(c.missing, "conflicting pod") + " fewer in " + c.name + "=" + c.value
	case freeDevices:
		return "devices for the requests of its claim " + c.name + ": " + c.value
	case devicesOf:
		return plural(c.missing, "free device") + " of class " + c.value + " for " + c.name
	case offered:
		if class, ok := implicit(corev1.ResourceName(c.name)); ok {
			return "the DeviceClass " + class
		}
		return amountText(c.name, c.missing) + " " + c.name + " from a device plugin or a DeviceClass with this extendedResourceName"
	case lessSkew:
		return plural(c.missing, "matching pod") + " fewer in " + c.name + "=" + c.value
	}
	return "another node"
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprint(n, " ", noun, "s")
}

// amountText writes an amount as users write it.
func amountText(name string, v int64) string {
	switch corev1.ResourceName(name) {
	case corev1.ResourceCPU:
		return resource.NewMilliQuantity(v, resource.DecimalSI).String()
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return resource.NewQuantity(roundBytes(v), resource.BinarySI).String()
	}
	return resource.NewQuantity(v, resource.DecimalSI).String()
}

// roundBytes goes up, so that what is named is enough, to whole units of which
// there are ten or more: quantities would be written to the last byte.
func roundBytes(v int64) int64 {
	for unit := int64(1) << 40; unit > 1; unit >>= 10 {
		if v < 10*unit {
			continue
		}
		if rest := v % unit; rest > 0 && v <= math.MaxInt64-unit {
			v += unit - rest
		}
		return v
	}
	return v
}

// adviseLabels lists the labels that a node lacks for a pod's node selector and
// for the one of its affinity's alternatives that needs the fewest.
func adviseLabels(p *corev1.Pod, n *corev1.Node, out []change) []change {
	for _, k := range slices.Sorted(maps.Keys(p.Spec.NodeSelector)) {
		if v := p.Spec.NodeSelector[k]; n.Labels[k] != v {
			out = append(out, change{kind: setLabel, name: k, value: v})
		}
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return out
	}
	best := []change{{kind: impossible}}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if len(term.MatchExpressions)+len(term.MatchFields) == 0 || !named(n.Name, term.MatchFields) {
			continue // it never matches this node
		}
		var lacks []change
		for i := range term.MatchExpressions {
			lacks = append(lacks, adviseRequirement(&term.MatchExpressions[i], n)...)
		}
		if best != nil && (len(lacks) < len(best) || best[0].kind == impossible) {
			best = lacks
		}
	}
	return append(out, best...)
}

// named reports whether requirements on a node's fields, of which its name is
// the only one, hold.
func named(name string, fields []corev1.NodeSelectorRequirement) bool {
	return !slices.ContainsFunc(fields, func(r corev1.NodeSelectorRequirement) bool {
		return r.Key != metav1.ObjectNameField || slices.Contains(r.Values, name) != (r.Operator == corev1.NodeSelectorOpIn)
	})
}

func adviseRequirement(r *corev1.NodeSelectorRequirement, n *corev1.Node) []change {
	ops := map[corev1.NodeSelectorOperator]selection.Operator{
		corev1.NodeSelectorOpIn: selection.In, corev1.NodeSelectorOpNotIn: selection.NotIn, corev1.NodeSelectorOpExists: selection.Exists,
		corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist, corev1.NodeSelectorOpGt: selection.GreaterThan, corev1.NodeSelectorOpLt: selection.LessThan,
	}
	parsed, err := labels.NewRequirement(r.Key, ops[r.Operator], r.Values)
	switch {
	case err != nil:
		return []change{{kind: impossible}}
	case parsed.Matches(labels.Set(n.Labels)):
		return nil
	case r.Operator == corev1.NodeSelectorOpIn:
		return []change{{kind: setLabel, name: r.Key, value: r.Values[0]}}
	case r.Operator == corev1.NodeSelectorOpExists:
		return []change{{kind: anyLabel, name: r.Key}}
	case r.Operator == corev1.NodeSelectorOpGt:
		return []change{{kind: otherLabel, name: r.Key, value: "above " + r.Values[0]}}
	case r.Operator == corev1.NodeSelectorOpLt:
		return []change{{kind: otherLabel, name: r.Key, value: "below " + r.Values[0]}}
	}
	return []change{{kind: noLabel, name: r.Key}}
}

// remedy is all that one node would need to take a pod.
type remedy struct {
	node    string
	changes []change
	cost    float64
}

func (r *remedy) String() string {
	parts := make([]string, len(r.changes))
	for i := range r.changes {
		parts[i] = r.changes[i].String()
	}
	s := "on " + r.node + " with " + strings.Join(parts, " and ")
	if len(s) > maxAdviceLen {
		s = strings.ToValidUTF8(s[:maxAdviceLen], "") + " ..."
	}
	return s
}

// needs asks all filters what a node would need, and adds up what that costs;
// ok is false if it never can.
func (d *decider) needs(cy *cycle, n *node, buf []change) (_ []change, cost float64, ok bool) {
	buf = buf[:0]
	for _, f := range d.filters {
		if !f.Fits(cy, n) {
			buf = f.Advise(cy, n, buf)
		}
	}
	all := buf
	buf = buf[:0]
	for _, c := range all {
		if c.kind == impossible {
			return buf, 0, false
		}
		if !slices.Contains(buf, c) { // two filters may ask for the same
			buf = append(buf, c)
			cost += c.cost()
		}
	}
	return buf, cost, len(buf) > 0
}

// advice says for each filter of the last search which of the nodes that it
// turned away needs the least, and what. The cheapest comes first.
func (d *decider) advice(cy *cycle) []remedy {
	by := make([]remedy, len(d.filters))
	var buf []change
	for i, n := range d.looked[:min(len(d.looked), maxCompared)] {
		best := &by[d.failed[i]&^kept]
		d.asRefused(cy, n, d.failed[i], func(filter) {
			var cost float64
			var ok bool
			if buf, cost, ok = d.needs(cy, n, buf); !ok {
				return
			}
			if best.node == "" || cost < best.cost || cost == best.cost && n.name < best.node {
				*best = remedy{node: n.name, changes: append(best.changes[:0], buf...), cost: cost}
			}
		})
	}
	by = slices.DeleteFunc(by, func(r remedy) bool { return r.node == "" })
	slices.SortStableFunc(by, func(a, b remedy) int { return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.node, b.node)) })
	return by[:min(len(by), maxAdvice)]
}

// adviceText is a sentence.
func adviceText(list []remedy) string {
	parts := make([]string, len(list))
	for i := range list {
		parts[i] = list[i].String()
	}
	return "It would fit " + strings.Join(parts, "; or ") + "."
}

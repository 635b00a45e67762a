package scheduler

import (
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Reason is why a pod has no node.
type Reason struct {
	// Node is where the pod fits all the same: it only has to be decided about.
	// Then the rest is empty.
	Node string
	// Message is what the scheduler says in the event and in the condition.
	Message string
	// Remedies are nodes with all that each would need to take the pod, the
	// cheapest first, one for each filter that turned nodes away, four at most.
	Remedies []Remedy
	// Victims are the pods that would have to go, all on one node; empty: none.
	VictimsOn string
	Victims   []*corev1.Pod
}

// Remedy is all that one node would need to take a pod.
type Remedy struct {
	Node    string
	Changes []string
}

// Why says from a snapshot that holds Kinds why a pod has no node. It is a pure
// function: the scheduler comes to the same from the same state, if these are
// its profiles (none: the default one) and it has no extenders.
func Why(s *view.Snapshot, p *corev1.Pod, profiles ...Profile) Reason {
	if len(p.Spec.SchedulingGates) > 0 {
		return Reason{Message: "Scheduling is blocked due to non-empty scheduling gates"}
	}
	c := clusterOf(s, p)
	profile := DefaultProfile()
	for _, other := range profiles {
		if other.Name == p.Spec.SchedulerName {
			profile = other
		}
	}
	r, err := newRules(&profile)
	if err != nil {
		return Reason{Message: err.Error()}
	}
	d := deciderBy(r, nil, rand.New(rand.NewPCG(0, 0)))
	w := pending(p)
	if name := p.Status.NominatedNodeName; name != "" {
		c.nominate(w, name)
	}
	dec := d.decide(c, w)
	if dec.node != nil {
		return Reason{Node: dec.node.name}
	}
	out := Reason{Message: dec.message()}
	for i := range dec.remedies {
		var changes []string
		for j := range dec.remedies[i].changes {
			changes = append(changes, dec.remedies[i].changes[j].String())
		}
		out.Remedies = append(out.Remedies, Remedy{dec.remedies[i].node, changes})
	}
	if dec.room != nil {
		out.VictimsOn = dec.room.node.name
		for _, v := range dec.room.victims {
			out.Victims = append(out.Victims, v.obj)
		}
	}
	return out
}

// clusterOf is the cluster without one pod.
func clusterOf(s *view.Snapshot, besides *corev1.Pod) *cluster {
	c := newCluster()
	for _, k := range Kinds() {
		for o := range view.List[kinds.Object](s, k, "") {
			switch o := o.(type) {
			case *corev1.Node:
				c.setNode(o)
			case *corev1.Pod:
				switch {
				case ended(o) || o.UID == besides.UID:
				case o.Spec.NodeName != "":
					c.place(placed(o), o.Spec.NodeName)
				case o.Status.NominatedNodeName != "" && o.DeletionTimestamp == nil:
					c.nominate(pending(o), o.Status.NominatedNodeName)
				}
			default:
				c.take(o, false)
			}
		}
	}
	return c
}

package hollow

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Op is what a user, or bad luck, does to the cluster.
type Op string

// What may happen.
const (
	Scale      Op = "scale"       // a deployment, to so many replicas
	DeletePod  Op = "delete pod"  // the pod of a deployment that is so far down the list
	LoseNode   Op = "lose node"   // its kubelet ends
	ReturnNode Op = "return node" // the one that has been lost the longest
)

// Action of a script. What it does not use is 0.
type Action struct {
	At                              time.Duration // since the beginning
	Op                              Op
	Deployment, Replicas, Pod, Node int
}

func (a Action) String() string {
	switch a.Op {
	case Scale:
		return fmt.Sprintf("%s scale deployment %d to %d", a.At, a.Deployment, a.Replicas)
	case DeletePod:
		return fmt.Sprintf("%s delete pod %d of deployment %d", a.At, a.Pod, a.Deployment)
	}
	return fmt.Sprintf("%s %s %d", a.At, a.Op, a.Node)
}

// Shape of the cluster that a script is for.
type Shape struct {
	Nodes    int
	Replicas []int // of each deployment, at most
}

// lostShare bounds the nodes that are lost at a time: one of so many.
const lostShare = 20

// Script of so many actions for each second. The same seed and shape give the
// same actions whatever the cluster answers, so that a run can be repeated.
func Script(seed uint64, s Shape, perSecond float64, length time.Duration) []Action {
	rng := rand.New(rand.NewPCG(seed, 0))
	var out []Action
	var lost []int
	if perSecond <= 0 || len(s.Replicas) == 0 {
		return nil
	}
	for at := time.Duration(0); ; {
		at += time.Duration(rng.ExpFloat64() / perSecond * float64(time.Second))
		if at >= length {
			return out
		}
		a := Action{At: at.Round(time.Millisecond)}
		d := rng.IntN(len(s.Replicas))
		switch dice := rng.IntN(100); {
		case dice < 20:
			low := (s.Replicas[d] + 1) / 2
			a.Op, a.Deployment, a.Replicas = Scale, d, low+rng.IntN(s.Replicas[d]-low+1)
		case dice < 95 || s.Nodes < lostShare:
			a.Op, a.Deployment, a.Pod = DeletePod, d, rng.IntN(max(1, (s.Replicas[d]+1)/2))
		case len(lost) > 0 && (len(lost) >= s.Nodes/lostShare || dice%2 == 0):
			a.Op, a.Node = ReturnNode, lost[0]
			lost = lost[1:]
		default:
			a.Op, a.Node = LoseNode, rng.IntN(s.Nodes)
			for slices.Contains(lost, a.Node) {
				a.Node = (a.Node + 1) % s.Nodes
			}
			lost = append(lost, a.Node)
		}
		out = append(out, a)
	}
}

package replicaset

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// victims picks the n pods that are the least loss, in upstream's order.
func (o Observed) victims(active []*corev1.Pod, n int) []*corev1.Pod {
	if n <= 0 {
		return nil
	}
	onNode := map[string]int{}
	for node, c := range o.Neighbours {
		onNode[node] = c
	}
	for _, p := range active {
		if p.Spec.NodeName != "" {
			onNode[p.Spec.NodeName]++
		}
	}
	order := make([]ranked, len(active))
	for i, p := range active {
		order[i] = rank(p, onNode[p.Spec.NodeName], o.Now)
	}
	slices.SortFunc(order, compare)
	out := make([]*corev1.Pod, min(n, len(order)))
	for i := range out {
		out[i] = order[i].pod
	}
	return out
}

// ranked holds a pod's sort keys; a smaller one is deleted sooner.
type ranked struct {
	pod      *corev1.Pod
	bound    int // unassigned pods first
	phase    int // Pending, Unknown, Running
	ready    int // not ready first
	cost     int // controller.kubernetes.io/pod-deletion-cost
	crowded  int // more of the same on the node first
	readyFor int // ready for a short time first
	restarts int // more restarts first
	age      int // young first
}

func rank(p *corev1.Pod, onNode int, now time.Time) ranked {
	r := ranked{pod: p, phase: phaseOrder(p.Status.Phase), cost: deletionCost(p), age: octave(now.Sub(p.CreationTimestamp.Time))}
	if p.Spec.NodeName != "" {
		r.bound, r.crowded = 1, -onNode
	}
	if since, ready := readySince(p); ready {
		r.ready, r.readyFor = 1, octave(now.Sub(since))
	}
	for i := range p.Status.ContainerStatuses {
		r.restarts = min(r.restarts, -int(p.Status.ContainerStatuses[i].RestartCount))
	}
	return r
}

func compare(a, b ranked) int {
	return cmp.Or(
		cmp.Compare(a.bound, b.bound), cmp.Compare(a.phase, b.phase), cmp.Compare(a.ready, b.ready),
		cmp.Compare(a.cost, b.cost), cmp.Compare(a.crowded, b.crowded), cmp.Compare(a.readyFor, b.readyFor),
		cmp.Compare(a.restarts, b.restarts), cmp.Compare(a.age, b.age),
		cmp.Compare(a.pod.UID, b.pod.UID), // random, so that no pod is favoured for its name
	)
}

func phaseOrder(p corev1.PodPhase) int {
	switch p {
	case corev1.PodPending:
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

// octave is the logarithm of a duration: pods of about the same age are equals,
// so that the choice among them is random (KEP-2185).
func octave(d time.Duration) int {
	if d <= 0 {
		return 0
	}
	return bits.Len64(uint64(d / time.Second))
}

// deletionCost of a pod; what does not parse counts as none.
func deletionCost(p *corev1.Pod) int {
	v, ok := p.Annotations[corev1.PodDeletionCost]
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || v[0] == '+' || (len(v) > 1 && v[0] == '0') {
		return 0
	}
	return int(n)
}

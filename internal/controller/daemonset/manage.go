package daemonset

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// manage brings one node nearer to the pod that it ought to have, or not.
func (p *pass) manage(pl *place) {
	switch {
	case pl.node == nil:
		// Bound pods are the pod garbage collector's; those that wait for the
		// node would wait for ever.
		for _, pod := range pl.pods {
			if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				p.remove(pod)
			}
		}
	case pl.run && len(pl.pods) == 0:
		p.create(pl.name)
	case pl.stay:
		p.prune(pl)
	default:
		for _, pod := range pl.pods {
			if pod.DeletionTimestamp == nil {
				p.remove(pod)
			}
		}
	}
}

// prune deletes pods of a node that have ended, and those too many.
func (p *pass) prune(pl *place) {
	var going []*corev1.Pod
	waiting := false
	for _, pod := range pl.pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			if wait := p.Wait[pod.UID]; wait > 0 {
				waiting = true
				p.again(wait)
				continue
			}
			p.events = append(p.events, *p.event(corev1.EventTypeWarning, "FailedDaemonPod",
				fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, pl.name)))
			p.remove(pod)
		case pod.Status.Phase == corev1.PodSucceeded:
			p.events = append(p.events, *p.event(corev1.EventTypeNormal, "SucceededDaemonPod",
				fmt.Sprintf("Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, pl.name)))
			p.remove(pod)
		default:
			going = append(going, pod)
		}
	}
	switch {
	case !p.surges():
		for i := 1; i < len(going); i++ {
			p.remove(going[i])
		}
	case len(going) == 0:
		if pl.run && !waiting {
			p.create(pl.name) // not only after the last one's end
		}
	default:
		p.pruneSurge(going)
	}
}

// pruneSurge leaves an old and a new pod on a node at most, and only the new
// one as soon as it is available, or the old one is no good any more.
func (p *pass) pruneSurge(going []*corev1.Pod) {
	var next, old *corev1.Pod
	for _, pod := range going {
		switch {
		case p.current(pod) && next == nil:
			next = pod
		case !p.current(pod) && old == nil:
			old = pod
		default:
			p.remove(pod)
		}
	}
	if next != nil && old != nil && (!ready(old) || p.available(next)) {
		p.remove(old)
	}
}

// roll replaces old pods as fast as the strategy allows. It runs in passes that
// have nothing else to do.
func (p *pass) roll() {
	desired := 0
	for _, pl := range p.places {
		if pl.run {
			desired++
		}
	}
	surge, unavailable := p.scaled(p.maxSurge(), desired), p.scaled(p.maxUnavailable(), desired)
	if desired > 0 && surge == 0 && unavailable == 0 {
		unavailable = 1 // an impossible strategy, which validation refuses
	}
	if surge == 0 {
		p.rollInPlace(unavailable)
	} else {
		p.rollBeside(surge, desired)
	}
}

// pair is the new and the old pod of a node; ok is false if there are several
// of one sort. Pods on their way out do not count, so that updates go on while
// nodes are down.
func (p *pass) pair(pl *place) (next, old *corev1.Pod, ok bool) {
	for _, pod := range pl.pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case p.updated(pod):
			if next != nil {
				return nil, nil, false
			}
			next = pod
		default:
			if old != nil {
				return nil, nil, false
			}
			old = pod
		}
	}
	return next, old, true
}

// rollInPlace deletes old pods, those that are no good first, so that no more
// than unavailable nodes are without a good one.
func (p *pass) rollInPlace(unavailable int) {
	away := 0
	var bad, good []*corev1.Pod
	for _, pl := range p.places {
		if !pl.run && len(pl.pods) == 0 {
			continue
		}
		next, old, ok := p.pair(pl)
		switch {
		case !ok, (next == nil) == (old == nil): // manage will see to it
			away++
		case next != nil:
			if !p.available(next) {
				away++
			}
		case !p.available(old):
			bad = append(bad, old)
			away++
		default:
			good = append(good, old)
		}
	}
	for _, pod := range append(bad, good[:max(0, min(unavailable-away, len(good)))]...) {
		p.remove(pod)
	}
}

// rollBeside makes new pods beside old ones, at most surge for such as are
// good, and deletes an old one once its new one is. What has to leave a node
// stays until as many are available as there should be.
func (p *pass) rollBeside(surge, desired int) {
	surging, available := 0, 0
	var leaving []*corev1.Pod
	var now, next []string
	for _, pl := range p.places {
		fresh, old, ok := p.pair(pl)
		if !ok {
			surging++
			continue
		}
		if told := old; told != nil || fresh != nil {
			if told == nil {
				told = fresh
			}
			if p.available(told) {
				available++
			}
		}
		switch {
		case old == nil, pl.node == nil: // manage will see to it
		case fresh == nil && !pl.run && !p.available(old):
			p.remove(old)
		case fresh == nil && !pl.run:
			leaving = append(leaving, old)
		case fresh == nil && !p.available(old):
			now = append(now, pl.name)
		case fresh == nil:
			next = append(next, pl.name)
		case !p.available(fresh):
			surging++
		default:
			p.remove(old)
		}
	}
	for _, pod := range leaving[:max(0, min(available-desired, len(leaving)))] {
		p.remove(pod)
	}
	for _, name := range append(now, next[:max(0, min(surge-surging, len(next)))]...) {
		p.create(name)
	}
}

func (p *pass) maxSurge() *intstr.IntOrString {
	if r := p.set.Spec.UpdateStrategy.RollingUpdate; r != nil && p.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		return r.MaxSurge
	}
	return nil
}

func (p *pass) maxUnavailable() *intstr.IntOrString {
	if r := p.set.Spec.UpdateStrategy.RollingUpdate; r != nil {
		return r.MaxUnavailable
	}
	return nil
}

// scaled to that many nodes, rounded up; shares that cannot be read are none.
func (p *pass) scaled(v *intstr.IntOrString, nodes int) int {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, nodes, true)
	if err != nil {
		return 0
	}
	return n
}

// surges: a node may have two pods while they are replaced.
func (p *pass) surges() bool { return p.scaled(p.maxSurge(), 1) > 0 }

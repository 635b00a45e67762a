package statefulset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// manage brings the pods nearer to what is wanted: first all that are wanted,
// in order, then the end of those that are not, then the next revision. In an
// ordered set each waits for the one before it.
func (p *pass) manage() {
	ordered := p.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	if ordered {
		if !p.fillInOrder() {
			return
		}
	} else {
		p.fill()
	}
	for _, pod := range p.condemned {
		p.keepClaims(pod)
	}
	if ordered {
		if len(p.condemned) > 0 {
			p.shrinkInOrder()
			return
		}
	} else {
		for _, pod := range p.condemned {
			p.remove(pod)
		}
	}
	if p.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		p.roll()
	}
}

// fillInOrder makes the first pod that is missing. It reports whether all are
// there and available.
func (p *pass) fillInOrder() bool {
	for n := p.start(); n < p.end(); n++ {
		pod := p.pods[n]
		if pod == nil {
			claims, ok := p.prepare(n)
			p.actions = append(p.actions, claims...)
			if ok {
				a := p.create(n)
				a.Parallel = false // the claims come first
				p.actions = append(p.actions, a)
			}
			return false
		}
		if !p.serve(n, pod) || !p.available(pod) {
			return false
		}
		p.mend(n, pod)
	}
	return true
}

// fill makes all pods that are missing, at most burst of them. Their claims
// come first, so the first pod does not run beside them.
func (p *pass) fill() {
	var claims, pods []plan.Action
	for n := p.start(); n < p.end() && len(pods) < burst; n++ {
		pod := p.pods[n]
		if pod == nil {
			actions, ok := p.prepare(n)
			claims = append(claims, actions...)
			if ok {
				pods = append(pods, p.create(n))
			}
			continue
		}
		if p.serve(n, pod) && pod.DeletionTimestamp == nil {
			p.mend(n, pod)
		}
	}
	if len(claims) > 0 && len(pods) > 0 {
		pods[0].Parallel = false
	}
	p.actions = append(append(p.actions, claims...), pods...)
}

// serve gives a pending pod its claims, and ends a pod that has ended: it is
// made anew once it is gone. It reports whether the pod is in use.
func (p *pass) serve(n int, pod *corev1.Pod) bool {
	if ended(pod) {
		p.remove(pod)
		return false
	}
	if pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil {
		actions, ok := p.claims(n)
		p.actions = append(p.actions, actions...)
		if !ok {
			return false
		}
		p.keepClaims(pod)
	}
	return true
}

// mend gives a pod the identity, the volumes and the owners of claims that it
// ought to have. An adopted pod with other volumes cannot be mended; that the
// API refuses it is told by an event.
func (p *pass) mend(n int, pod *corev1.Pod) {
	p.keepClaims(pod)
	if pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name && p.mounts(pod, n) {
		return
	}
	c := pod.DeepCopy()
	p.identify(c, n)
	p.mount(c, n)
	p.actions = append(p.actions, plan.Action{
		Verb: plan.Update, Ref: kinds.RefTo(kinds.Pod, pod), Object: c,
		Event: p.podEvent("Update", pod.Name), Failed: p.podFailure("Update", pod.Name),
	})
}

// shrinkInOrder ends the last pod once all before it are available; that it is
// not itself does not matter if it is the only one.
func (p *pass) shrinkInOrder() {
	last := p.condemned[0]
	if p.terminating(last) {
		return
	}
	if !p.available(last) && last != p.firstUnavailable() {
		return
	}
	p.remove(last)
}

// firstUnavailable of the condemned, by ordinal; the wanted ones are available.
func (p *pass) firstUnavailable() *corev1.Pod {
	for i := len(p.condemned) - 1; i >= 0; i-- {
		if !p.available(p.condemned[i]) {
			return p.condemned[i]
		}
	}
	return nil
}

// roll ends pods of other revisions, highest first, so that no more than
// maxUnavailable are away. Those that are away already go first and cost
// nothing; in an ordered set there are none here.
func (p *pass) roll() {
	budget := p.maxUnavailable() - p.missing()
	var away, there []*corev1.Pod
	for _, pod := range p.standing() {
		old := revisionOf(pod) != p.update && p.at(pod) >= p.partition()
		switch ok := p.available(pod); {
		case !ok:
			budget--
			if old {
				away = append(away, pod)
			}
		case old:
			there = append(there, pod)
		}
	}
	for _, pod := range append(away, there[:max(0, min(budget, len(there)))]...) {
		p.remove(pod)
	}
}

// standing are the pods that are wanted and there, highest first.
func (p *pass) standing() []*corev1.Pod {
	var pods []*corev1.Pod
	for n, pod := range p.pods {
		if p.wants(n) {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return p.at(b) - p.at(a) })
	return pods
}

// missing pods among the wanted.
func (p *pass) missing() int { return p.end() - p.start() - (len(p.pods) - len(p.condemned)) }

// maxUnavailable of a rolling update, at least one.
func (p *pass) maxUnavailable() int {
	r := p.set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, int(*p.set.Spec.Replicas), false)
	if err != nil {
		return 1
	}
	return max(1, n)
}

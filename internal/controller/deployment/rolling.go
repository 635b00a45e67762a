package deployment

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// limits of a rolling update in pods: how many more than wanted may exist, and
// how many fewer may be available. Percentages of surge round up, those of
// unavailability down; both zero would never move, so one may be unavailable.
func limits(d *appsv1.Deployment) (surge, unavailable int32) {
	r := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return 0, 0
	}
	replicas := *d.Spec.Replicas
	if r != nil {
		surge, unavailable = scaled(r.MaxSurge, replicas, true), scaled(r.MaxUnavailable, replicas, false)
	}
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, replicas)
}

func scaled(v *intstr.IntOrString, replicas int32, up bool) int32 {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(replicas), up)
	if err != nil {
		return 0 // validation refuses what does not parse
	}
	return int32(min(max(n, 0), math.MaxInt32))
}

func sum(sets []*appsv1.ReplicaSet, f func(*appsv1.ReplicaSet) int32) int32 {
	n := int32(0)
	for _, rs := range sets {
		n += f(rs)
	}
	return n
}

func wanted(rs *appsv1.ReplicaSet) int32    { return *rs.Spec.Replicas }
func available(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }

// newSize is how large the new set may become now.
func (p *pass) newSize(present int32) int32 {
	replicas := *p.d.Spec.Replicas
	if p.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || present > replicas {
		return replicas
	}
	surge, _ := limits(p.d)
	room := replicas + surge - sum(p.all(), wanted)
	return present + max(0, min(room, replicas-present))
}

// roll makes the next step of a rolling update: first room for the new, then
// away with the old, and at the end with old revisions.
func (p *pass) roll() {
	if p.ensureNew() {
		return
	}
	if size := p.newSize(wanted(p.new)); p.resize(p.new, size) {
		return
	}
	if p.shrinkOld() {
		return
	}
	p.countReplicas()
	if p.complete() {
		p.cleanup()
	}
}

// shrinkOld scales old sets down as far as enough pods stay available: first
// those whose pods do not work anyway, oldest sets first.
func (p *pass) shrinkOld() (changed bool) {
	if sum(p.old, wanted) == 0 {
		return false
	}
	_, maxUnavailable := limits(p.d)
	minAvailable := *p.d.Spec.Replicas - maxUnavailable
	newUnavailable := wanted(p.new) - available(p.new)
	budget := sum(p.all(), wanted) - minAvailable - newUnavailable
	if budget <= 0 {
		return false
	}
	size := map[string]int32{}
	for _, rs := range p.old {
		n := min(budget, max(0, wanted(rs)-available(rs)))
		size[rs.Name] = wanted(rs) - n
		budget -= n
	}
	// Of the available ones only what is above the minimum.
	spare := sum(p.all(), available) - minAvailable
	for _, rs := range p.old {
		n := max(0, min(spare, size[rs.Name]))
		size[rs.Name] -= n
		spare -= n
	}
	for _, rs := range slices.Clone(p.old) {
		changed = p.resize(rs, size[rs.Name]) || changed
	}
	return changed
}

// recreate stops everything old before the new starts.
func (p *pass) recreate() {
	stopped := false
	for _, rs := range slices.Clone(p.old) {
		stopped = p.resize(rs, 0) || stopped
	}
	if stopped || p.OldPods {
		return
	}
	if p.ensureNew() {
		return
	}
	if p.resize(p.new, *p.d.Spec.Replicas) {
		return
	}
	p.countReplicas()
	if p.complete() {
		p.cleanup()
	}
}

// resize sets a set's size, if it is another.
func (p *pass) resize(rs *appsv1.ReplicaSet, size int32) bool {
	from := wanted(rs)
	if from == size {
		return false
	}
	direction := "up"
	if size < from {
		direction = "down"
	}
	c := rs.DeepCopy()
	c.Spec.Replicas = &size
	p.annotateReplicas(c)
	p.update(c, p.event(corev1.EventTypeNormal, "ScalingReplicaSet", fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, rs.Name, from, size)))
	return true
}

// annotateReplicas notes for which size of the Deployment the set was sized,
// so that a later change of that size is noticed and shared in proportion.
func (p *pass) annotateReplicas(rs *appsv1.ReplicaSet) (changed bool) {
	surge, _ := limits(p.d)
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range map[string]int32{desiredAnnotation: *p.d.Spec.Replicas, maxAnnotation: *p.d.Spec.Replicas + surge} {
		if s := strconv.Itoa(int(v)); rs.Annotations[k] != s {
			rs.Annotations[k], changed = s, true
		}
	}
	return changed
}

func annotated(rs *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	return int32(n), err == nil
}

func (p *pass) active() []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(p.all()), func(rs *appsv1.ReplicaSet) bool { return wanted(rs) == 0 })
}

// scaleRequested: an active set was sized for another size of the Deployment.
func (p *pass) scaleRequested() bool {
	return slices.ContainsFunc(p.active(), func(rs *appsv1.ReplicaSet) bool {
		n, ok := annotated(rs, desiredAnnotation)
		return ok && n != *p.d.Spec.Replicas
	})
}

// scale follows a change of the Deployment's size without rolling on. It
// reports whether anything changes.
func (p *pass) scale() bool {
	replicas := *p.d.Spec.Replicas
	active := p.active()
	switch {
	case len(active) <= 1:
		rs := p.new
		if len(active) == 1 {
			rs = active[0]
		} else if rs == nil && len(p.old) > 0 {
			rs = p.old[len(p.old)-1]
		}
		return rs != nil && p.size(rs, replicas)
	case p.saturated():
		changed := false
		for _, rs := range slices.Clone(p.old) {
			changed = p.resize(rs, 0) || changed
		}
		return changed
	case p.d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType:
		return p.proportional(active)
	}
	return false
}

// size resizes a set, or only notes the size it was checked for.
func (p *pass) size(rs *appsv1.ReplicaSet, size int32) bool {
	if p.resize(rs, size) {
		return true
	}
	c := rs.DeepCopy()
	if !p.annotateReplicas(c) {
		return false
	}
	p.update(c, nil)
	return true
}

// saturated: the new set alone is all that is wanted.
func (p *pass) saturated() bool {
	if p.new == nil {
		return false
	}
	n, ok := annotated(p.new, desiredAnnotation)
	replicas := *p.d.Spec.Replicas
	return ok && n == replicas && wanted(p.new) == replicas && available(p.new) == replicas
}

// proportional shares a change of size among the active sets of an unfinished
// rollout, so that a bad new set does not get all of it.
func (p *pass) proportional(active []*appsv1.ReplicaSet) (changed bool) {
	replicas := *p.d.Spec.Replicas
	surge, _ := limits(p.d)
	allowed := int32(0)
	if replicas > 0 {
		allowed = replicas + surge
	}
	toAdd := allowed - sum(active, wanted)
	// Largest first; among equals the newest when growing, the oldest when
	// shrinking.
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if toAdd > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(wanted(b), wanted(a)), age)
	})
	sizes, added := make([]int32, len(active)), int32(0)
	for i, rs := range active {
		sizes[i] = wanted(rs)
		if toAdd != 0 {
			n := p.share(rs, toAdd, added)
			sizes[i] += n
			added += n
		}
	}
	if toAdd != 0 { // what rounding left over goes to the largest
		sizes[0] = max(0, sizes[0]+toAdd-added)
	}
	for i, rs := range active {
		changed = p.size(rs, sizes[i]) || changed
	}
	return changed
}

// share of a set in toAdd, of which added are given away already.
func (p *pass) share(rs *appsv1.ReplicaSet, toAdd, added int32) int32 {
	rest := toAdd - added
	if wanted(rs) == 0 || rest == 0 {
		return 0
	}
	n := p.fraction(rs)
	if toAdd > 0 {
		return min(n, rest)
	}
	return max(n, rest)
}

// fraction is by how much the set changes if it keeps its part of the whole.
func (p *pass) fraction(rs *appsv1.ReplicaSet) int32 {
	replicas := *p.d.Spec.Replicas
	if replicas == 0 {
		return -wanted(rs)
	}
	surge, _ := limits(p.d)
	before, ok := annotated(rs, maxAnnotation)
	if !ok || before == 0 {
		before = p.d.Status.Replicas
	}
	if before == 0 {
		return 0
	}
	size := math.Round(float64(wanted(rs)) * float64(replicas+surge) / float64(before))
	return int32(size) - wanted(rs)
}

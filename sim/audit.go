package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// audit watches every commit of the store for what may never happen, whatever
// crashes and however late anybody learns of anything.
type audit struct {
	err error // the first thing that happened
	// on is what runs on each node.
	on map[string]*load
	// active pods by controlling set, and the most that the set ever wanted.
	active map[types.UID]int
	wanted map[types.UID]int32
	// owners that stand: not gone, and not waiting for their dependents' end.
	standing map[types.UID]bool
	sets     *setAudit
	scales   *scaleAudit
	crons    *cronAudit
	// charged counts what quotas were charged with.
	charged int
	volumes *volumeAudit
	devices *deviceAudit
	// waiting are pods for which room is being made.
	waiting map[types.UID]*corev1.Pod
	// preempted counts the pods that had to go for them.
	preempted int
	// holders of the leases of what is elected.
	holders map[string]string
	// freed counts the pods of a job that were let go at their end.
	freed map[types.UID]int
}

const collector = "generic-garbage-collector"

// load of a node, in thousandths and bytes.
type load struct {
	cpu, memory int64
	pods        int
}

func newAudit(w *world) *audit {
	return &audit{scales: &scaleAudit{world: w, changes: map[types.UID][]rescale{}, blurred: map[types.UID]time.Time{}}, crons: &cronAudit{world: w, jobs: map[types.UID]*batchv1.Job{}},
		on: map[string]*load{}, active: map[types.UID]int{}, wanted: map[types.UID]int32{}, standing: map[types.UID]bool{}, sets: newSetAudit(), volumes: &volumeAudit{owners: map[string]types.UID{}}, devices: newDeviceAudit(), freed: map[types.UID]int{}, holders: map[string]string{}, waiting: map[types.UID]*corev1.Pod{}}
}

func (a *audit) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format, args...)
	}
}

// observe one commit and who made it. before or after is nil for creations and
// deletions.
func (a *audit) observe(k *kinds.Kind, before, after kinds.Object, by string) {
	if before != nil && before.GetDeletionTimestamp() == nil && (after == nil || after.GetDeletionTimestamp() != nil) && by == collector {
		for _, r := range before.GetOwnerReferences() {
			if a.standing[r.UID] {
				a.fail("%s deleted %s %s/%s, whose owner %s %s stands", by, k, before.GetNamespace(), before.GetName(), r.Kind, r.Name)
			}
		}
	}
	if after == nil {
		delete(a.standing, before.GetUID())
	} else {
		a.standing[after.GetUID()] = after.GetDeletionTimestamp() == nil || !slices.Contains(after.GetFinalizers(), metav1.FinalizerDeleteDependents)
	}
	if err := a.sets.observe(k, before, after); err != nil {
		a.fail("%w", err)
	}
	if err := a.crons.observe(before, after); err != nil {
		a.fail("%w", err)
	}
	if err := a.volumes.observe(before, after); err != nil {
		a.fail("%w", err)
	}
	if err := a.devices.observe(before, after); err != nil {
		a.fail("%w", err)
	}
	switch k {
	case kinds.Pod:
		var b, p *corev1.Pod
		if before != nil {
			b = before.(*corev1.Pod)
		}
		if after != nil {
			p = after.(*corev1.Pod)
		}
		a.pod(b, p)
		a.free(b, p)
		if by == "scheduler" && b != nil && b.DeletionTimestamp == nil && (p == nil || p.DeletionTimestamp != nil) {
			a.preempt(b)
		}
	case kinds.Job:
		if after != nil {
			a.job(after.(*batchv1.Job))
		}
	case kinds.ResourceQuota:
		a.charge(before, after, by)
	case kinds.ReplicationController:
		if after != nil {
			rc := after.(*corev1.ReplicationController)
			a.wanted[rc.UID] = max(a.wanted[rc.UID], *rc.Spec.Replicas)
		}
	case kinds.ReplicaSet:
		if after != nil {
			rs := after.(*appsv1.ReplicaSet)
			a.wanted[rs.UID] = max(a.wanted[rs.UID], *rs.Spec.Replicas)
		}
	}
}

func (a *audit) pod(before, after *corev1.Pod) {
	if before != nil && after != nil && before.UID != after.UID {
		a.fail("pod %s/%s changed its UID", after.Namespace, after.Name)
		return
	}
	if before != nil && after != nil && before.Spec.NodeName != "" && after.Spec.NodeName != before.Spec.NodeName {
		a.fail("pod %s/%s was bound to %s and is now to %s", after.Namespace, after.Name, before.Spec.NodeName, after.Spec.NodeName)
	}
	a.count(before, -1)
	a.count(after, 1)
	if before != nil {
		delete(a.waiting, before.UID)
	}
	if after != nil && after.Status.NominatedNodeName != "" {
		a.waiting[after.UID] = after
	}
	if after != nil && after.Spec.NodeName != "" && (before == nil || before.Spec.NodeName == "") {
		if err := a.at(after.Spec.NodeName).fits(); err != nil {
			a.fail("pod %s/%s was bound to %s: %w", after.Namespace, after.Name, after.Spec.NodeName, err)
		}
	}
	if after != nil && before == nil {
		if ref := metav1.GetControllerOf(after); ref != nil && (ref.Kind == "ReplicaSet" || ref.Kind == "ReplicationController" || ref.Kind == "Job") && a.active[ref.UID] > int(a.wanted[ref.UID]) {
			a.fail("%s %s/%s has %d pods, but never wanted more than %d", ref.Kind, after.Namespace, ref.Name, a.active[ref.UID], a.wanted[ref.UID])
		}
	}
}

// preempt checks that a pod which the scheduler deletes goes for one of more
// priority that waits for its node.
func (a *audit) preempt(victim *corev1.Pod) {
	a.preempted++
	for _, p := range a.waiting {
		if rank(p) > rank(victim) && (victim.Spec.NodeName == "" || victim.Spec.NodeName == p.Status.NominatedNodeName) {
			return
		}
	}
	a.fail("pod %s/%s of priority %d on %s was preempted, and none of more priority waits for the node", victim.Namespace, victim.Name, rank(victim), victim.Spec.NodeName)
}

func rank(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

func (a *audit) count(p *corev1.Pod, sign int) {
	if p == nil || finished(p) {
		return
	}
	if ref := metav1.GetControllerOf(p); ref != nil && p.DeletionTimestamp == nil {
		a.active[ref.UID] += sign
	}
	if p.Spec.NodeName == "" {
		return
	}
	l := a.at(p.Spec.NodeName)
	r := requests(p)
	l.cpu += int64(sign) * r.cpu
	l.memory += int64(sign) * r.memory
	l.pods += sign
}

// at is the load of a node.
func (a *audit) at(node string) *load {
	if a.on[node] == nil {
		a.on[node] = &load{}
	}
	return a.on[node]
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func requests(p *corev1.Pod) load {
	var l load
	for _, c := range p.Spec.Containers {
		l.cpu += c.Resources.Requests.Cpu().MilliValue()
		l.memory += c.Resources.Requests.Memory().Value()
	}
	l.pods = 1
	return l
}

var errOvercommitted = errors.New("more is allocated than there is")

// capacity of every hollow node.
func capacity() load {
	s := nodeStatus(metav1.Now().Time)
	return load{cpu: s.Allocatable.Cpu().MilliValue(), memory: s.Allocatable.Memory().Value(), pods: nodePods}
}

func (l *load) fits() error {
	c := capacity()
	if l.cpu > c.cpu || l.memory > c.memory || l.pods > c.pods {
		return fmt.Errorf("%w: %dm CPU of %dm, %d bytes of %d, %d pods of %d", errOvercommitted, l.cpu, c.cpu, l.memory, c.memory, l.pods, c.pods)
	}
	return nil
}

// room for a pod with these requests.
func (l *load) room(r load) bool {
	sum := load{l.cpu + r.cpu, l.memory + r.memory, l.pods + r.pods}
	return sum.fits() == nil
}

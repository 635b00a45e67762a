package main

import (
	"fmt"
	"hash/fnv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Hollow nodes: enough of them to choose from, small enough to be full often.
const (
	nodes       = 4
	nodeCPU     = "2"
	nodeMemory  = "4Gi"
	nodePods    = 12
	leaseFor    = 40 // seconds
	leaseEvery  = 10 * time.Second
	startsAfter = 700 * time.Millisecond // from running to ready
	stopsAfter  = 400 * time.Millisecond // from the delete to the end
)

// hollowNode is a kubelet without containers: it registers its node, renews
// its lease, and makes pods run, become ready and end.
func hollowNode(w *world, i int) *process {
	name := fmt.Sprintf("n%d", i)
	node := reconcile.Controller{
		Name: "node-" + name,
		Watches: []reconcile.Watch{{Kind: kinds.Node, Keys: func(_ *view.Snapshot, c view.Change) []reconcile.Key {
			if c.Object().GetName() != name {
				return nil
			}
			return []reconcile.Key{{}}
		}}},
		Reads: []*kinds.Kind{kinds.Lease},
		Writes: []reconcile.Write{
			{Kind: kinds.Node, Verbs: []plan.Verb{plan.Create}}, {Kind: kinds.Node, Sub: "status", Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.Lease, Verbs: []plan.Verb{plan.Create, plan.Update}},
		},
		Plan: func(in reconcile.Input) plan.Result { return planNode(in, name) },
	}
	pods := reconcile.Controller{
		Name: "pods-" + name, For: kinds.Pod,
		Writes: []reconcile.Write{{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Delete}}, {Kind: kinds.Pod, Sub: "status", Verbs: []plan.Verb{plan.Update}}},
		Plan:   func(in reconcile.Input) plan.Result { return planPod(in, name) },
	}
	p := controllerProcess(w, "kubelet-"+name, "system:node:"+name, []string{"system:nodes"}, func() []reconcile.Controller { return []reconcile.Controller{node, pods} })
	p.node = true
	return p
}

func planNode(in reconcile.Input, name string) (res plan.Result) {
	n := view.Get[*corev1.Node](in.View, kinds.Node, "", name)
	if n == nil {
		n = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}, Status: nodeStatus(in.Now)}
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.Node, n), Object: n})
	} else if !nodeReady(n) {
		c := n.DeepCopy()
		c.Status = nodeStatus(in.Now)
		c.Status.NodeInfo = n.Status.NodeInfo
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.Node, n).WithSub("status"), Object: c})
	}
	now := metav1.NewMicroTime(in.Now)
	l := view.Get[*coordinationv1.Lease](in.View, kinds.Lease, corev1.NamespaceNodeLease, name)
	switch {
	case l == nil:
		seconds := int32(leaseFor)
		l = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now}}
		if n.UID != "" {
			l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: n.UID}}
		}
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.Lease, l), Object: l})
	case in.Now.Sub(l.Spec.RenewTime.Time) >= leaseEvery:
		c := l.DeepCopy()
		c.Spec.RenewTime = &now
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.Lease, l), Object: c})
	default:
		res.After = l.Spec.RenewTime.Add(leaseEvery).Sub(in.Now)
		return res
	}
	res.After = leaseEvery
	return res
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func nodeStatus(now time.Time) corev1.NodeStatus {
	amounts := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(nodeCPU), corev1.ResourceMemory: resource.MustParse(nodeMemory),
		corev1.ResourcePods: *resource.NewQuantity(nodePods, resource.DecimalSI),
	}
	t := metav1.NewTime(now)
	return corev1.NodeStatus{Capacity: amounts, Allocatable: amounts, Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: t, LastTransitionTime: t}}}
}

// planPod brings one pod of the node a step further.
func planPod(in reconcile.Input, node string) (res plan.Result) {
	p := view.Get[*corev1.Pod](in.View, kinds.Pod, in.Key.Namespace, in.Key.Name)
	if p == nil || p.Spec.NodeName != node {
		return res
	}
	if p.DeletionTimestamp != nil {
		if wait := stopping(p).Add(stopsAfter).Sub(in.Now); wait > 0 {
			res.After = wait
			return res
		}
		if g := p.DeletionGracePeriodSeconds; len(p.Finalizers) > 0 && finished(p) && g != nil && *g == 0 {
			return res // it is up to others
		}
		if counted(p) && !finished(p) { // one that has not begun ends, too
			return endJobPod(in, p)
		}
		now := int64(0)
		res.Actions = []plan.Action{{Verb: plan.Delete, Ref: kinds.RefTo(kinds.Pod, p), UID: p.UID, GraceSeconds: &now,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}}}
		return res
	}
	if !finished(p) && podReady(p) && jobOf(p) != "" {
		return endJobPod(in, p)
	}
	if finished(p) || p.Status.Phase == corev1.PodRunning && podReady(p) {
		return res
	}
	c := p.DeepCopy()
	t := metav1.NewTime(in.Now)
	if p.Status.Phase == corev1.PodRunning {
		if wait := p.Status.StartTime.Add(startsAfter).Sub(in.Now); wait > 0 {
			res.After = wait
			return res
		}
	} else {
		c.Status.Phase, c.Status.StartTime = corev1.PodRunning, &t
		c.Status.PodIP = address(p)
		c.Status.PodIPs = []corev1.PodIP{{IP: c.Status.PodIP}}
	}
	setPodReady(&c.Status, p.Status.Phase == corev1.PodRunning, t)
	res.Actions = []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.Pod, p).WithSub("status"), Object: c}}
	return res
}

// stopping is when the pod was asked to end: the deletion timestamp is when
// its grace period is over.
func stopping(p *corev1.Pod) time.Time {
	t := p.DeletionTimestamp.Time
	if p.DeletionGracePeriodSeconds != nil {
		t = t.Add(-time.Duration(*p.DeletionGracePeriodSeconds) * time.Second)
	}
	return t
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func setPodReady(s *corev1.PodStatus, ready bool, now metav1.Time) {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	for _, t := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		c := corev1.PodCondition{Type: t, Status: status, LastTransitionTime: now}
		found := false
		for i := range s.Conditions {
			if s.Conditions[i].Type == t {
				s.Conditions[i], found = c, true
			}
		}
		if !found {
			s.Conditions = append(s.Conditions, c)
		}
	}
}

// address is a made-up pod IP.
func address(p *corev1.Pod) string {
	h := fnv.New32a()
	h.Write([]byte(p.UID))
	n := h.Sum32()
	return fmt.Sprintf("10.244.%d.%d", n>>8&0xff, n&0xff)
}

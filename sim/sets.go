package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Names of stateful and daemon sets, which select pods by them.
const (
	ring  = "ring"
	agent = "agent"
)

// actOnSets does one thing to a stateful or a daemon set.
func (u *users) actOnSets(ns string) (string, error) {
	sts := kinds.Ref{Kind: kinds.StatefulSet, Namespace: ns, Name: ring}
	ds := kinds.Ref{Kind: kinds.DaemonSet, Namespace: ns, Name: agent}
	image := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"demo:v%d"}]}}}}`, u.rng.IntN(4))
	if u.rng.IntN(5) < 2 {
		switch {
		case !u.there(ds):
			return "create daemon set", u.create(kinds.DaemonSet, u.daemonSet(ns))
		case u.rng.IntN(6) == 0:
			return "delete daemon set", u.remove(ds, u.policy())
		}
		return "set image of daemon set", u.patch(ds, image)
	}
	if !u.there(sts) {
		return "create stateful set", u.create(kinds.StatefulSet, u.statefulSet(ns))
	}
	switch u.rng.IntN(9) {
	case 0, 1:
		n := u.rng.IntN(5)
		return fmt.Sprintf("scale stateful set to %d", n), u.patch(sts, fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
	case 2:
		n := u.rng.IntN(3)
		return fmt.Sprintf("partition stateful set at %d", n), u.patch(sts, fmt.Sprintf(`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":%d}}}}`, n))
	case 3:
		n := 1 + u.rng.IntN(3)
		return fmt.Sprintf("let %d of stateful set be away", n), u.patch(sts, fmt.Sprintf(`{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":%d}}}}`, n))
	case 4:
		return "delete stateful set", u.remove(sts, u.policy())
	}
	return "set image of stateful set", u.patch(sts, image) // which at times is the one before
}

func (u *users) statefulSet(ns string) *appsv1.StatefulSet {
	replicas, history := int32(u.rng.IntN(5)), int32(u.rng.IntN(3))
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: ring}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, RevisionHistoryLimit: &history, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": ring}}, Template: u.template(ring)}}
	if u.rng.IntN(3) == 0 {
		s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	}
	if ns != "b" { // always or never: pods that a set adopts get no claims any more
		u.claims(s)
	}
	if n := intstr.FromInt32(int32(1 + u.rng.IntN(2))); u.rng.IntN(2) == 0 {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: &n}
	}
	return s
}

func (u *users) daemonSet(ns string) *appsv1.DaemonSet {
	history := int32(u.rng.IntN(3))
	s := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: agent}, Spec: appsv1.DaemonSetSpec{
		RevisionHistoryLimit: &history, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": agent}}, Template: u.template(agent)}}
	s.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("100m")
	if u.rng.IntN(4) == 0 {
		s.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: fmt.Sprintf("n%d", u.rng.IntN(nodes))}
	}
	none, n := intstr.FromInt32(0), intstr.FromInt32(int32(1+u.rng.IntN(2)))
	switch u.rng.IntN(4) {
	case 0:
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &none, MaxSurge: &n}
	case 1:
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &n}
	case 2:
		s.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	}
	return s
}

// relieveSets makes room, as relieve does; it returns what stays, in thousandths.
func (u *users) relieveSets(limit int64) (total int64) {
	for s := range view.List[*appsv1.DaemonSet](u.tap.Snapshot(), kinds.DaemonSet, "") {
		total += nodes * s.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
	}
	for s := range view.List[*appsv1.StatefulSet](u.tap.Snapshot(), kinds.StatefulSet, "") {
		each := s.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
		n := u.most(kinds.StatefulSet, s)
		if total += n * each; total > limit {
			total -= n * each
			u.note("scale", u.patch(kinds.RefTo(kinds.StatefulSet, s), `{"spec":{"replicas":0}}`))
		}
	}
	return total
}

// promised is a pod's node, if it may run on one only.
func promised(p *corev1.Pod) string {
	if p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil || p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return p.Spec.NodeName
	}
	return p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

// ownedPods by their controller, without those that have ended.
func ownedPods(t truth) map[types.UID][]*corev1.Pod {
	out := map[types.UID][]*corev1.Pod{}
	for _, p := range all[*corev1.Pod](t, kinds.Pod) {
		if ref := metav1.GetControllerOf(p); ref != nil && !finished(p) {
			out[ref.UID] = append(out[ref.UID], p)
		}
	}
	return out
}

// checkStatefulSets: each has all its pods, of the present template from the
// partition on, unless somebody else has one of its names.
func (w *world) checkStatefulSets(t truth) error {
	stuck, pods := w.waiting(), ownedPods(t)
	for _, s := range all[*appsv1.StatefulSet](t, kinds.StatefulSet) {
		if s.Status.ObservedGeneration != s.Generation {
			return fmt.Errorf("stateful set %s/%s: status of generation %d, there is %d", s.Namespace, s.Name, s.Status.ObservedGeneration, s.Generation)
		}
		if stuck || w.limited(s.Namespace) || slices.ContainsFunc(all[*corev1.Pod](t, kinds.Pod), func(p *corev1.Pod) bool {
			return p.Namespace == s.Namespace && strings.HasPrefix(p.Name, s.Name+"-") && !metav1.IsControlledBy(p, s)
		}) {
			continue
		}
		n := *s.Spec.Replicas
		if got := int32(len(pods[s.UID])); got != n || s.Status.Replicas != n || s.Status.AvailableReplicas != n {
			return fmt.Errorf("stateful set %s/%s wants %d, has %d: %+v", s.Namespace, s.Name, n, got, s.Status)
		}
		for _, p := range pods[s.UID] {
			at, err := ordinal(p)
			if err != nil || at >= int(n) {
				return fmt.Errorf("stateful set %s/%s of %d has %s: %w", s.Namespace, s.Name, n, p.Name, err)
			}
			if at >= int(*s.Spec.UpdateStrategy.RollingUpdate.Partition) && p.Labels[appsv1.StatefulSetRevisionLabel] != s.Status.UpdateRevision {
				return fmt.Errorf("stateful set %s/%s: %s is not of the present template", s.Namespace, s.Name, p.Name)
			}
		}
	}
	return nil
}

func ordinal(p *corev1.Pod) (int, error) {
	return strconv.Atoi(p.Name[strings.LastIndexByte(p.Name, '-')+1:])
}

// checkDaemonSets: each has one pod on each node that it may be on, of the
// present template.
func (w *world) checkDaemonSets(t truth) error {
	stuck, pods := w.waiting(), ownedPods(t)
	for _, s := range all[*appsv1.DaemonSet](t, kinds.DaemonSet) {
		if s.Status.ObservedGeneration != s.Generation {
			return fmt.Errorf("daemon set %s/%s: status of generation %d, there is %d", s.Namespace, s.Name, s.Status.ObservedGeneration, s.Generation)
		}
		if stuck || w.limited(s.Namespace) {
			continue
		}
		on := map[string]int{}
		for _, p := range pods[s.UID] {
			on[promised(p)]++
		}
		want := int32(0)
		for _, n := range all[*corev1.Node](t, kinds.Node) {
			if only := s.Spec.Template.Spec.NodeSelector[corev1.LabelHostname]; only != "" && only != n.Name || drained(n) {
				continue
			}
			if want++; on[n.Name] != 1 {
				return fmt.Errorf("daemon set %s/%s has %d pods on %s", s.Namespace, s.Name, on[n.Name], n.Name)
			}
		}
		st := s.Status
		updated := st.UpdatedNumberScheduled == want || s.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType
		if int(want) != len(on) || st.DesiredNumberScheduled != want || st.NumberAvailable != want || !updated || st.NumberMisscheduled != 0 {
			return fmt.Errorf("daemon set %s/%s wants %d pods, has them on %v: %+v", s.Namespace, s.Name, want, on, st)
		}
	}
	return nil
}

// setAudit watches what stateful and daemon sets may never do.
type setAudit struct {
	// came: which ordinals of a stateful set have been ready once.
	came map[types.UID]map[int]bool
	// ordered and beside: the sets that go in order, and those whose pods may
	// be two on a node, because they were allowed to at some time.
	ordered, beside map[types.UID]bool
	// on is what each daemon set has on each node.
	on map[types.UID]map[string]int
}

func newSetAudit() *setAudit {
	return &setAudit{came: map[types.UID]map[int]bool{}, ordered: map[types.UID]bool{}, beside: map[types.UID]bool{}, on: map[types.UID]map[string]int{}}
}

func (a *setAudit) observe(k *kinds.Kind, before, after kinds.Object) error {
	switch o := after.(type) {
	case *appsv1.StatefulSet:
		a.ordered[o.UID] = o.Spec.PodManagementPolicy == appsv1.OrderedReadyPodManagement
	case *appsv1.DaemonSet:
		r := o.Spec.UpdateStrategy.RollingUpdate
		a.beside[o.UID] = a.beside[o.UID] || r != nil && r.MaxSurge.IntValue() > 0
	}
	if k != kinds.Pod {
		return nil
	}
	var err error
	p, _ := after.(*corev1.Pod)
	if p != nil && before == nil {
		err = a.made(p)
	}
	if old, ok := before.(*corev1.Pod); ok {
		a.count(old, -1)
	}
	if p != nil {
		a.count(p, 1)
	}
	return err
}

// made judges a new pod: an ordered set makes one only once all before it have
// been ready, and a daemon set none where it has one.
func (a *setAudit) made(p *corev1.Pod) error {
	ref := metav1.GetControllerOf(p)
	switch {
	case ref == nil:
	case ref.Kind == "StatefulSet" && a.ordered[ref.UID]:
		n, err := ordinal(p)
		for i := range n {
			if !a.came[ref.UID][i] {
				return fmt.Errorf("pod %s/%s is made, but %d has not been ready yet", p.Namespace, p.Name, i)
			}
		}
		return err
	case ref.Kind == "DaemonSet" && !a.beside[ref.UID] && a.on[ref.UID][promised(p)] > 0:
		return fmt.Errorf("daemon set %s/%s makes a second pod on %s", p.Namespace, ref.Name, promised(p))
	}
	return nil
}

func (a *setAudit) count(p *corev1.Pod, sign int) {
	ref := metav1.GetControllerOf(p)
	if ref == nil {
		return
	}
	switch ref.Kind {
	case "StatefulSet":
		if n, err := ordinal(p); err == nil && sign > 0 && podReady(p) {
			if a.came[ref.UID] == nil {
				a.came[ref.UID] = map[int]bool{}
			}
			a.came[ref.UID][n] = true
		}
	case "DaemonSet":
		if finished(p) || p.DeletionTimestamp != nil {
			return
		}
		if a.on[ref.UID] == nil {
			a.on[ref.UID] = map[string]int{}
		}
		a.on[ref.UID][promised(p)] += sign
	}
}

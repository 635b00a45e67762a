package why

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// revision of a replica set, as its deployment counts them.
const revision = "deployment.kubernetes.io/revision"

// podsOf are the pods that a controller owns, found by its selector.
func (l *look) podsOf(namespace string, selector labels.Selector, owner types.UID) []*corev1.Pod {
	all, _ := list[*corev1.Pod](l, Want{Kind: kinds.Pod, Namespace: namespace, Labels: selector.String()})
	return slices.DeleteFunc(all, func(p *corev1.Pod) bool {
		ref := metav1.GetControllerOfNoCopy(p)
		return ref == nil || ref.UID != owner
	})
}

func selectorOf(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing() // the API server has judged it
	}
	return out
}

// byPods goes on to a pod with the symptom that most of them have.
func byPods(f *finding, pods []*corev1.Pod) *finding {
	p, alike := worst(pods)
	if p == nil {
		return f
	}
	if len(pods) > 1 {
		f.What += fmt.Sprintf("; %d of %d pods are like %s", alike, len(pods), p.Name)
	}
	return f.behind(kinds.Pod, p)
}

func replicasText(available, want int32, what string) string {
	return fmt.Sprintf("%d of %d pods are %s", available, want, what)
}

func pointed(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func (l *look) deployment(d *appsv1.Deployment) *finding {
	s, want := &d.Status, pointed(d.Spec.Replicas)
	if s.ObservedGeneration < d.Generation {
		return about(kinds.Deployment, d, "its newest change has not been taken up yet")
	}
	var stuck, failed *appsv1.DeploymentCondition
	for i := range s.Conditions {
		switch c := &s.Conditions[i]; {
		case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse:
			stuck = c
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			failed = c
		}
	}
	whole := s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want
	if whole && failed == nil {
		return nil
	}
	f := about(kinds.Deployment, d, "%s", replicasText(s.AvailableReplicas, want, "available"))
	if s.UpdatedReplicas < want {
		f.What += fmt.Sprintf(", %d of them new", s.UpdatedReplicas)
	} else if old := s.Replicas - s.UpdatedReplicas; old > 0 {
		f.What += fmt.Sprintf("; %d of an older template are not replaced yet", old)
	}
	switch {
	case d.Spec.Paused && s.UpdatedReplicas < want && failed == nil:
		f.What = "it is paused, so that its newest template is not rolled out: " + f.What
		for i := range s.Conditions {
			if c := &s.Conditions[i]; c.Reason == "DeploymentPaused" {
				f.since(c.LastTransitionTime)
			}
		}
		return f.help("`kubectl rollout resume deployment/%s -n %s`", d.Name, d.Namespace)
	case stuck != nil:
		f.What += ", and it has made no progress within its deadline"
		f.since(stuck.LastTransitionTime)
	case failed != nil:
		f.since(failed.LastTransitionTime)
	default:
		for i := range s.Conditions {
			if c := &s.Conditions[i]; c.Type == appsv1.DeploymentAvailable && c.Status == corev1.ConditionFalse {
				f.since(c.LastTransitionTime)
			}
		}
	}
	if rs := l.culprit(d); rs != nil {
		return f.behind(kinds.ReplicaSet, rs)
	}
	return l.blind(f)
}

// culprit is the replica set that holds a deployment up: the newest that is not
// as it should be.
func (l *look) culprit(d *appsv1.Deployment) *appsv1.ReplicaSet {
	all, _ := list[*appsv1.ReplicaSet](l, Want{Kind: kinds.ReplicaSet, Namespace: d.Namespace, Labels: selectorOf(d.Spec.Selector).String()})
	all = slices.DeleteFunc(all, func(rs *appsv1.ReplicaSet) bool { return !metav1.IsControlledBy(rs, d) })
	slices.SortFunc(all, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(number(b.Annotations[revision]), number(a.Annotations[revision])), cmp.Compare(a.Name, b.Name))
	})
	for _, rs := range all {
		if want := pointed(rs.Spec.Replicas); rs.Status.AvailableReplicas < want || rs.Status.Replicas != want || setFailure(rs.Status.Conditions) != nil {
			return rs
		}
	}
	return nil
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// set is what replica sets and replication controllers have in common.
type set struct {
	kind       *kinds.Kind
	obj        kinds.Object
	selector   labels.Selector
	want       int32
	has, avail int32
	ready      int32
	minReady   int32
	failure    string
	since      metav1.Time
}

func setOf(rs *appsv1.ReplicaSet) *set {
	s := &set{kind: kinds.ReplicaSet, obj: rs, selector: selectorOf(rs.Spec.Selector), want: pointed(rs.Spec.Replicas),
		has: rs.Status.Replicas, avail: rs.Status.AvailableReplicas, ready: rs.Status.ReadyReplicas, minReady: rs.Spec.MinReadySeconds}
	if c := setFailure(rs.Status.Conditions); c != nil {
		s.failure, s.since = c.Message, c.LastTransitionTime
	}
	return s
}

func controllerOf(rc *corev1.ReplicationController) *set {
	s := &set{kind: kinds.ReplicationController, obj: rc, selector: labels.SelectorFromSet(rc.Spec.Selector), want: pointed(rc.Spec.Replicas),
		has: rc.Status.Replicas, avail: rc.Status.AvailableReplicas, ready: rc.Status.ReadyReplicas, minReady: rc.Spec.MinReadySeconds}
	for i := range rc.Status.Conditions {
		if c := &rc.Status.Conditions[i]; c.Type == corev1.ReplicationControllerReplicaFailure && c.Status == corev1.ConditionTrue {
			s.failure, s.since = c.Message, c.LastTransitionTime
		}
	}
	return s
}

func (l *look) replicas(s *set) *finding {
	if s.failure == "" && s.avail >= s.want && s.has <= s.want {
		return nil
	}
	if s.failure != "" && s.has < s.want {
		return l.failure(s.kind, s.obj, s.failure).since(s.since)
	}
	f := about(s.kind, s.obj, "%s", replicasText(s.avail, s.want, "available"))
	if s.has < s.want {
		if failed := l.failedCreate(s.kind, s.obj); failed != nil {
			return failed
		}
	}
	if s.has > s.want {
		f.What = fmt.Sprintf("it has %d pods, and is to have %d", s.has, s.want)
	}
	if s.ready > s.avail && s.ready >= s.want {
		f.What += fmt.Sprintf("; ready ones have to stay so for minReadySeconds, %d s", s.minReady)
	}
	return l.blind(byPods(f, l.podsOf(s.obj.GetNamespace(), s.selector, s.obj.GetUID())))
}

func (l *look) statefulSet(o *appsv1.StatefulSet) *finding {
	s, want := &o.Status, pointed(o.Spec.Replicas)
	if s.ObservedGeneration < o.Generation {
		return about(kinds.StatefulSet, o, "its newest change has not been taken up yet")
	}
	pods := l.podsOf(o.Namespace, selectorOf(o.Spec.Selector), o.UID)
	if s.AvailableReplicas >= want && s.Replicas == want {
		if o.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType && s.UpdateRevision != s.CurrentRevision && s.UpdatedReplicas < want {
			return about(kinds.StatefulSet, o, "%d of %d pods are of an older template, and are replaced only when they are deleted", want-s.UpdatedReplicas, want).
				help("delete the old pods, or set updateStrategy to RollingUpdate")
		}
		return nil
	}
	f := about(kinds.StatefulSet, o, "%s", replicasText(s.AvailableReplicas, want, "available"))
	if s.Replicas < want {
		// In order, the others wait for the first that is not ready.
		if failed := l.failedCreate(kinds.StatefulSet, o); failed != nil && !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return symptom(p) != "" }) {
			return failed
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(ordinal(a.Name), ordinal(b.Name)) })
	for _, p := range pods {
		if symptom(p) == "" {
			continue
		}
		if o.Spec.PodManagementPolicy != appsv1.ParallelPodManagement && s.Replicas < want {
			f.What += fmt.Sprintf("; the next are made when %s is ready", p.Name)
		}
		return f.behind(kinds.Pod, p)
	}
	return l.blind(f)
}

func ordinal(name string) int { return number(name[strings.LastIndexByte(name, '-')+1:]) }

func (l *look) daemonSet(d *appsv1.DaemonSet) *finding {
	s := &d.Status
	switch {
	case s.ObservedGeneration < d.Generation:
		return about(kinds.DaemonSet, d, "its newest change has not been taken up yet")
	case s.DesiredNumberScheduled == 0:
		return l.nowhere(d)
	case s.NumberAvailable >= s.DesiredNumberScheduled && s.UpdatedNumberScheduled >= s.DesiredNumberScheduled && s.NumberMisscheduled == 0:
		return nil
	case s.NumberAvailable >= s.DesiredNumberScheduled && d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType && s.NumberMisscheduled == 0:
		return about(kinds.DaemonSet, d, "%d of %d pods are of an older template, and are replaced only when they are deleted", s.DesiredNumberScheduled-s.UpdatedNumberScheduled, s.DesiredNumberScheduled).
			help("delete the old pods, or set updateStrategy to RollingUpdate")
	}
	f := about(kinds.DaemonSet, d, "%s", replicasText(s.NumberAvailable, s.DesiredNumberScheduled, "available"))
	if s.NumberMisscheduled > 0 {
		f.What += fmt.Sprintf(", and %d run where they should not", s.NumberMisscheduled)
	}
	if s.CurrentNumberScheduled < s.DesiredNumberScheduled {
		if failed := l.failedCreate(kinds.DaemonSet, d); failed != nil {
			return failed
		}
	}
	return l.blind(byPods(f, l.podsOf(d.Namespace, selectorOf(d.Spec.Selector), d.UID)))
}

// nowhere: a daemon set that no node is right for.
func (l *look) nowhere(d *appsv1.DaemonSet) *finding {
	nodes, _ := list[*corev1.Node](l, Want{Kind: kinds.Node})
	f := about(kinds.DaemonSet, d, "no node is right for it")
	if len(nodes) == 0 {
		return l.blind(f)
	}
	want := d.Spec.Template.Spec.NodeSelector
	lacking := 0
	for _, n := range nodes {
		if !labels.SelectorFromSet(want).Matches(labels.Set(n.Labels)) {
			lacking++
		}
	}
	f.What = fmt.Sprintf("none of the %d nodes is right for it", len(nodes))
	switch {
	case lacking == len(nodes):
		f.What += ": none has the labels of its nodeSelector, " + labels.FormatLabels(want)
		return f.help("label a node: `kubectl label node %s %s`", nodes[0].Name, strings.ReplaceAll(labels.FormatLabels(want), ",", " "))
	case d.Spec.Template.Spec.Affinity != nil && d.Spec.Template.Spec.Affinity.NodeAffinity != nil:
		f.What += ": its node affinity, or the nodes' taints, keep it away"
	default:
		f.What += ": the nodes' taints keep it away"
		return f.help("give its pods tolerations of the nodes' taints")
	}
	return f
}

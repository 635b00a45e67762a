package job

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// noIndex is the completion index of a pod without one.
const noIndex = -1

// tracked pods have not been counted yet.
func tracked(p *corev1.Pod) bool { return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) }

func succeeded(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded }

func ended(p *corev1.Pod) bool { return succeeded(p) || p.Status.Phase == corev1.PodFailed }

func isActive(p *corev1.Pod) bool { return !ended(p) && p.DeletionTimestamp == nil }

func isTerminating(p *corev1.Pod) bool { return !ended(p) && p.DeletionTimestamp != nil }

func where(pods []*corev1.Pod, is func(*corev1.Pod) bool) []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range pods {
		if is(p) {
			out = append(out, p)
		}
	}
	return out
}

// failed pods count as failures. One that is deleted may never get to its end,
// so it is one as soon as it goes, unless the job waits for the end itself.
func failed(j *batchv1.Job, p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || !replacesFailedOnly(j) && p.DeletionTimestamp != nil && !succeeded(p)
}

func replacesFailedOnly(j *batchv1.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed
}

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

func suspended(j *batchv1.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

// indexOf a pod: what its annotation says, as its label is the user's.
func indexOf(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return noIndex
	}
	return i
}

func indexesOf(pods []*corev1.Pod) spans {
	var out []int
	for _, p := range pods {
		if i := indexOf(p); i != noIndex {
			out = append(out, i)
		}
	}
	return spansOf(out)
}

// count in an annotation; what is no count is none.
func count(p *corev1.Pod, annotation string) int32 {
	n, err := strconv.Atoi(p.Annotations[annotation])
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}

// failuresOf an index up to the pod before this one, ignored ones too.
func failuresOf(p *corev1.Pod) int {
	return int(count(p, batchv1.JobIndexFailureCountAnnotation)) + int(count(p, batchv1.JobIndexIgnoredFailureCountAnnotation))
}

func ready(p *corev1.Pod) bool {
	c := condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// endOf a pod that has ended or is being deleted: when its last container did,
// else when it was no longer ready, else when it was asked to go.
func endOf(p *corev1.Pod) time.Time {
	if t := lastExit(p); !t.IsZero() {
		return t
	}
	if c := condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		t := p.DeletionTimestamp.Time
		if g := p.DeletionGracePeriodSeconds; g != nil {
			t = t.Add(-time.Duration(*g) * time.Second)
		}
		return t
	}
	return p.CreationTimestamp.Time
}

// lastExit is zero while some container has not ended. Sidecars end after the
// others.
func lastExit(p *corev1.Pod) time.Time {
	sidecar := map[string]bool{}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		sidecar[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	list := slices.Clone(p.Status.ContainerStatuses)
	for _, c := range p.Status.InitContainerStatuses {
		if sidecar[c.Name] {
			list = append(list, c)
		}
	}
	var last time.Time
	for _, c := range list {
		if c.State.Terminated == nil || c.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}
		}
		if t := c.State.Terminated.FinishedAt.Time; t.After(last) {
			last = t
		}
	}
	return last
}

// byLoss orders pods by what is lost with them, least first: unbound before
// bound, pending before running, unready before ready, young before old.
func byLoss(a, b *corev1.Pod) int {
	return cmp.Or(
		cmp.Compare(flag(a.Spec.NodeName != ""), flag(b.Spec.NodeName != "")),
		cmp.Compare(phase(a), phase(b)),
		cmp.Compare(flag(ready(a)), flag(ready(b))),
		readySince(b).Compare(readySince(a)),
		cmp.Compare(restarts(b), restarts(a)),
		b.CreationTimestamp.Compare(a.CreationTimestamp.Time),
		cmp.Compare(a.UID, b.UID),
	)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func phase(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodPending:
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

func readySince(p *corev1.Pod) time.Time {
	if c := condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

func restarts(p *corev1.Pod) int32 {
	most := int32(0)
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			most = max(most, list[i].RestartCount)
		}
	}
	return most
}

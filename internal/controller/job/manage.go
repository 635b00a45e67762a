package job

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// indexEnv tells a container which of the pods it is in.
const indexEnv = "JOB_COMPLETION_INDEX"

// maxGenerateName leaves room for the suffix in a pod's name of 63 bytes.
const maxGenerateName = 63 - 5

// changes of pods, and what they do to the numbers of the status.
type changes struct {
	actions []plan.Action
	created int
	deleted []*corev1.Pod
	// managed: the number of pods has been looked at.
	managed bool
}

// change brings the pods to what there has to be.
func (p *pass) change() changes {
	if p.verdict != nil {
		return p.stop()
	}
	if p.job.DeletionTimestamp != nil {
		return changes{}
	}
	return p.manage()
}

// stop ends all pods of a job that has a verdict; they stay tracked until they
// are counted. With too many for one pass, the verdict waits for the last.
func (p *pass) stop() changes {
	going := p.active
	if len(going) > burst {
		going, p.verdict = going[:burst], nil
	}
	if p.Failed && len(going) > 0 {
		p.verdict = nil // they may not go this time either
	}
	return changes{actions: p.deletes(going), deleted: going}
}

// manage creates or deletes pods, not both in one pass.
func (p *pass) manage() changes {
	c := changes{managed: true}
	want := p.want()
	if surplus := p.victims(len(p.active) - want); len(surplus) > 0 {
		c.deleted = surplus[:min(len(surplus), burst)]
		// Without the finalizer they are not counted as failures; and not as
		// successes either, so that is only done to a pod as it was seen.
		for i, pod := range where(c.deleted, tracked) {
			a := release(pod)
			a.ResourceVersion, a.Parallel = pod.ResourceVersion, i > 0
			c.actions = append(c.actions, a)
		}
		slices.Reverse(c.actions) // the last one alone parts them from the deletes
		c.actions = append(c.actions, p.deletes(c.deleted)...)
		return c
	}
	if n := want - len(p.active); n > 0 && !p.Ending {
		c.actions = p.creates(n)
		c.created = len(c.actions)
	}
	return c
}

// want is how many pods there have to be.
func (p *pass) want() int {
	n := int(*p.job.Spec.Parallelism)
	switch c := p.job.Spec.Completions; {
	case suspended(p.job):
		return 0
	case c != nil:
		return max(0, min(n, int(*c)-p.succeeded))
	case p.succeeded > 0:
		return len(p.active) // each pod knows when the work is done
	}
	return n
}

// victims are at least n active pods that are the least loss, and of an
// indexed job all whose index is wrong or has another pod.
func (p *pass) victims(n int) []*corev1.Pod {
	order := slices.SortedFunc(slices.Values(p.active), byLoss)
	if !indexed(p.job) {
		return order[:max(0, n)]
	}
	var out, left []*corev1.Pod
	taken := map[int]bool{}
	for _, pod := range slices.Backward(order) { // the best of an index stays
		if i := indexOf(pod); p.valid(pod) && !taken[i] {
			taken[i] = true
			left = append(left, pod)
		} else {
			out = append(out, pod)
		}
	}
	slices.Reverse(left)
	return append(out, left[:max(0, min(len(left), n-len(out)))]...)
}

func (p *pass) deletes(pods []*corev1.Pod) []plan.Action {
	var actions []plan.Action
	for _, pod := range pods {
		actions = append(actions, plan.Action{
			Verb: plan.Delete, Ref: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, Parallel: true,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
			Event:    event(p.job, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name),
			Failed:   event(p.job, corev1.EventTypeWarning, "FailedDelete", "Error deleting: "),
		})
	}
	return actions
}

// creates n pods, or fewer, since failures are waited after.
func (p *pass) creates(n int) []plan.Action {
	if replacesFailedOnly(p.job) {
		n -= len(p.terminating)
	}
	n = min(n, burst)
	if n <= 0 {
		return nil
	}
	if p.job.Spec.BackoffLimitPerIndex == nil {
		if wait := waitAfter(p.Failures, p.LastFailure, p.Now); wait > 0 {
			p.wait(wait)
			return nil
		}
	}
	taken := map[string]bool{}
	for _, pod := range p.Owned {
		taken[pod.Name] = true
	}
	var actions []plan.Action
	if !indexed(p.job) {
		for range n {
			actions = append(actions, p.create(noIndex, taken))
		}
		return actions
	}
	for _, i := range p.dueIndexes(n) {
		actions = append(actions, p.create(i, taken))
	}
	return actions
}

// dueIndexes are those that need a pod now, at most n.
func (p *pass) dueIndexes(n int) []int {
	busy := p.done.with(p.failedIndexes, indexesOf(p.active))
	if replacesFailedOnly(p.job) {
		busy = busy.with(indexesOf(p.terminating))
	}
	pending := busy.missing(p.completions(), n)
	if p.job.Spec.BackoffLimitPerIndex == nil {
		return pending
	}
	var due []int
	var shortest time.Duration
	for _, i := range pending {
		wait := time.Duration(0)
		if pod := p.last[i]; pod != nil {
			wait = waitAfter(failuresOf(pod)+1, endOf(pod), p.Now)
		}
		switch {
		case wait == 0:
			due = append(due, i)
		case shortest == 0 || wait < shortest:
			shortest = wait
		}
	}
	if shortest > 0 {
		p.wait(shortest)
	}
	return due
}

// create makes one pod of the template, of that index or of none.
func (p *pass) create(index int, taken map[string]bool) plan.Action {
	t := &p.job.Spec.Template
	tail := "-"
	if index != noIndex {
		tail = "-" + strconv.Itoa(index) + "-"
	}
	base := p.job.Name[:min(len(p.job.Name), maxGenerateName-len(tail))] + tail
	name := base + p.Suffix()
	for tries := 0; taken[name] && tries < 10; tries++ {
		name = base + p.Suffix()
	}
	taken[name] = true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.job.Namespace, Name: name, GenerateName: base,
			Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations), Finalizers: slices.Clone(t.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p.job, kinds.Job.GVK)},
		},
		Spec: *t.Spec.DeepCopy(),
	}
	if !tracked(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if index != noIndex {
		p.number(pod, index)
	}
	return plan.Action{
		Verb: plan.Create, Ref: kinds.RefTo(kinds.Pod, pod), Object: pod, Parallel: true,
		Event:  event(p.job, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+name),
		Failed: event(p.job, corev1.EventTypeWarning, "FailedCreate", "Error creating: "),
	}
}

// number tells a pod its index, everywhere that it is looked for.
func (p *pass) number(pod *corev1.Pod, index int) {
	set := func(m *map[string]string, key, value string) {
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[key] = value
	}
	n := strconv.Itoa(index)
	set(&pod.Labels, batchv1.JobCompletionIndexAnnotation, n)
	set(&pod.Annotations, batchv1.JobCompletionIndexAnnotation, n)
	pod.Spec.Hostname = p.job.Name + "-" + n
	for i := range pod.Spec.InitContainers {
		numberEnv(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		numberEnv(&pod.Spec.Containers[i])
	}
	if p.job.Spec.BackoffLimitPerIndex == nil {
		return
	}
	failures, ignored := int32(0), int32(0)
	if before := p.last[index]; before != nil {
		failures, ignored = count(before, batchv1.JobIndexFailureCountAnnotation), count(before, batchv1.JobIndexIgnoredFailureCountAnnotation)
		if p.counts(before) {
			failures++
		} else {
			ignored++
		}
	}
	set(&pod.Annotations, batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(int(failures)))
	if ignored > 0 {
		set(&pod.Annotations, batchv1.JobIndexIgnoredFailureCountAnnotation, strconv.Itoa(int(ignored)))
	}
}

// numberEnv leaves a variable that the template sets itself.
func numberEnv(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == indexEnv }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexEnv, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"}}})
}

// byIndex orders pods so that indexes are told in order.
func byIndex(a, b *corev1.Pod) int { return cmp.Compare(indexOf(a), indexOf(b)) }

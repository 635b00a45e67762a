package validate

import (
	"fmt"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	klabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds that keep the status of an indexed job, which lists its indexes, of a
// size that can be stored.
const (
	maxIndexedParallelism = 100_000
	maxFailedIndexes      = 100_000
	manyCompletions       = 100_000
	maxWithMany           = 10_000 // parallelism and failed indexes of such a job
	maxManagedBy          = 63
)

// Job judges a new job.
func Job(j *batchv1.Job) field.ErrorList {
	e := meta(&j.ObjectMeta, true, subdomain)
	e.generatedSelector(j)
	e.job(specPath, &j.Spec)
	e.indexedNames(j)
	return e.list
}

// JobUpdate judges a changed one: what its pods are and how they count stays,
// but for a suspended job without pods, which a queue may still place.
func JobUpdate(j, old *batchv1.Job) field.ErrorList {
	e := metaUpdate(&j.ObjectMeta, &old.ObjectMeta)
	s, was := &j.Spec, &old.Spec
	e.job(specPath, s)
	e.completionsUpdate(s, was)
	e.immutable(specPath.Child("selector"), s.Selector, was.Selector)
	e.jobTemplateUpdate(j, old)
	e.immutable(specPath.Child("completionMode"), s.CompletionMode, was.CompletionMode)
	e.immutable(specPath.Child("podFailurePolicy"), s.PodFailurePolicy, was.PodFailurePolicy)
	e.immutable(specPath.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex, was.BackoffLimitPerIndex)
	e.immutable(specPath.Child("managedBy"), s.ManagedBy, was.ManagedBy)
	e.immutable(specPath.Child("successPolicy"), s.SuccessPolicy, was.SuccessPolicy)
	e.indexedNames(j)
	return e.list
}

// generatedSelector checks that the server could make the pods those of this
// job: clients may not have given the labels other values.
func (e *errors) generatedSelector(j *batchv1.Job) {
	if manual := j.Spec.ManualSelector; manual != nil && *manual || j.Spec.Selector == nil {
		return
	}
	if j.UID == "" {
		e.required(metaPath.Child("uid"))
	}
	p := specPath.Child("template", "metadata", "labels")
	want := klabels.Set{}
	for _, l := range [][2]string{{"controller-uid", string(j.UID)}, {"job-name", j.Name}, {batchv1.ControllerUidLabel, string(j.UID)}, {batchv1.JobNameLabel, j.Name}} {
		want[l[0]] = l[1]
		switch have, ok := j.Spec.Template.Labels[l[0]]; {
		case !ok:
			e.add(field.Required(p.Key(l[0]), fmt.Sprintf("must be '%s'", l[1])))
		case have != l[1]:
			e.invalid(p.Key(l[0]), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", l[1]))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(want) {
		e.invalid(specPath.Child("selector"), j.Spec.Selector, "`selector` not auto-generated")
	}
}

// indexedNames: the name of the last pod must do as a host name.
func (e *errors) indexedNames(j *batchv1.Job) {
	n := j.Spec.Completions
	if !indexed(&j.Spec) || n == nil || *n <= 0 {
		return
	}
	if host := fmt.Sprintf("%s-%d", j.Name, *n-1); len(validation.IsDNS1123Label(host)) > 0 {
		e.invalid(metaPath.Child("name"), j.Name, "will not able to create pod with invalid DNS label: "+host)
	}
}

func indexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// job judges the spec of a job that has its selector.
func (e *errors) job(p *field.Path, s *batchv1.JobSpec) {
	e.jobSpec(p, s)
	if s.Selector == nil {
		e.required(p.Child("selector"))
	} else {
		e.selector(p.Child("selector"), s.Selector)
	}
	if sel, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !sel.Matches(klabels.Set(s.Template.Labels)) {
		e.invalid(p.Child("template", "metadata", "labels"), s.Template.Labels, selectorMismatch)
	}
}

// jobSpec judges everything but the selector.
func (e *errors) jobSpec(p *field.Path, s *batchv1.JobSpec) {
	for _, f := range []struct {
		name string
		n    *int32
	}{
		{"parallelism", s.Parallelism}, {"completions", s.Completions}, {"backoffLimit", s.BackoffLimit},
		{"ttlSecondsAfterFinished", s.TTLSecondsAfterFinished}, {"backoffLimitPerIndex", s.BackoffLimitPerIndex}, {"maxFailedIndexes", s.MaxFailedIndexes},
	} {
		if f.n != nil {
			e.notNegative(p.Child(f.name), int64(*f.n))
		}
	}
	if n := s.ActiveDeadlineSeconds; n != nil {
		e.notNegative(p.Child("activeDeadlineSeconds"), *n)
	}
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		e.add(field.Required(p.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if m := s.ManagedBy; m != nil {
		at := p.Child("managedBy")
		e.all(validation.IsDomainPrefixedPath(at, *m))
		if len(*m) > maxManagedBy {
			e.add(field.TooLong(at, "", maxManagedBy))
		}
	}
	e.completionMode(p, s)
	if s.PodFailurePolicy != nil {
		e.podFailurePolicy(p.Child("podFailurePolicy"), s)
	}
	if at := p.Child("successPolicy"); s.SuccessPolicy != nil && !indexed(s) {
		e.invalid(at, *s.SuccessPolicy, "requires indexed completion mode")
	} else if s.SuccessPolicy != nil {
		e.successPolicy(at, s)
	}
	if s.PodFailurePolicy != nil {
		inPtr(e, p.Child("podReplacementPolicy"), s.PodReplacementPolicy, batchv1.Failed)
	} else {
		inPtr(e, p.Child("podReplacementPolicy"), s.PodReplacementPolicy, batchv1.Failed, batchv1.TerminatingOrFailed)
	}
	if s.Scheduling != nil {
		e.forbid(p.Child("scheduling"), "scheduling of groups is "+notYet)
	}
	e.template(p.Child("template"), &s.Template)
	e.endingPods(p.Child("template", "spec", "restartPolicy"), s)
}

// endingPods: a job is made of pods that end.
func (e *errors) endingPods(p *field.Path, s *batchv1.JobSpec) {
	const never, onFailure = corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure
	switch policy := s.Template.Spec.RestartPolicy; {
	case policy == corev1.RestartPolicyAlways || policy == "":
		e.add(field.Required(p, fmt.Sprintf("valid values: %q, %q", onFailure, never)))
	case policy != onFailure && policy != never:
		e.add(field.NotSupported(p, policy, []corev1.RestartPolicy{onFailure, never}))
	case s.PodFailurePolicy != nil && policy != never:
		e.invalid(p, policy, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", never))
	}
}

func (e *errors) completionMode(p *field.Path, s *batchv1.JobSpec) {
	if m := s.CompletionMode; m != nil && *m != batchv1.NonIndexedCompletion && *m != batchv1.IndexedCompletion {
		e.add(field.NotSupported(p.Child("completionMode"), *m, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
	}
	if s.CompletionMode == nil || *s.CompletionMode == batchv1.NonIndexedCompletion {
		if n := s.BackoffLimitPerIndex; n != nil {
			e.invalid(p.Child("backoffLimitPerIndex"), *n, "requires indexed completion mode")
		}
		if n := s.MaxFailedIndexes; n != nil {
			e.invalid(p.Child("maxFailedIndexes"), *n, "requires indexed completion mode")
		}
	}
	if !indexed(s) {
		return
	}
	if s.Completions == nil {
		e.add(field.Required(p.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	atMost := func(name string, n *int32, most int32, also string) {
		if n != nil && *n > most {
			e.invalid(p.Child(name), *n, fmt.Sprintf("must be less than or equal to %d%s", most, also))
		}
	}
	atMost("parallelism", s.Parallelism, maxIndexedParallelism, fmt.Sprintf(" when completion mode is %s", batchv1.IndexedCompletion))
	if n := s.MaxFailedIndexes; s.Completions != nil && n != nil && *n > *s.Completions {
		e.invalid(p.Child("maxFailedIndexes"), *n, "must be less than or equal to completions")
	}
	atMost("maxFailedIndexes", s.MaxFailedIndexes, maxFailedIndexes, "")
	if s.Completions == nil || *s.Completions <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return
	}
	if s.MaxFailedIndexes == nil {
		e.add(field.Required(p.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
	}
	why := fmt.Sprintf(" when completions are above %d and used with backoff limit per index", manyCompletions)
	atMost("parallelism", s.Parallelism, maxWithMany, why)
	atMost("maxFailedIndexes", s.MaxFailedIndexes, maxWithMany, why)
}

// completionsUpdate: an indexed job grows and shrinks with its parallelism.
func (e *errors) completionsUpdate(s, was *batchv1.JobSpec) {
	p := specPath.Child("completions")
	switch {
	case !indexed(s):
		e.immutable(p, s.Completions, was.Completions)
	case same(s.Completions, was.Completions) || s.Completions == nil:
	case s.Parallelism == nil || *s.Completions != *s.Parallelism:
		e.invalid(p, *s.Completions, "can only be modified in tandem with spec.parallelism")
	}
}

// jobTemplateUpdate: a suspended job without pods may be told where they are
// to run and what they may use.
func (e *errors) jobTemplateUpdate(j, old *batchv1.Job) {
	p := specPath.Child("template")
	t, was := &j.Spec.Template, &old.Spec.Template
	if same(t, was) {
		return
	}
	suspended := old.Spec.Suspend != nil && *old.Spec.Suspend
	if !suspended || old.Status.Active > 0 || old.Status.StartTime != nil && !jobIs(old, batchv1.JobSuspended, corev1.ConditionTrue) {
		e.immutable(p, t, was)
		return
	}
	was = was.DeepCopy()
	a, b := t.Spec.Affinity, was.Spec.Affinity
	switch {
	case a == nil && b != nil:
		if b.NodeAffinity = nil; *b == (corev1.Affinity{}) {
			was.Spec.Affinity = nil
		}
	case a != nil && b == nil:
		was.Spec.Affinity = &corev1.Affinity{NodeAffinity: a.NodeAffinity}
	case a != nil:
		b.NodeAffinity = a.NodeAffinity
	}
	was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates = t.Spec.NodeSelector, t.Spec.Tolerations, t.Spec.SchedulingGates
	adoptResources(was.Spec.Containers, t.Spec.Containers)
	adoptResources(was.Spec.InitContainers, t.Spec.InitContainers)
	e.immutable(p.Child("spec"), t.Spec, was.Spec)
}

func adoptResources(into, from []corev1.Container) {
	if len(into) != len(from) {
		return
	}
	for i := range into {
		if into[i].Name == from[i].Name {
			into[i].Resources = from[i].Resources
		}
	}
}

// indexes parses a list such as "1,3-5", which rises and stays below a count,
// and returns how many there are.
func indexes(list string, completions int32) (int32, error) {
	if list == "" {
		return 0, nil
	}
	last, total := int32(-1), int32(0)
	for part := range strings.SplitSeq(list, ",") {
		from, to, err := interval(part, completions)
		if err != nil {
			return 0, err
		}
		if total > 0 && last >= from {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, from)
		}
		total += to - from + 1
		last = to
	}
	return total, nil
}

func interval(part string, completions int32) (from, to int32, err error) {
	limits := strings.Split(part, "-")
	if len(limits) > 2 {
		return 0, 0, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
	}
	var ends [2]int
	for i, text := range limits {
		if ends[i], err = strconv.Atoi(text); err != nil {
			return 0, 0, fmt.Errorf("cannot convert string to integer for index: %q", text)
		}
		if ends[i] >= int(completions) {
			return 0, 0, fmt.Errorf("too large index: %q", text)
		}
	}
	if len(limits) == 1 {
		return int32(ends[0]), int32(ends[0]), nil
	}
	if ends[0] >= ends[1] {
		return 0, 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", ends[0], ends[1])
	}
	return int32(ends[0]), int32(ends[1]), nil
}

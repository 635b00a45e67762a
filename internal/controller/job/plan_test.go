package job

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

type jobOption func(*batchv1.Job)

// job of two pods, one at a time.
func job(opts ...jobOption) *batchv1.Job {
	l := map[string]string{batchv1.ControllerUidLabel: "job"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pi", UID: "job", Generation: 1},
		Spec: batchv1.JobSpec{
			Parallelism: ptr(int32(1)), Completions: ptr(int32(2)), BackoffLimit: ptr(int32(6)), CompletionMode: ptr(batchv1.NonIndexedCompletion),
			Suspend: ptr(false), PodReplacementPolicy: ptr(batchv1.TerminatingOrFailed),
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
		Status: batchv1.JobStatus{StartTime: ptr(metav1.NewTime(now.Add(-time.Minute)))},
	}
	for _, o := range opts {
		o(j)
	}
	return j
}

func sized(parallelism, completions int32) jobOption {
	return func(j *batchv1.Job) { j.Spec.Parallelism, j.Spec.Completions = &parallelism, &completions }
}
func queue(parallelism int32) jobOption {
	return func(j *batchv1.Job) { j.Spec.Parallelism, j.Spec.Completions = &parallelism, nil }
}
func asIndexed(j *batchv1.Job) { j.Spec.CompletionMode = ptr(batchv1.IndexedCompletion) }
func limit(n int32) jobOption  { return func(j *batchv1.Job) { j.Spec.BackoffLimit = &n } }
func perIndex(n int32) jobOption {
	return func(j *batchv1.Job) {
		asIndexed(j)
		j.Spec.BackoffLimitPerIndex, j.Spec.BackoffLimit = &n, ptr(int32(math.MaxInt32))
	}
}
func maxFailedIndexes(n int32) jobOption {
	return func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = &n }
}
func deadline(seconds int64) jobOption {
	return func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = &seconds }
}
func suspend(j *batchv1.Job)        { j.Spec.Suspend = ptr(true) }
func replacesFailed(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr(batchv1.Failed) }
func others(j *batchv1.Job)         { j.Spec.ManagedBy = ptr("example.com/theirs") }
func leavingJob(j *batchv1.Job)     { j.DeletionTimestamp = ptr(metav1.NewTime(now)) }
func rules(r ...batchv1.PodFailurePolicyRule) jobOption {
	return func(j *batchv1.Job) { j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: r} }
}
func success(r ...batchv1.SuccessPolicyRule) jobOption {
	return func(j *batchv1.Job) { j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: r} }
}
func told(t batchv1.JobConditionType, reason, message string) jobOption {
	return func(j *batchv1.Job) {
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message})
	}
}
func toldCounts(succeeded, failed int32) jobOption {
	return func(j *batchv1.Job) { j.Status.Succeeded, j.Status.Failed = succeeded, failed }
}
func uncounted(succeeded, failed []types.UID) jobOption {
	return func(j *batchv1.Job) {
		j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: succeeded, Failed: failed}
	}
}
func toldIndexes(done string, failed ...string) jobOption {
	return func(j *batchv1.Job) {
		j.Status.CompletedIndexes = done
		for _, f := range failed {
			j.Status.FailedIndexes = &f
		}
	}
}

type podOption func(*corev1.Pod)

// pod that runs, of the job above.
func pod(name string, opts ...podOption) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("u-" + name), ResourceVersion: "7", Labels: map[string]string{batchv1.ControllerUidLabel: "job"},
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)), Finalizers: []string{batchv1.JobTrackingFinalizer},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "pi", UID: "job", Controller: ptr(true)}}},
		Spec: corev1.PodSpec{NodeName: "n"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func unready(p *corev1.Pod)   { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func succeeds(p *corev1.Pod)  { p.Status.Phase = corev1.PodSucceeded; unready(p) }
func fails(p *corev1.Pod)     { p.Status.Phase = corev1.PodFailed; unready(p) }
func pends(p *corev1.Pod)     { p.Status.Phase, p.Spec.NodeName = corev1.PodPending, ""; unready(p) }
func leaves(p *corev1.Pod)    { p.DeletionTimestamp = ptr(metav1.NewTime(now)) }
func untracked(p *corev1.Pod) { p.Finalizers = nil }
func orphaned(p *corev1.Pod)  { p.OwnerReferences = nil }
func stranger(p *corev1.Pod)  { p.Labels = nil }
func at(index int) podOption {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: fmt.Sprint(index)}
	}
}
func failedBefore(times, ignored int) podOption {
	return func(p *corev1.Pod) {
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = fmt.Sprint(times)
		p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = fmt.Sprint(ignored)
	}
}
func exits(code int32) podOption {
	return func(p *corev1.Pod) {
		fails(p)
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(now.Add(-time.Hour))}}}}
	}
}
func disrupted(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
}
func restarted(n int32) podOption {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}
func endedAgo(d time.Duration) podOption {
	return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d)) }
}

func onExit(action batchv1.PodFailurePolicyAction, op batchv1.PodFailurePolicyOnExitCodesOperator, codes ...int32) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: op, Values: codes}}
}

func observed(j *batchv1.Job, pods ...*corev1.Pod) Observed {
	n := 0
	o := Observed{Job: j, Now: now, Suffix: func() string { n++; return fmt.Sprintf("s%04d", n) }}
	for _, p := range pods {
		switch ref := metav1.GetControllerOf(p); {
		case ref == nil && tracked(p) && j == nil:
			o.Strays = append(o.Strays, p)
		case ref == nil:
			o.Orphans = append(o.Orphans, p)
		case j == nil || ref.UID != j.UID:
			o.Strays = append(o.Strays, p)
		default:
			o.Owned = append(o.Owned, p)
		}
	}
	if j != nil {
		m := memory{jobs: map[reconcile.Key]*streak{}}
		o.Failures, o.LastFailure = m.recent(reconcile.Key{}, j, o.Owned)
	}
	return o
}

// summary of actions: "create", "create 3", "delete a", "adopt a", "disown a",
// "free a" for its finalizer, "status" with what differs from none.
func summary(res plan.Result) []string {
	var out []string
	for _, a := range res.Actions {
		data := string(a.Data)
		switch {
		case a.Verb == plan.Create:
			out = append(out, strings.TrimSpace("create "+a.Object.(*corev1.Pod).Annotations[batchv1.JobCompletionIndexAnnotation]))
		case a.Verb == plan.Patch && strings.Contains(data, `"$patch"`):
			out = append(out, "disown "+a.Ref.Name)
		case a.Verb == plan.Patch && strings.Contains(data, "ownerReferences"):
			out = append(out, "adopt "+a.Ref.Name)
		case a.Verb == plan.Patch:
			out = append(out, "free "+a.Ref.Name)
		case a.Ref.Sub == "status":
			out = append(out, "status"+toldIn(a.Object.(*batchv1.Job).Status))
		default:
			out = append(out, string(a.Verb)+" "+a.Ref.Name)
		}
	}
	return out
}

func toldIn(s batchv1.JobStatus) string {
	var b strings.Builder
	say := func(name string, n int) {
		if n != 0 {
			fmt.Fprintf(&b, " %d %s", n, name)
		}
	}
	say("active", int(s.Active))
	say("ready", int(*s.Ready))
	say("terminating", int(*s.Terminating))
	say("succeeded", int(s.Succeeded))
	say("failed", int(s.Failed))
	for _, u := range s.UncountedTerminatedPods.Succeeded {
		fmt.Fprintf(&b, " +%s", strings.TrimPrefix(string(u), "u-"))
	}
	for _, u := range s.UncountedTerminatedPods.Failed {
		fmt.Fprintf(&b, " -%s", strings.TrimPrefix(string(u), "u-"))
	}
	if s.CompletedIndexes != "" {
		b.WriteString(" done:" + s.CompletedIndexes)
	}
	if s.FailedIndexes != nil && *s.FailedIndexes != "" {
		b.WriteString(" bad:" + *s.FailedIndexes)
	}
	for _, c := range s.Conditions {
		fmt.Fprintf(&b, " %s=%s:%s", c.Type, c.Status, c.Reason)
	}
	return b.String()
}

type planCase struct {
	name string
	in   Observed
	want string // actions, joined by "; "
}

func check(t *testing.T, cases []planCase) {
	t.Helper()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			t.Helper()
			if got := strings.Join(summary(Plan(tt.in)), "; "); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestPodsAsNeeded(t *testing.T) {
	failedLast := observed(job(sized(3, 3)), pod("a", fails))
	failedLast.Failed, failedLast.Failures = true, 0
	check(t, []planCase{
		{"first", observed(job()), "create; status 1 active"},
		{"as many as may at once", observed(job(sized(3, 9)), pod("a")), "create; create; status 3 active 1 ready"},
		{"no more than are left", observed(job(sized(5, 6), toldCounts(4, 0)), pod("a")), "create; status 2 active 1 ready 4 succeeded"},
		{"a success is told, then let go", observed(job(), pod("a", succeeds)), "create; status 1 active +a; free a"},
		{"and then counted", observed(job(uncounted([]types.UID{"u-a"}, nil)), pod("a", succeeds, untracked), pod("b")), "status 1 active 1 ready 1 succeeded"},
		{"also if it is gone", observed(job(uncounted([]types.UID{"u-a"}, []types.UID{"u-x"})), pod("b")), "status 1 active 1 ready 1 succeeded 1 failed"},
		{"told but still there", observed(job(uncounted([]types.UID{"u-a"}, nil)), pod("a", succeeds), pod("b")), "status 1 active 1 ready +a; free a"},
		{"a failure waits", observed(job(), pod("a", fails, endedAgo(4*time.Second))), "status -a; free a"},
		{"and is replaced later", observed(job(), pod("a", fails)), "create; status 1 active -a; free a"},
		{"a deleted pod is a failure", observed(job(), pod("a", leaves), pod("b", leaves, succeeds)), "status 1 terminating +b -a; free a; free b"},
		{"unless its end is awaited", observed(job(replacesFailed), pod("a", leaves)), "status 1 terminating"},
		{"too many", observed(job(), pod("a"), pod("b", pends)), "free b; delete b; status 1 active 1 ready 1 terminating"},
		{"none at once", observed(job(sized(0, 3)), pod("a")), "free a; delete a; status 1 terminating"},
		{"after a failed write the status goes first", failedLast, "status -a; free a; create; create; create"},
		{"a job that is being deleted", observed(job(leavingJob), pod("a"), pod("b", succeeds)), "status 1 active 1 ready +b; free a; free b"},
		{"another controller's", observed(job(others), pod("a", succeeds)), ""},
		{"adopts", observed(job(), pod("a", orphaned, untracked)), "adopt a; status 1 active 1 ready"},
		{"adopts what has ended", observed(job(), pod("a", orphaned, untracked, succeeds)), "adopt a; create; status 1 active +a; free a"},
		{"leaves other orphans", observed(job(), pod("a", orphaned, stranger), pod("b", orphaned, leaves), pod("c")), "status 1 active 1 ready"},
		{"disowns", observed(job(), pod("a", stranger), pod("b")), "disown a; status 1 active 1 ready"},
		{"disowns nothing while it goes", observed(job(leavingJob), pod("a", stranger)), "free a; status"},
	})
}

func TestWorkQueue(t *testing.T) {
	check(t, []planCase{
		{"all at once", observed(job(queue(2))), "create; create; status 2 active"},
		{"none is started once one has succeeded", observed(job(queue(3)), pod("a", succeeds), pod("b")), "status 1 active 1 ready +a; free a"},
		{"the last ends it", observed(job(queue(2), toldCounts(1, 0)), pod("b", succeeds)), "status 1 succeeded +b SuccessCriteriaMet=True:CompletionsReached; free b"},
		{"though it fails", observed(job(queue(2), toldCounts(1, 0)), pod("b", fails)), "status 1 succeeded -b SuccessCriteriaMet=True:CompletionsReached; free b"},
	})
}

func TestEnds(t *testing.T) {
	met := told(batchv1.JobSuccessCriteriaMet, "CompletionsReached", "Reached expected number of succeeded pods")
	target := told(batchv1.JobFailureTarget, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
	check(t, []planCase{
		{"enough", observed(job(toldCounts(1, 0)), pod("a", succeeds)), "status 1 succeeded +a SuccessCriteriaMet=True:CompletionsReached; free a"},
		{"counted", observed(job(toldCounts(1, 0), uncounted([]types.UID{"u-a"}, nil), met)), "status 2 succeeded SuccessCriteriaMet=True:CompletionsReached Complete=True:CompletionsReached"},
		{"but one still stops", observed(job(toldCounts(2, 0), met), pod("a", leaves, untracked)), "status 1 terminating 2 succeeded SuccessCriteriaMet=True:CompletionsReached"},
		{"nothing to do", observed(job(sized(1, 0))), "status SuccessCriteriaMet=True:CompletionsReached"},
		{"too often", observed(job(limit(0), sized(2, 2)), pod("a", fails), pod("b")), "delete b; status 1 terminating -a -b FailureTarget=True:BackoffLimitExceeded; free a; free b"},
		{"not told twice", observed(job(limit(1), uncounted(nil, []types.UID{"u-a"})), pod("a", fails)), "create; status 1 active -a; free a"},
		{"stops", observed(job(limit(0), target, uncounted(nil, []types.UID{"u-a", "u-b"})), pod("b", leaves, untracked)), "status 1 terminating 2 failed FailureTarget=True:BackoffLimitExceeded"},
		{"has stopped", observed(job(limit(0), target, toldCounts(0, 2))), "status 2 failed FailureTarget=True:BackoffLimitExceeded Failed=True:BackoffLimitExceeded"},
		{"no pods for one that fails", observed(job(limit(9), target)), "status FailureTarget=True:BackoffLimitExceeded Failed=True:BackoffLimitExceeded"},
		{"overdue", observed(job(deadline(60)), pod("a")), "delete a; status 1 terminating -a FailureTarget=True:DeadlineExceeded; free a"},
		{"ended", observed(job(told(batchv1.JobComplete, "", "")), pod("a", succeeds), pod("b", untracked, succeeds)), "free a"},
		{"failed, and another's", observed(job(told(batchv1.JobFailed, "", ""), others), pod("a", succeeds)), ""},
	})
	in := observed(job(toldCounts(1, 0), uncounted([]types.UID{"u-a"}, nil), met))
	res := Plan(in)
	s := res.Actions[0].Object.(*batchv1.Job).Status
	if s.CompletionTime == nil || !s.CompletionTime.Time.Equal(now) || res.Actions[0].Event.Reason != "Completed" || res.Actions[0].Event.Message != "Job completed" {
		t.Errorf("status %+v, event %+v", s, res.Actions[0].Event)
	}
	res = Plan(observed(job(toldCounts(3, 0), met)))
	if len(res.Events) != 1 || res.Events[0].Reason != "TooManySucceededPods" {
		t.Errorf("events %+v", res.Events)
	}
	res = Plan(observed(job(limit(0), target, toldCounts(0, 2))))
	if e := res.Actions[0].Event; e.Reason != "BackoffLimitExceeded" || e.Type != "Warning" || e.Message != "Job has reached the specified backoff limit" {
		t.Errorf("event %+v", e)
	}
}

func TestRestartsInPlace(t *testing.T) {
	inPlace := func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }
	check(t, []planCase{
		{"below the limit", observed(job(limit(3), inPlace), pod("a", restarted(2))), "status 1 active 1 ready"},
		{"at the limit", observed(job(limit(3), inPlace), pod("a", restarted(3))), "delete a; status 1 terminating -a FailureTarget=True:BackoffLimitExceeded; free a"},
		{"at no limit", observed(job(limit(0), inPlace), pod("a", restarted(0))), "status 1 active 1 ready"},
		{"never restarted", observed(job(limit(3)), pod("a", restarted(3))), "status 1 active 1 ready"},
	})
}

func TestSuspension(t *testing.T) {
	isSuspended := told(batchv1.JobSuspended, "JobSuspended", "Job suspended")
	check(t, []planCase{
		{"suspended from the start", observed(job(suspend)), "status Suspended=True:JobSuspended"},
		{"its pods go uncounted", observed(job(suspend), pod("a"), pod("b", succeeds)), "free a; delete a; status 1 terminating +b Suspended=True:JobSuspended; free b"},
		{"goes on", observed(job(isSuspended)), "create; status 1 active Suspended=False:JobResumed"},
		{"no deadline meanwhile", observed(job(suspend, isSuspended, deadline(1))), "status Suspended=True:JobSuspended"},
	})
	for _, tt := range []struct {
		in     Observed
		start  *metav1.Time
		reason string
	}{
		{observed(job(suspend)), nil, "Suspended"},
		{observed(job(isSuspended)), ptr(metav1.NewTime(now)), "Resumed"},
	} {
		res := Plan(tt.in)
		a := res.Actions[len(res.Actions)-1]
		if s := a.Object.(*batchv1.Job).Status; (s.StartTime == nil) != (tt.start == nil) || s.StartTime != nil && !s.StartTime.Equal(tt.start) {
			t.Errorf("%s: start time %v, want %v", tt.reason, s.StartTime, tt.start)
		}
		if a.Event == nil || a.Event.Reason != tt.reason {
			t.Errorf("event %+v, want %s", a.Event, tt.reason)
		}
	}
}

func TestIndexes(t *testing.T) {
	check(t, []planCase{
		{"the first", observed(job(sized(3, 5), asIndexed)), "create 0; create 1; create 2; status 3 active"},
		{"the next", observed(job(sized(3, 5), asIndexed, toldIndexes("0-1")), pod("a", at(3))), "create 2; create 4; status 3 active 1 ready 2 succeeded done:0,1"},
		{"an index is counted at once", observed(job(sized(1, 5), asIndexed, toldIndexes("0,2")), pod("a", at(1), succeeds)), "create 3; status 1 active 3 succeeded done:0-2; free a"},
		{"and only once", observed(job(sized(1, 5), asIndexed, toldIndexes("0,2")), pod("a", at(2), succeeds), pod("b", at(1))), "status 1 active 1 ready 2 succeeded done:0,2; free a"},
		{"one pod per index", observed(job(sized(2, 5), asIndexed), pod("a", at(1)), pod("b", at(1), pends)), "free b; delete b; status 1 active 1 ready 1 terminating"},
		{"no other indexes", observed(job(sized(2, 5), asIndexed), pod("a", at(5)), pod("b")), "free a; free b; delete b; delete a; status 2 terminating"},
		{"others do not count", observed(job(sized(1, 2), asIndexed), pod("a", at(2), succeeds), pod("b", fails), pod("c", at(0))), "status 1 active 1 ready; free b; free a"},
		{"all", observed(job(sized(1, 2), asIndexed, toldIndexes("0")), pod("a", at(1), succeeds)), "status 2 succeeded done:0,1 SuccessCriteriaMet=True:CompletionsReached; free a"},
		{"fewer by now", observed(job(sized(2, 2), asIndexed, toldIndexes("0,3-4")), pod("a", at(1))), "status 1 active 1 ready 1 succeeded done:0"},
		{"while one stops", observed(job(sized(2, 3), asIndexed, replacesFailed), pod("a", at(0), leaves)), "create 1; status 1 active 1 terminating"},
	})
	res := Plan(observed(job(sized(1, 5), asIndexed, toldIndexes("0-2"))))
	p := res.Actions[0].Object.(*corev1.Pod)
	if p.Spec.Hostname != "pi-3" || p.GenerateName != "pi-3-" || !strings.HasPrefix(p.Name, "pi-3-") || p.Labels[batchv1.JobCompletionIndexAnnotation] != "3" {
		t.Errorf("pod %+v", p)
	}
	if e := p.Spec.Containers[0].Env; len(e) != 1 || e[0].Name != "JOB_COMPLETION_INDEX" || e[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
		t.Errorf("environment %+v", e)
	}
	own := job(sized(1, 5), asIndexed)
	own.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "JOB_COMPLETION_INDEX", Value: "mine"}}
	if e := Plan(observed(own)).Actions[0].Object.(*corev1.Pod).Spec.Containers[0].Env; len(e) != 1 || e[0].Value != "mine" {
		t.Errorf("environment %+v", e)
	}
}

func TestLimitPerIndex(t *testing.T) {
	check(t, []planCase{
		{"a failed index is replaced, and its last pod waits for that", observed(job(sized(2, 2), perIndex(1)), pod("a", at(0), failedBefore(0, 0), fails), pod("b", at(1))), "create 0; status 2 active 1 ready"},
		{"then the last pod goes", observed(job(sized(2, 2), perIndex(1)), pod("a", at(0), failedBefore(0, 0), fails), pod("b", at(1)), pod("c", at(0))), "status 2 active 2 ready -a; free a"},
		{"after a while", observed(job(sized(2, 3), perIndex(3)), pod("a", at(0), failedBefore(1, 0), fails, endedAgo(15*time.Second))), "create 1; status 1 active"},
		{"once too often", observed(job(sized(2, 3), perIndex(1)), pod("a", at(0), failedBefore(1, 0), fails), pod("b", at(1))), "create 2; status 2 active 1 ready -a bad:0; free a"},
		{"the others go on", observed(job(sized(1, 3), perIndex(0), toldIndexes("1", "0"))), "create 2; status 1 active 1 succeeded done:1 bad:0"},
		{"till the end", observed(job(sized(1, 3), perIndex(0), toldIndexes("1", "0")), pod("a", at(2), succeeds)), "status 2 succeeded done:1,2 bad:0 FailureTarget=True:FailedIndexes; free a"},
		{"too many indexes", observed(job(sized(2, 9), perIndex(0), maxFailedIndexes(1), toldIndexes("", "0")), pod("a", at(4), fails), pod("b", at(5))), "delete b; status 1 terminating -a -b bad:0,4 FailureTarget=True:MaxFailedIndexesExceeded; free a; free b"},
		{"an index fails by policy", observed(job(sized(1, 2), perIndex(5), rules(onExit("FailIndex", "In", 42))), pod("a", at(0), exits(42))), "create 1; status 1 active -a bad:0; free a"},
	})
	for _, tt := range []struct {
		name           string
		in             Observed
		count, ignored string
	}{
		{"first", observed(job(sized(1, 1), perIndex(3))), "0", ""},
		{"second", observed(job(sized(1, 1), perIndex(3)), pod("a", at(0), failedBefore(1, 0), fails)), "2", ""},
		{"ignored", observed(job(sized(1, 1), perIndex(3), rules(onExit("Ignore", "In", 1))), pod("a", at(0), failedBefore(1, 1), exits(1))), "1", "2"},
	} {
		p := Plan(tt.in).Actions[0].Object.(*corev1.Pod)
		if got, ignored := p.Annotations[batchv1.JobIndexFailureCountAnnotation], p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation]; got != tt.count || ignored != tt.ignored {
			t.Errorf("%s: %s failures, %s ignored; want %s and %s", tt.name, got, ignored, tt.count, tt.ignored)
		}
	}
}

func TestPodFailurePolicy(t *testing.T) {
	onDisruption := batchv1.PodFailurePolicyRule{Action: "Ignore", OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}
	named := onExit("FailJob", "In", 3)
	named.OnExitCodes.ContainerName = ptr("other")
	fails42 := "delete b; status 1 terminating -a -b FailureTarget=True:PodFailurePolicy; free a; free b"
	check(t, []planCase{
		{"fails the job", observed(job(sized(2, 2), rules(onExit("FailJob", "In", 42))), pod("a", exits(42)), pod("b")), fails42},
		{"not with another code", observed(job(rules(onExit("FailJob", "In", 42))), pod("a", exits(1))), "create; status 1 active -a; free a"},
		{"not in", observed(job(sized(2, 2), rules(onExit("FailJob", "NotIn", 1, 2))), pod("a", exits(42)), pod("b")), fails42},
		{"not for another container", observed(job(rules(named)), pod("a", exits(3))), "create; status 1 active -a; free a"},
		{"the first rule counts", observed(job(rules(onExit("Count", "In", 42), onExit("FailJob", "In", 42))), pod("a", exits(42))), "create; status 1 active -a; free a"},
		{"ignores", observed(job(limit(0), rules(onDisruption)), pod("a", fails, disrupted)), "create; status 1 active; free a"},
		{"only what matches", observed(job(limit(0), rules(onDisruption)), pod("a", fails)), "status -a FailureTarget=True:BackoffLimitExceeded; free a"},
	})
	condition := onDisruption
	condition.Action = "FailJob"
	for _, tt := range []struct {
		in   Observed
		want string
	}{
		{observed(job(rules(onExit("Count", "In", 9), onExit("FailJob", "In", 42))), pod("a", exits(42))), "Container c for pod default/a failed with exit code 42 matching FailJob rule at index 1"},
		{observed(job(rules(condition)), pod("a", fails, disrupted)), "Pod default/a has condition DisruptionTarget matching FailJob rule at index 0"},
	} {
		s := statusOf(t, Plan(tt.in))
		if got := s.Conditions[0].Message; got != tt.want {
			t.Errorf("message %q, want %q", got, tt.want)
		}
	}
}

func statusOf(t *testing.T, res plan.Result) batchv1.JobStatus {
	t.Helper()
	for _, a := range res.Actions {
		if a.Ref.Sub == "status" {
			return a.Object.(*batchv1.Job).Status
		}
	}
	t.Fatal("no status write")
	return batchv1.JobStatus{}
}

func TestSuccessPolicy(t *testing.T) {
	some := batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2-3")}
	two := batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2-3"), SucceededCount: ptr(int32(2))}
	any3 := batchv1.SuccessPolicyRule{SucceededCount: ptr(int32(3))}
	for _, tt := range []struct {
		name string
		rule batchv1.SuccessPolicyRule
		done string
		want bool
	}{
		{"all of some", some, "0-3", true}, {"not all", some, "0-2", false}, {"two of some", two, "1-2,3", true}, {"one of some", two, "1-2", false},
		{"any three", any3, "1-2,4", true}, {"any two", any3, "1,4", false}, {"none", any3, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := observed(job(sized(5, 5), asIndexed, success(batchv1.SuccessPolicyRule{SucceededCount: ptr(int32(5))}, tt.rule), toldIndexes(tt.done)))
			s := statusOf(t, Plan(in))
			met := len(s.Conditions) == 1 && s.Conditions[0].Type == batchv1.JobSuccessCriteriaMet && s.Conditions[0].Reason == "SuccessPolicy" && s.Conditions[0].Message == "Matched rules at index 1"
			if met != tt.want {
				t.Errorf("conditions %+v", s.Conditions)
			}
		})
	}
	check(t, []planCase{
		{"the rest stops, uncounted", observed(job(sized(3, 5), asIndexed, success(any3), toldIndexes("0,1")), pod("a", at(4), succeeds), pod("b", at(2)), pod("c", at(3))),
			"delete b; delete c; status 2 terminating 3 succeeded done:0,1,4 SuccessCriteriaMet=True:SuccessPolicy; free b; free c; free a"},
		{"and then it is complete", observed(job(sized(3, 5), asIndexed, success(any3), toldIndexes("0,1,4"), told(batchv1.JobSuccessCriteriaMet, "SuccessPolicy", "m"))),
			"status 3 succeeded done:0,1,4 SuccessCriteriaMet=True:SuccessPolicy Complete=True:SuccessPolicy"},
	})
}

func TestStrays(t *testing.T) {
	other := pod("b")
	other.OwnerReferences[0].UID = "an older job"
	check(t, []planCase{
		{"of a job that is gone", observed(nil, pod("a")), "free a"},
		{"of a namesake", observed(job(), pod("a"), other), "free b; status 1 active 1 ready"},
		{"of nobody", observed(nil, pod("a", orphaned)), "free a"},
	})
	if a := Plan(observed(nil, pod("a"))).Actions[0]; a.UID != "u-a" || a.ResourceVersion != "7" {
		t.Errorf("preconditions %q and %q", a.UID, a.ResourceVersion)
	}
}

func TestWakesInTime(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Observed
		want time.Duration
	}{
		{"deadline", observed(job(deadline(90)), pod("a")), 30 * time.Second},
		{"first back-off", observed(job(), pod("a", fails, endedAgo(4*time.Second))), 6 * time.Second},
		{"second", observed(job(), pod("a", fails, endedAgo(4*time.Second)), pod("b", fails)), 16 * time.Second},
		{"a success makes it forget", observed(job(), pod("a", fails, endedAgo(4*time.Second)), pod("b", fails), pod("c", succeeds, endedAgo(time.Minute))), 6 * time.Second},
		{"of an index", observed(job(sized(2, 1), perIndex(9)), pod("a", at(0), failedBefore(2, 0), fails, endedAgo(15*time.Second))), 25 * time.Second},
		{"nothing to wait for", observed(job(), pod("a")), 0},
	} {
		if got := Plan(tt.in).After; got != tt.want {
			t.Errorf("%s: after %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestBackoffGrowsToALimit(t *testing.T) {
	last := time.Duration(0)
	for n := 1; n < 20; n++ {
		w := waitAfter(n, now, now)
		if w < last || w > longestWait || n <= 6 && w != firstWait<<(n-1) {
			t.Errorf("%v after %d failures", w, n)
		}
		last = w
	}
	if last != longestWait {
		t.Errorf("at most %v", last)
	}
}

func TestStreakKeepsWhatCounts(t *testing.T) {
	j := job()
	s := &streak{}
	for i := range 30 {
		s.add(j, []*corev1.Pod{pod(fmt.Sprintf("p%02d", i), fails, endedAgo(time.Duration(100-i)*time.Second))})
	}
	if len(s.failures) != enoughFailures || s.failures[0].uid != "u-p23" {
		t.Errorf("remembers %v", s.failures)
	}
	s.add(j, []*corev1.Pod{pod("p29", fails, endedAgo(71*time.Second)), pod("gone", leaves, untracked)})
	if len(s.failures) != enoughFailures {
		t.Errorf("remembers %v", s.failures)
	}
	s.add(j, []*corev1.Pod{pod("ok", succeeds, endedAgo(72*time.Second))})
	if len(s.failures) != 1 || s.failures[0].uid != "u-p29" {
		t.Errorf("remembers %v", s.failures)
	}
}

func TestPodOfTemplate(t *testing.T) {
	j := job()
	j.Name = strings.Repeat("x", 80)
	j.Spec.Template.Annotations = map[string]string{"a": "b"}
	j.Spec.Template.Finalizers = []string{"example.com/f"}
	res := Plan(observed(j))
	p := res.Actions[0].Object.(*corev1.Pod)
	if len(p.Name) > 63 || !strings.HasPrefix(p.Name, p.GenerateName) || p.Namespace != "default" || p.Spec.Hostname != "" {
		t.Errorf("name %q, generateName %q", p.Name, p.GenerateName)
	}
	if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != j.UID || ref.Kind != "Job" || ref.APIVersion != "batch/v1" || !*ref.BlockOwnerDeletion {
		t.Errorf("owner %+v", ref)
	}
	if !slices.Equal(p.Finalizers, []string{"example.com/f", batchv1.JobTrackingFinalizer}) || p.Annotations["a"] != "b" || len(j.Spec.Template.Finalizers) != 1 {
		t.Errorf("pod %+v", p.ObjectMeta)
	}
	if e := res.Actions[0].Event; e.Reason != "SuccessfulCreate" || e.Message != "Created pod: "+p.Name || e.Regarding.Kind != kinds.Job {
		t.Errorf("event %+v", e)
	}
}

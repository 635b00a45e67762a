package validate

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
)

func goodJob() *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: named("sum", "default")}
	j.Spec.Template = goodTemplate()
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	return j
}

// fillJob is what the server does before it judges.
func fillJob(j *batchv1.Job) {
	status := j.Status
	defaults.Job(j)
	prepare.JobCreate(j)
	j.Status = status
}

func index(j *batchv1.Job) {
	j.Spec.CompletionMode, j.Spec.Completions, j.Spec.Parallelism = ptr(batchv1.IndexedCompletion), ptr[int32](5), ptr[int32](5)
}

func failurePolicy(j *batchv1.Job, rules ...batchv1.PodFailurePolicyRule) {
	j.Spec.PodReplacementPolicy = ptr(batchv1.Failed)
	j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: rules}
}

func successRules(j *batchv1.Job, rules ...batchv1.SuccessPolicyRule) {
	index(j)
	j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: rules}
}

func exitCodes(values ...int32) *batchv1.PodFailurePolicyOnExitCodesRequirement {
	return &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: values}
}

func TestJob(t *testing.T) {
	const oncePer = "spec.template.spec.restartPolicy"
	creates(t, goodJob, fillJob, Job, []change[*batchv1.Job]{
		{"good", nil, nil},
		{"runs for ever", func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways }, []string{oncePer + ` Required: valid values: "OnFailure", "Never"`}},
		{"no such policy", func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = "Maybe" }, []string{oncePer + " NotSupported", oncePer + " NotSupported"}},
		{"negative", func(j *batchv1.Job) {
			j.Spec.Parallelism, j.Spec.Completions, j.Spec.ActiveDeadlineSeconds, j.Spec.BackoffLimit, j.Spec.TTLSecondsAfterFinished = ptr[int32](-1), ptr[int32](-1), ptr[int64](-1), ptr[int32](-1), ptr[int32](-1)
		}, []string{"spec.parallelism Invalid", "spec.completions Invalid", "spec.activeDeadlineSeconds Invalid", "spec.backoffLimit Invalid", "spec.ttlSecondsAfterFinished Invalid"}},
		{"labels of another", func(j *batchv1.Job) { j.Spec.Template.Labels["controller-uid"] = "other" }, []string{"spec.template.metadata.labels[controller-uid] Invalid: must be 'u'"}},
		{"name of another", func(j *batchv1.Job) { delete(j.Spec.Template.Labels, batchv1.JobNameLabel) }, []string{"spec.template.metadata.labels[batch.kubernetes.io/job-name] Required: must be 'sum'"}},
		{"own selector", func(j *batchv1.Job) { j.Spec.Selector = goodSelector() }, []string{"spec.selector Invalid: `selector` not auto-generated"}},
		{"own selector, by order", func(j *batchv1.Job) {
			j.Spec.Template.Labels, j.Spec.ManualSelector, j.Spec.Selector = goodTemplate().Labels, ptr(true), goodSelector()
		}, nil},
		{"selects nothing of its own", func(j *batchv1.Job) {
			j.Spec.ManualSelector, j.Spec.Selector = ptr(true), &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, []string{"spec.template.metadata.labels Invalid: `selector` does not match template `labels`"}},
		{"managed by", func(j *batchv1.Job) { j.Spec.ManagedBy = ptr("example.com/queue") }, nil},
		{"managed by nobody", func(j *batchv1.Job) { j.Spec.ManagedBy = ptr("queue") }, []string{"spec.managedBy Invalid: must be a domain-prefixed path"}},
		{"managed by a long name", func(j *batchv1.Job) { j.Spec.ManagedBy = ptr("example.com/" + strings.Repeat("x", 60)) }, []string{"spec.managedBy TooLong"}},
		{"no such mode", func(j *batchv1.Job) { j.Spec.CompletionMode = ptr(batchv1.CompletionMode("Any")) }, []string{"spec.completionMode NotSupported"}},
		{"indexes without a number", func(j *batchv1.Job) { index(j); j.Spec.Completions = nil }, []string{"spec.completions Required: when completion mode is Indexed"}},
		{"too parallel", func(j *batchv1.Job) { index(j); j.Spec.Parallelism = ptr[int32](100_001) }, []string{"spec.parallelism Invalid: must be less than or equal to 100000 when completion mode is Indexed"}},
		{"name too long for the last", func(j *batchv1.Job) { index(j); j.Name = "sum.of.all" }, []string{
			"metadata.name Invalid: will not able to create pod with invalid DNS label: sum.of.all-4", "spec.template.metadata.labels[job-name] Invalid", "spec.template.metadata.labels[batch.kubernetes.io/job-name] Invalid"}},
		{"failures of no index", func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.MaxFailedIndexes = ptr[int32](1), ptr[int32](1)
		}, []string{
			"spec.backoffLimitPerIndex Invalid: requires indexed completion mode", "spec.maxFailedIndexes Invalid: requires indexed completion mode"}},
		{"failed indexes without a limit", func(j *batchv1.Job) { index(j); j.Spec.MaxFailedIndexes = ptr[int32](6) }, []string{
			"spec.backoffLimitPerIndex Required: when maxFailedIndexes is specified", "spec.maxFailedIndexes Invalid: must be less than or equal to completions"}},
		{"many", func(j *batchv1.Job) {
			index(j)
			j.Spec.Completions, j.Spec.Parallelism, j.Spec.BackoffLimitPerIndex = ptr[int32](100_001), ptr[int32](10_001), ptr[int32](1)
		}, []string{"spec.maxFailedIndexes Required: must be specified when completions is above 100000", "spec.parallelism Invalid: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index"}},
		{"replacement", func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr(batchv1.PodReplacementPolicy("Never")) }, []string{"spec.podReplacementPolicy NotSupported"}},
		{"group", func(j *batchv1.Job) { j.Spec.Scheduling = &batchv1.JobSchedulingConfiguration{} }, []string{"spec.scheduling Forbidden"}},
	})
}

func TestJobPolicies(t *testing.T) {
	const rule = "spec.podFailurePolicy.rules[0]"
	creates(t, goodJob, fillJob, Job, []change[*batchv1.Job]{
		{"good", func(j *batchv1.Job) {
			failurePolicy(j, batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: exitCodes(1, 2)},
				batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}})
		}, nil},
		{"none of it", func(j *batchv1.Job) { failurePolicy(j, batchv1.PodFailurePolicyRule{}) }, []string{
			rule + ` Invalid: specifying one of OnExitCodes and OnPodConditions is required`, rule + `.action Required: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]`}},
		{"both", func(j *batchv1.Job) {
			failurePolicy(j, batchv1.PodFailurePolicyRule{Action: "Sue", OnExitCodes: exitCodes(1), OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Status: "Maybe"}}})
		}, []string{rule + " Invalid: specifying both OnExitCodes and OnPodConditions is not supported", rule + ".action NotSupported",
			rule + ".onPodConditions[0].type Invalid", rule + ".onPodConditions[0].type Invalid", rule + ".onPodConditions[0].status NotSupported"}},
		{"codes", func(j *batchv1.Job) {
			c := exitCodes(3, 0, 3)
			c.ContainerName = ptr("other")
			failurePolicy(j, batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionFailIndex, OnExitCodes: c})
		}, []string{rule + ".action Invalid: requires the backoffLimitPerIndex to be set", rule + ".onExitCodes.containerName Invalid: must be one of the container or initContainer names in the pod template",
			rule + ".onExitCodes.values Invalid: must be ordered", rule + ".onExitCodes.values[1] Invalid: must not be 0 for the In operator", rule + ".onExitCodes.values[2] Duplicate"}},
		{"restarts", func(j *batchv1.Job) {
			j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			failurePolicy(j)
		}, []string{`spec.template.spec.restartPolicy Invalid: only "Never" is supported when podFailurePolicy is specified`}},
		{"replaces early", func(j *batchv1.Job) { failurePolicy(j); j.Spec.PodReplacementPolicy = ptr(batchv1.TerminatingOrFailed) }, []string{"spec.podReplacementPolicy NotSupported"}},
		{"success", func(j *batchv1.Job) {
			successRules(j, batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2-4"), SucceededCount: ptr[int32](3)})
		}, nil},
		{"success of no index", func(j *batchv1.Job) { j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{} }, []string{"spec.successPolicy Invalid: requires indexed completion mode"}},
		{"no rule of success", func(j *batchv1.Job) { successRules(j) }, []string{"spec.successPolicy.rules Required: at least one rules must be specified when the successPolicy is specified"}},
		{"rules of success", func(j *batchv1.Job) {
			successRules(j, batchv1.SuccessPolicyRule{}, batchv1.SuccessPolicyRule{SucceededIndexes: ptr("3,2")}, batchv1.SuccessPolicyRule{SucceededIndexes: ptr("1-2"), SucceededCount: ptr[int32](6)},
				batchv1.SuccessPolicyRule{SucceededIndexes: ptr("5")}, batchv1.SuccessPolicyRule{SucceededIndexes: ptr("1-2-3")}, batchv1.SuccessPolicyRule{SucceededIndexes: ptr("x")})
		}, []string{"spec.successPolicy.rules[0] Required: at least one of succeededCount or succeededIndexes must be specified",
			"spec.successPolicy.rules[1].succeededIndexes Invalid: error parsing succeededIndexes: non-increasing order, previous: 3, current: 2",
			"spec.successPolicy.rules[2].succeededCount Invalid: must be less than or equal to 5 (the number of specified completions)",
			"spec.successPolicy.rules[2].succeededCount Invalid: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
			`spec.successPolicy.rules[3].succeededIndexes Invalid: error parsing succeededIndexes: too large index: "5"`,
			`spec.successPolicy.rules[4].succeededIndexes Invalid: error parsing succeededIndexes: the fragment "1-2-3" violates`,
			`spec.successPolicy.rules[5].succeededIndexes Invalid: error parsing succeededIndexes: cannot convert string to integer for index: "x"`}},
	})
}

func TestJobUpdate(t *testing.T) {
	suspended := func() *batchv1.Job { j := goodJob(); j.Spec.Suspend = ptr(true); return j }
	placed := func(j *batchv1.Job) {
		j.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"}
		j.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		j.Spec.Template.Annotations = map[string]string{"placed": "by a queue"}
		j.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
	}
	updates(t, goodJob, fillJob, JobUpdate, []change[*batchv1.Job]{
		{"nothing", nil, nil},
		{"more at once", func(j *batchv1.Job) { j.Spec.Parallelism, j.Spec.Suspend = ptr[int32](3), ptr(true) }, nil},
		{"another number", func(j *batchv1.Job) { j.Spec.Completions = ptr[int32](3) }, []string{"spec.completions Invalid: field is immutable"}},
		{"other pods", func(j *batchv1.Job) { first(&corev1.Pod{Spec: j.Spec.Template.Spec}).Image = "other" }, []string{"spec.template Invalid: field is immutable"}},
		{"placed too late", placed, []string{"spec.template Invalid: field is immutable"}},
		{"the rest", func(j *batchv1.Job) {
			index(j)
			j.Spec.Completions, j.Spec.Parallelism = ptr[int32](1), ptr[int32](1)
			j.Spec.ManagedBy, j.Spec.BackoffLimitPerIndex = ptr("a.example/b"), ptr[int32](1)
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr[int32](1)}}}
			failurePolicy(j)
		}, []string{"spec.completionMode Invalid: field is immutable", "spec.podFailurePolicy Invalid: field is immutable", "spec.backoffLimitPerIndex Invalid: field is immutable",
			"spec.managedBy Invalid: field is immutable", "spec.successPolicy Invalid: field is immutable"}},
		{"selector", func(j *batchv1.Job) { j.Spec.Selector = goodSelector() }, []string{"spec.selector Invalid: field is immutable"}},
	})
	updates(t, suspended, fillJob, JobUpdate, []change[*batchv1.Job]{
		{"placed", placed, nil},
		{"another image", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "other" }, []string{"spec.template.spec Invalid: field is immutable"}},
		{"affinity to pods", func(j *batchv1.Job) {
			j.Spec.Template.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}}
		}, []string{"spec.template.spec Invalid: field is immutable"}},
	})
	running := func() *batchv1.Job {
		j := suspended()
		j.Status = batchv1.JobStatus{StartTime: &metav1.Time{Time: time.Unix(1, 0)}, Active: 1}
		return j
	}
	updates(t, running, fillJob, JobUpdate, []change[*batchv1.Job]{{"still running", placed, []string{"spec.template Invalid: field is immutable"}}})
	elastic := func() *batchv1.Job { j := goodJob(); index(j); return j }
	updates(t, elastic, fillJob, JobUpdate, []change[*batchv1.Job]{
		{"both", func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = ptr[int32](7), ptr[int32](7) }, nil},
		{"one", func(j *batchv1.Job) { j.Spec.Completions = ptr[int32](7) }, []string{"spec.completions Invalid: can only be modified in tandem with spec.parallelism"}},
	})
}

func jobCondition(j *batchv1.Job, types ...batchv1.JobConditionType) {
	for _, t := range types {
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue})
	}
}

func TestJobStatus(t *testing.T) {
	began, ended := metav1.Unix(100, 0), metav1.Unix(200, 0)
	running := func() *batchv1.Job {
		j := goodJob()
		j.Status = batchv1.JobStatus{StartTime: &began, Active: 1, Ready: ptr[int32](1), Failed: 2, Succeeded: 1}
		return j
	}
	done := func(j *batchv1.Job) {
		jobCondition(j, batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)
		j.Status.Active, j.Status.Ready, j.Status.CompletionTime = 0, ptr[int32](0), &ended
	}
	updates(t, running, fillJob, JobStatusUpdate, []change[*batchv1.Job]{
		{"done", done, nil},
		{"done at once", func(j *batchv1.Job) { done(j); j.Status.Active = 1; j.Status.Terminating = ptr[int32](1) }, []string{"status.active Invalid: active>0 is invalid for finished job", "status.terminating Invalid: terminating>0 is invalid for finished job"}},
		{"done, uncounted", func(j *batchv1.Job) {
			done(j)
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a", ""}, Failed: []types.UID{"a"}}
		}, []string{"status.uncountedTerminatedPods Invalid: must be empty for finished job", "status.uncountedTerminatedPods.succeeded[1] Invalid: must not be empty", "status.uncountedTerminatedPods.failed[0] Duplicate"}},
		{"done before it began", func(j *batchv1.Job) { done(j); j.Status.CompletionTime = &metav1.Time{Time: time.Unix(1, 0)} }, []string{"status.completionTime Invalid: must be equal to or after `startTime`"}},
		{"done without a time", func(j *batchv1.Job) { done(j); j.Status.CompletionTime = nil }, []string{"status.completionTime Required: completionTime is required for Complete jobs"}},
		{"done without a word", func(j *batchv1.Job) { done(j); j.Status.Conditions = j.Status.Conditions[1:] }, []string{"status.conditions Invalid: cannot set Complete=True condition without the SuccessCriteriaMet=true condition"}},
		{"done and failed", func(j *batchv1.Job) { done(j); jobCondition(j, batchv1.JobFailed) }, []string{
			"status.conditions Invalid: cannot set Complete=True and Failed=true conditions", "status.conditions Invalid: cannot set Failed=True condition without the FailureTarget=true condition", "status.conditions Invalid: cannot set SuccessCriteriaMet=True and Failed=true conditions"}},
		{"failed, never begun", func(j *batchv1.Job) {
			jobCondition(j, batchv1.JobFailureTarget, batchv1.JobFailed)
			j.Status.Active, j.Status.Ready, j.Status.StartTime = 0, nil, nil
		}, []string{"status.startTime Required: startTime is required for finished job", "status.startTime Invalid: field is immutable for unsuspended job once set"}},
		{"time without an end", func(j *batchv1.Job) { j.Status.CompletionTime = &ended }, []string{"status.completionTime Invalid: cannot set completionTime when there is no Complete=True condition"}},
		{"fewer", func(j *batchv1.Job) { j.Status.Failed, j.Status.Succeeded = 1, 0 }, []string{"status.failed Invalid: cannot decrease the failed counter", "status.succeeded Invalid: cannot decrease the succeeded counter"}},
		{"negative", func(j *batchv1.Job) { j.Status.Active, j.Status.Ready = -1, ptr[int32](-1) }, []string{"status.active Invalid", "status.ready Invalid"}},
		{"readier", func(j *batchv1.Job) { j.Status.Ready = ptr[int32](2) }, []string{"status.ready Invalid: cannot set more ready pods than active"}},
		{"indexes of none", func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0", ptr("0") }, []string{
			"status.completedIndexes Invalid: cannot set non-empty completedIndexes when non-indexed completion mode", "status.failedIndexes Invalid: cannot set non-null failedIndexes when backoffLimitPerIndex is null",
			"status.failedIndexes Invalid: failedIndexes and completedIndexes overlap at index: 0"}},
	})
	over := func() *batchv1.Job { j := running(); done(j); return j }
	updates(t, over, fillJob, JobStatusUpdate, []change[*batchv1.Job]{
		{"nothing", nil, nil},
		{"undone", func(j *batchv1.Job) { j.Status.Conditions = nil }, []string{"status.conditions Invalid: cannot disable the terminal Complete=True condition",
			"status.conditions Invalid: cannot disable the SuccessCriteriaMet=True condition", "status.completionTime Invalid: cannot set completionTime when there is no Complete=True condition"}},
		{"another time", func(j *batchv1.Job) { j.Status.CompletionTime = &metav1.Time{Time: time.Unix(300, 0)} }, []string{"status.completionTime Invalid: field is immutable"}},
	})
	some := func() *batchv1.Job {
		j := running()
		index(j)
		j.Spec.BackoffLimitPerIndex = ptr[int32](1)
		return j
	}
	updates(t, some, fillJob, JobStatusUpdate, []change[*batchv1.Job]{
		{"some", func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0,2", ptr("1,3-4") }, nil},
		{"both", func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0-2", ptr("2-3") }, []string{"status.failedIndexes Invalid: failedIndexes and completedIndexes overlap at index: 2"}},
		{"nonsense", func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "2-1", ptr("9") }, []string{
			"status.completedIndexes Invalid: error parsing completedIndexes: non-increasing order, previous: 2, current: 1", `status.failedIndexes Invalid: error parsing failedIndexes: too large index: "9"`}},
	})
}

func goodCronJob() *batchv1.CronJob {
	c := &batchv1.CronJob{ObjectMeta: named("nightly", "default")}
	c.Spec.Schedule = "0 3 * * *"
	c.Spec.JobTemplate.Spec = goodJob().Spec
	return c
}

func TestCronJob(t *testing.T) {
	const noZone = "spec.schedule Invalid: cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
	at := func(schedule string) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) { c.Spec.Schedule = schedule }
	}
	in := func(zone string) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) { c.Spec.TimeZone = &zone }
	}
	creates(t, goodCronJob, defaults.CronJob, CronJob, []change[*batchv1.CronJob]{
		{"good", nil, nil},
		{"by name", at("@hourly"), nil},
		{"never", at(""), []string{"spec.schedule Required"}},
		{"sometime", at("error"), []string{"spec.schedule Invalid: expected exactly 5 fields, found 1: [error]"}},
		{"zone", at("TZ=Asia/Tokyo 0 3 * * *"), []string{noZone}},
		{"zone that makes the parser panic", at("TZ=0"), []string{noZone, "spec.schedule Invalid: invalid schedule format: "}},
		{"in a zone", in("Asia/Kolkata"), nil},
		{"in an old zone", in("Etc/GMT+2"), nil},
		{"in no zone", in(""), []string{"spec.timeZone Invalid: timeZone must be nil or non-empty string"}},
		{"here", in("Local"), []string{"spec.timeZone Invalid: timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"}},
		{"outside", in("../passwd"), []string{"spec.timeZone Invalid: unknown time zone ../passwd"}},
		{"nowhere", in("Atlantis"), []string{"spec.timeZone Invalid: unknown time zone Atlantis"}},
		{"concurrency", func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = "Race" }, []string{"spec.concurrencyPolicy NotSupported"}},
		{"negative", func(c *batchv1.CronJob) {
			c.Spec.StartingDeadlineSeconds, c.Spec.SuccessfulJobsHistoryLimit, c.Spec.FailedJobsHistoryLimit = ptr[int64](-1), ptr[int32](-1), ptr[int32](-1)
		}, []string{"spec.startingDeadlineSeconds Invalid", "spec.successfulJobsHistoryLimit Invalid", "spec.failedJobsHistoryLimit Invalid"}},
		{"selector", func(c *batchv1.CronJob) {
			c.Spec.JobTemplate.Spec.Selector, c.Spec.JobTemplate.Spec.ManualSelector = goodSelector(), ptr(true)
		}, []string{
			"spec.jobTemplate.spec.selector Invalid: `selector` will be auto-generated", "spec.jobTemplate.spec.manualSelector NotSupported"}},
		{"pods", func(c *batchv1.CronJob) {
			c.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways
		}, []string{"spec.jobTemplate.spec.template.spec.restartPolicy Required"}},
		{"long name", func(c *batchv1.CronJob) { c.Name = strings.Repeat("a", 53) }, []string{"metadata.name Invalid: must be no more than 52 characters"}},
	})
	zoned := func() *batchv1.CronJob { c := goodCronJob(); c.Spec.Schedule = "TZ=UTC 0 3 * * *"; return c }
	updates(t, zoned, defaults.CronJob, CronJobUpdate, []change[*batchv1.CronJob]{
		{"as it was", nil, nil},
		{"two zones", in("UTC"), []string{"spec.schedule Invalid: cannot use both timeZone field and TZ or CRON_TZ in schedule"}},
	})
}

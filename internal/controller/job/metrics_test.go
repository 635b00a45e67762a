package job

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/metricstest"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// run a job to its end and return what the metrics say.
func run(t *testing.T, w *reconciletest.World, j *batchv1.Job, failing uint32) map[string]float64 {
	t.Helper()
	w.Put(kinds.Job, fresh(j))
	c := Controller()
	if _, err := w.Drive(1, 2000, 10*time.Hour, c, kubelet(failing)); err != nil {
		t.Fatal(err)
	}
	got := metricstest.Values(t, c.Metrics...)
	syncs, took := 0.0, 0.0
	for _, action := range []string{"pods_created", "pods_deleted", "tracking"} {
		for _, mode := range []string{"Indexed", "NonIndexed"} {
			syncs += got["job_controller_job_syncs_total "+action+" "+mode+" success"]
			took += got["job_controller_job_sync_duration_seconds "+action+" "+mode+" success"]
		}
	}
	if syncs < 3 || took != syncs {
		t.Errorf("%v syncs, %v times: %v", syncs, took, got)
	}
	return got
}

func TestMetrics(t *testing.T) {
	got := run(t, world(), job(sized(2, 5)), 0)
	if got["job_controller_jobs_finished_total NonIndexed CompletionsReached succeeded"] != 1 || got["job_controller_job_pods_finished_total NonIndexed succeeded"] != 5 || got["job_controller_job_pods_finished_total NonIndexed failed"] != 0 {
		t.Errorf("five that succeed: %v", got)
	}
	got = run(t, world(), job(sized(1, 3), asIndexed, limit(1)), 1)
	if got["job_controller_jobs_finished_total Indexed BackoffLimitExceeded failed"] != 1 || got["job_controller_job_pods_finished_total Indexed failed"] != 2 {
		t.Errorf("all fail: %v", got)
	}
	got = run(t, world(), job(sized(1, 1), limit(1), rules(batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionFailJob,
		OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "Ready", Status: "False"}}})), 1)
	if got["job_controller_pod_failures_handled_by_failure_policy_total FailJob"] != 1 || got["job_controller_jobs_finished_total NonIndexed PodFailurePolicy failed"] != 1 {
		t.Errorf("the policy fails it: %v", got)
	}
}

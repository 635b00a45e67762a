package job

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// judge sets the verdict. What was told already stands; then the first of
// several reasons counts, failures before success.
func (p *pass) judge() {
	s, spec := &p.status, &p.job.Spec
	switch {
	case is(p.job, batchv1.JobSuccessCriteriaMet):
		c := *conditionOf(s, batchv1.JobSuccessCriteriaMet)
		p.verdict = &c
	case is(p.job, batchv1.JobFailureTarget):
		c := conditionOf(s, batchv1.JobFailureTarget)
		p.verdict = p.condition(batchv1.JobFailed, c.Reason, c.Message)
	case p.policyFails():
	case p.failed > int(*spec.BackoffLimit) || p.restartsTooOften():
		p.fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case p.overdue():
		p.fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case indexed(p.job):
		p.judgeIndexes()
	}
}

func (p *pass) fail(reason, message string) {
	p.verdict = p.condition(batchv1.JobFailureTarget, reason, message)
}

func (p *pass) condition(t batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	return &batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, LastProbeTime: *p.time(), LastTransitionTime: *p.time(), Reason: reason, Message: message}
}

// policyFails asks the pod failure policy about each failed pod.
func (p *pass) policyFails() bool {
	for _, pod := range p.mine {
		if !failed(p.job, pod) {
			continue
		}
		if action, message := verdictOn(p.job.Spec.PodFailurePolicy, pod); action == batchv1.PodFailurePolicyActionFailJob {
			p.fail(batchv1.JobReasonPodFailurePolicy, message)
			return true
		}
	}
	return false
}

// restartsTooOften is for containers that are restarted in their place.
func (p *pass) restartsTooOften() bool {
	if p.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	n := int32(0)
	for _, pod := range p.mine {
		if ph := pod.Status.Phase; ph != corev1.PodRunning && ph != corev1.PodPending {
			continue
		}
		for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for i := range list {
				n += list[i].RestartCount
			}
		}
	}
	return n >= max(1, *p.job.Spec.BackoffLimit)
}

// overdue: it has been active for too long. Time in suspension does not count.
func (p *pass) overdue() bool {
	limit := p.job.Spec.ActiveDeadlineSeconds
	if limit == nil || p.status.StartTime == nil || suspended(p.job) {
		return false
	}
	left := p.status.StartTime.Add(time.Duration(*limit) * time.Second).Sub(p.Now)
	if left > 0 {
		p.wait(left)
	}
	return left <= 0
}

func (p *pass) judgeIndexes() {
	if spec := &p.job.Spec; spec.BackoffLimitPerIndex != nil {
		n := p.failedIndexes.total()
		switch {
		case spec.MaxFailedIndexes != nil && n > int(*spec.MaxFailedIndexes):
			p.fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
			return
		case n > 0 && n+p.done.total() >= p.completions():
			p.fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
			return
		}
	}
	if message, met := satisfied(p.job.Spec.SuccessPolicy, p.done, p.completions()); met {
		p.verdict = p.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message)
	}
}

// complete: as many pods have succeeded as it takes, and none is left. A job
// without a number of completions is done once one has.
func (p *pass) complete(active int) bool {
	need := 1
	if c := p.job.Spec.Completions; c != nil {
		need = int(*c)
	}
	return active == 0 && p.succeeded >= need
}

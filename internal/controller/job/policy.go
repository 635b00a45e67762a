package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdictOn is what the pod failure policy says of one failed pod: the action
// of the first rule that matches, or Count, and for FailJob why.
func verdictOn(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) (action batchv1.PodFailurePolicyAction, message string) {
	if policy == nil {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i := range policy.Rules {
		r := &policy.Rules[i]
		switch {
		case r.OnExitCodes != nil:
			if c := exited(&pod.Status, r.OnExitCodes); c != nil {
				return r.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, r.Action, i)
			}
		case r.OnPodConditions != nil:
			if c := conditioned(&pod.Status, r.OnPodConditions); c != nil {
				return r.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, c.Type, r.Action, i)
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

// exited finds a container that ended with one of the codes. One that has
// succeeded never matches, nor one that still runs.
func exited(s *corev1.PodStatus, want *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses} {
		for i := range list {
			c := &list[i]
			if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || want.ContainerName != nil && *want.ContainerName != c.Name {
				continue
			}
			listed := slices.Contains(want.Values, c.State.Terminated.ExitCode)
			if listed && want.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn || !listed && want.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn {
				return c
			}
		}
	}
	return nil
}

func conditioned(s *corev1.PodStatus, want []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i := range s.Conditions {
		for _, w := range want {
			if s.Conditions[i].Type == w.Type && s.Conditions[i].Status == w.Status {
				return &s.Conditions[i]
			}
		}
	}
	return nil
}

// satisfied tells whether the success policy is content with the indexes that
// have succeeded, and by which rule.
func satisfied(policy *batchv1.SuccessPolicy, done spans, completions int) (string, bool) {
	if policy == nil || len(done) == 0 {
		return "", false
	}
	for i, r := range policy.Rules {
		met := false
		if r.SucceededIndexes != nil {
			want := parseSpans(*r.SucceededIndexes, completions)
			n := want.common(done)
			met = len(want) > 0 && (n == want.total() || r.SucceededCount != nil && n >= int(*r.SucceededCount))
		} else {
			met = r.SucceededCount != nil && done.total() >= int(*r.SucceededCount)
		}
		if met {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}

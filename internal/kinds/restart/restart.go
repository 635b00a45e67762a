// Package restart decides whether a container that ended runs again. The API
// server judges reports by it, the kubelet acts on it.
package restart

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Again reports whether a container of the pod that ended with code is started
// again: by the first of its rules that fits, else by its own policy, else by
// the pod's.
func Again(pod *corev1.PodSpec, c *corev1.Container, code int32) bool {
	if c.RestartPolicy == nil {
		return by(corev1.ContainerRestartPolicy(pod.RestartPolicy), code)
	}
	for i := range c.RestartPolicyRules {
		if r := &c.RestartPolicyRules[i]; fits(r, code) && r.Action == corev1.ContainerRestartRuleActionRestart {
			return true
		}
	}
	return by(*c.RestartPolicy, code)
}

// AfterKill reports whether a container that the node ended, to start it
// anew, is started although it may have ended well.
func AfterKill(pod *corev1.PodSpec, c *corev1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != corev1.ContainerRestartPolicyNever
	}
	return pod.RestartPolicy != corev1.RestartPolicyNever
}

func by(policy corev1.ContainerRestartPolicy, code int32) bool {
	switch policy {
	case corev1.ContainerRestartPolicyNever:
		return false
	case corev1.ContainerRestartPolicyOnFailure:
		return code != 0
	}
	return true
}

func fits(r *corev1.ContainerRestartRule, code int32) bool {
	if r.ExitCodes == nil {
		return false
	}
	listed := slices.Contains(r.ExitCodes.Values, code)
	switch r.ExitCodes.Operator {
	case corev1.ContainerRestartRuleOnExitCodesOpIn:
		return listed
	case corev1.ContainerRestartRuleOnExitCodesOpNotIn:
		return !listed
	}
	return false
}

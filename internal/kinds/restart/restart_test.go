package restart

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAgain(t *testing.T) {
	rule := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
		return corev1.ContainerRestartRule{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
	}
	in, notIn := corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn
	for _, tt := range []struct {
		name  string
		pod   corev1.RestartPolicy
		own   corev1.ContainerRestartPolicy
		rules []corev1.ContainerRestartRule
		code  int32
		want  bool
		kill  bool
	}{
		{"always", "Always", "", nil, 0, true, true},
		{"on failure, well", "OnFailure", "", nil, 0, false, true},
		{"on failure, badly", "OnFailure", "", nil, 1, true, true},
		{"never", "Never", "", nil, 1, false, false},
		{"its own policy wins", "Never", "OnFailure", nil, 1, true, true},
		{"its own never wins", "Always", "Never", nil, 1, false, false},
		{"a rule wins", "Never", "Never", []corev1.ContainerRestartRule{rule(in, 42)}, 42, true, false},
		{"a rule for others", "Never", "Never", []corev1.ContainerRestartRule{rule(in, 42)}, 41, false, false},
		{"all but some", "Never", "Never", []corev1.ContainerRestartRule{rule(notIn, 1, 2)}, 3, true, false},
		{"those some", "Never", "Never", []corev1.ContainerRestartRule{rule(notIn, 1, 2)}, 2, false, false},
		{"rules of nobody's policy", "Never", "", []corev1.ContainerRestartRule{rule(in, 42)}, 42, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &corev1.Container{RestartPolicyRules: tt.rules}
			if tt.own != "" {
				c.RestartPolicy = &tt.own
			}
			spec := &corev1.PodSpec{RestartPolicy: tt.pod}
			if got := Again(spec, c, tt.code); got != tt.want {
				t.Errorf("Again: %v", got)
			}
			if got := AfterKill(spec, c); got != tt.kill {
				t.Errorf("AfterKill: %v", got)
			}
		})
	}
}

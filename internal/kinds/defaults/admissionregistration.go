package defaults

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// webhookTimeout is how many seconds a webhook has to answer.
	webhookTimeout = 10
	webhookPort    = 443
)

// MutatingWebhookConfiguration defaults every webhook.
func MutatingWebhookConfiguration(c *admissionv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhook(&w.FailurePolicy, &w.TimeoutSeconds, &w.ClientConfig)
		match(&w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector)
		set(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		for j := range w.Rules {
			set(&w.Rules[j].Scope, admissionv1.AllScopes)
		}
	}
}

// ValidatingWebhookConfiguration defaults every webhook.
func ValidatingWebhookConfiguration(c *admissionv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhook(&w.FailurePolicy, &w.TimeoutSeconds, &w.ClientConfig)
		match(&w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector)
		for j := range w.Rules {
			set(&w.Rules[j].Scope, admissionv1.AllScopes)
		}
	}
}

func webhook(failure **admissionv1.FailurePolicyType, timeout **int32, client *admissionv1.WebhookClientConfig) {
	set(failure, admissionv1.Fail)
	set(timeout, webhookTimeout)
	if client.Service != nil {
		set(&client.Service.Port, webhookPort)
	}
}

func match(policy **admissionv1.MatchPolicyType, namespaces, objects **metav1.LabelSelector) {
	set(policy, admissionv1.Equivalent)
	set(namespaces, metav1.LabelSelector{})
	set(objects, metav1.LabelSelector{})
}

// ValidatingAdmissionPolicy fails closed and matches everything in its rules.
func ValidatingAdmissionPolicy(p *admissionv1.ValidatingAdmissionPolicy) {
	set(&p.Spec.FailurePolicy, admissionv1.Fail)
	matchResources(p.Spec.MatchConstraints)
}

// MutatingAdmissionPolicy fails closed and matches everything in its rules.
func MutatingAdmissionPolicy(p *admissionv1.MutatingAdmissionPolicy) {
	set(&p.Spec.FailurePolicy, admissionv1.Fail)
	matchResources(p.Spec.MatchConstraints)
}

// ValidatingAdmissionPolicyBinding defaults what narrows the policy.
func ValidatingAdmissionPolicyBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) {
	matchResources(b.Spec.MatchResources)
}

// MutatingAdmissionPolicyBinding defaults what narrows the policy.
func MutatingAdmissionPolicyBinding(b *admissionv1.MutatingAdmissionPolicyBinding) {
	matchResources(b.Spec.MatchResources)
}

func matchResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	match(&m.MatchPolicy, &m.NamespaceSelector, &m.ObjectSelector)
	for i := range m.ResourceRules {
		set(&m.ResourceRules[i].Scope, admissionv1.AllScopes)
	}
	for i := range m.ExcludeResourceRules {
		set(&m.ExcludeResourceRules[i].Scope, admissionv1.AllScopes)
	}
}

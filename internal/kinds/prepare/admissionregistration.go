package prepare

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
)

// MutatingWebhookConfigurationUpdate counts changes of the webhooks.
func MutatingWebhookConfigurationUpdate(c, old *admissionv1.MutatingWebhookConfiguration) {
	Keep(c, old)
	bump(c, old, differ(c.Webhooks, old.Webhooks))
}

// ValidatingWebhookConfigurationUpdate counts changes of the webhooks.
func ValidatingWebhookConfigurationUpdate(c, old *admissionv1.ValidatingWebhookConfiguration) {
	Keep(c, old)
	bump(c, old, differ(c.Webhooks, old.Webhooks))
}

// ValidatingAdmissionPolicyCreate clears the status.
func ValidatingAdmissionPolicyCreate(p *admissionv1.ValidatingAdmissionPolicy) {
	fresh(p, true)
	p.Status = admissionv1.ValidatingAdmissionPolicyStatus{}
}

// ValidatingAdmissionPolicyUpdate keeps the status and counts changes.
func ValidatingAdmissionPolicyUpdate(p, old *admissionv1.ValidatingAdmissionPolicy) {
	Keep(p, old)
	p.Status = old.Status
	bump(p, old, differ(p.Spec, old.Spec))
}

// ValidatingAdmissionPolicyStatusUpdate keeps everything else.
func ValidatingAdmissionPolicyStatusUpdate(p, old *admissionv1.ValidatingAdmissionPolicy) {
	Keep(p, old)
	p.Spec, p.Labels, p.Annotations = old.Spec, old.Labels, old.Annotations
	p.Finalizers, p.OwnerReferences = old.Finalizers, old.OwnerReferences
}

// MutatingAdmissionPolicyUpdate counts changes.
func MutatingAdmissionPolicyUpdate(p, old *admissionv1.MutatingAdmissionPolicy) {
	Keep(p, old)
	bump(p, old, differ(p.Spec, old.Spec))
}

// ValidatingAdmissionPolicyBindingUpdate counts changes.
func ValidatingAdmissionPolicyBindingUpdate(b, old *admissionv1.ValidatingAdmissionPolicyBinding) {
	Keep(b, old)
	bump(b, old, differ(b.Spec, old.Spec))
}

// MutatingAdmissionPolicyBindingUpdate counts changes.
func MutatingAdmissionPolicyBindingUpdate(b, old *admissionv1.MutatingAdmissionPolicyBinding) {
	Keep(b, old)
	bump(b, old, differ(b.Spec, old.Spec))
}

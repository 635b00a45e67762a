package warnings

import (
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// reviews are never sent to webhooks, by which they could lock everybody out.
var reviews = map[string][]string{
	"authentication.k8s.io": {"selfsubjectreviews", "tokenreviews"},
	"authorization.k8s.io":  {"localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "subjectaccessreviews"},
}

// MutatingWebhookConfiguration warns of rules without effect.
func MutatingWebhookConfiguration(c, _ *admissionv1.MutatingWebhookConfiguration) []string {
	var l list
	for i := range c.Webhooks {
		l.withoutEffect(i, c.Webhooks[i].Rules)
	}
	return l
}

// ValidatingWebhookConfiguration warns of rules without effect.
func ValidatingWebhookConfiguration(c, _ *admissionv1.ValidatingWebhookConfiguration) []string {
	var l list
	for i := range c.Webhooks {
		l.withoutEffect(i, c.Webhooks[i].Rules)
	}
	return l
}

// withoutEffect tells of reviews that a rule names; a wildcard need not mean them.
func (l *list) withoutEffect(hook int, rules []admissionv1.RuleWithOperations) {
	for i, r := range rules {
		if slices.Contains(r.APIGroups, "*") || slices.Contains(r.Resources, "*") {
			continue
		}
		told := map[string]bool{}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				if name := resource + "." + group; slices.Contains(reviews[group], resource) && !told[name] {
					told[name] = true
					l.addf("%s: %s is excluded from admission webhooks; this rule will have no effect", field.NewPath("webhooks").Index(hook).Child("rules").Index(i), name)
				}
			}
		}
	}
}

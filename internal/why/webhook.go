package why

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"

	"knarr.dev/knarr/internal/kinds"
)

// webhookConfiguration finds the configuration that a webhook stands in.
func (l *look) webhookConfiguration(webhook string) (*kinds.Kind, string) {
	mutating, _ := list[*admissionv1.MutatingWebhookConfiguration](l, Want{Kind: kinds.MutatingWebhookConfiguration})
	for _, c := range mutating {
		for i := range c.Webhooks {
			if c.Webhooks[i].Name == webhook {
				return kinds.MutatingWebhookConfiguration, c.Name
			}
		}
	}
	validating, _ := list[*admissionv1.ValidatingWebhookConfiguration](l, Want{Kind: kinds.ValidatingWebhookConfiguration})
	for _, c := range validating {
		for i := range c.Webhooks {
			if c.Webhooks[i].Name == webhook {
				return kinds.ValidatingWebhookConfiguration, c.Name
			}
		}
	}
	return kinds.ValidatingWebhookConfiguration, ""
}

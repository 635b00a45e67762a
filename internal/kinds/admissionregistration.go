package kinds

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/kinds/warnings"
)

// The kinds by which users take part in admission: by webhooks, and by
// policies in CEL.
var (
	MutatingWebhookConfiguration = &Kind{
		GVK:      admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"),
		Resource: "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration", Categories: apiExtensions,
		Prefix: "mutatingwebhookconfigurations",
		New:    func() Object { return &admissionv1.MutatingWebhookConfiguration{} }, NewList: func() runtime.Object { return &admissionv1.MutatingWebhookConfigurationList{} },
		Default:       do(defaults.MutatingWebhookConfiguration),
		PrepareCreate: do(prepare.CreateManaged[*admissionv1.MutatingWebhookConfiguration]), PrepareUpdate: doBoth(prepare.MutatingWebhookConfigurationUpdate),
		Validate: check(validate.MutatingWebhookConfiguration), ValidateUpdate: checkBoth(validate.MutatingWebhookConfigurationUpdate),
		Warnings:       warn(warnings.MutatingWebhookConfiguration),
		Columns:        webhookColumns(func(c *admissionv1.MutatingWebhookConfiguration) int { return len(c.Webhooks) }),
		RequireVersion: true,
	}
	ValidatingWebhookConfiguration = &Kind{
		GVK:      admissionv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"),
		Resource: "validatingwebhookconfigurations", Singular: "validatingwebhookconfiguration", Categories: apiExtensions,
		Prefix: "validatingwebhookconfigurations",
		New:    func() Object { return &admissionv1.ValidatingWebhookConfiguration{} }, NewList: func() runtime.Object { return &admissionv1.ValidatingWebhookConfigurationList{} },
		Default:       do(defaults.ValidatingWebhookConfiguration),
		PrepareCreate: do(prepare.CreateManaged[*admissionv1.ValidatingWebhookConfiguration]), PrepareUpdate: doBoth(prepare.ValidatingWebhookConfigurationUpdate),
		Validate: check(validate.ValidatingWebhookConfiguration), ValidateUpdate: checkBoth(validate.ValidatingWebhookConfigurationUpdate),
		Warnings:       warn(warnings.ValidatingWebhookConfiguration),
		Columns:        webhookColumns(func(c *admissionv1.ValidatingWebhookConfiguration) int { return len(c.Webhooks) }),
		RequireVersion: true,
	}
	ValidatingAdmissionPolicy = &Kind{
		GVK:      admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"),
		Resource: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Categories: apiExtensions,
		Prefix: "validatingadmissionpolicies",
		New:    func() Object { return &admissionv1.ValidatingAdmissionPolicy{} }, NewList: func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyList{} },
		Default:       do(defaults.ValidatingAdmissionPolicy),
		PrepareCreate: do(prepare.ValidatingAdmissionPolicyCreate), PrepareUpdate: doBoth(prepare.ValidatingAdmissionPolicyUpdate),
		Validate: check(validate.ValidatingAdmissionPolicy), ValidateUpdate: checkBoth(validate.ValidatingAdmissionPolicyUpdate),
		Columns: policyColumns("Validations", "Validations indicates the number of validation rules defined in this configuration",
			func(p *admissionv1.ValidatingAdmissionPolicy) (int, *admissionv1.ParamKind) {
				return len(p.Spec.Validations), p.Spec.ParamKind
			}),
		Subresources: map[string]Subresource{
			"status": status(prepare.ValidatingAdmissionPolicyStatusUpdate, validate.ValidatingAdmissionPolicyStatusUpdate),
		},
		RequireVersion: true,
	}
	ValidatingAdmissionPolicyBinding = &Kind{
		GVK:      admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
		Resource: "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding", Categories: apiExtensions,
		Prefix: "validatingadmissionpolicybindings",
		New:    func() Object { return &admissionv1.ValidatingAdmissionPolicyBinding{} }, NewList: func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBindingList{} },
		Default:       do(defaults.ValidatingAdmissionPolicyBinding),
		PrepareCreate: do(prepare.CreateManaged[*admissionv1.ValidatingAdmissionPolicyBinding]), PrepareUpdate: doBoth(prepare.ValidatingAdmissionPolicyBindingUpdate),
		Validate: check(validate.ValidatingAdmissionPolicyBinding), ValidateUpdate: checkBoth(validate.ValidatingAdmissionPolicyBindingUpdate),
		Columns: policyBindingColumns(func(b *admissionv1.ValidatingAdmissionPolicyBinding) (string, *admissionv1.ParamRef) {
			return b.Spec.PolicyName, b.Spec.ParamRef
		}),
		RequireVersion: true,
	}
	MutatingAdmissionPolicy = &Kind{
		GVK:      admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"),
		Resource: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Categories: apiExtensions,
		Prefix: "mutatingadmissionpolicies",
		New:    func() Object { return &admissionv1.MutatingAdmissionPolicy{} }, NewList: func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyList{} },
		Default:       do(defaults.MutatingAdmissionPolicy),
		PrepareCreate: do(prepare.CreateManaged[*admissionv1.MutatingAdmissionPolicy]), PrepareUpdate: doBoth(prepare.MutatingAdmissionPolicyUpdate),
		Validate: check(validate.MutatingAdmissionPolicy), ValidateUpdate: checkBoth(validate.MutatingAdmissionPolicyUpdate),
		Columns: policyColumns("Mutations", "Mutation indicates the number of mutations rules defined in this configuration",
			func(p *admissionv1.MutatingAdmissionPolicy) (int, *admissionv1.ParamKind) {
				return len(p.Spec.Mutations), p.Spec.ParamKind
			}),
		RequireVersion: true,
	}
	MutatingAdmissionPolicyBinding = &Kind{
		GVK:      admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"),
		Resource: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding", Categories: apiExtensions,
		Prefix: "mutatingadmissionpolicybindings",
		New:    func() Object { return &admissionv1.MutatingAdmissionPolicyBinding{} }, NewList: func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBindingList{} },
		Default:       do(defaults.MutatingAdmissionPolicyBinding),
		PrepareCreate: do(prepare.CreateManaged[*admissionv1.MutatingAdmissionPolicyBinding]), PrepareUpdate: doBoth(prepare.MutatingAdmissionPolicyBindingUpdate),
		Validate: check(validate.MutatingAdmissionPolicyBinding), ValidateUpdate: checkBoth(validate.MutatingAdmissionPolicyBindingUpdate),
		Columns: policyBindingColumns(func(b *admissionv1.MutatingAdmissionPolicyBinding) (string, *admissionv1.ParamRef) {
			return b.Spec.PolicyName, b.Spec.ParamRef
		}),
		RequireVersion: true,
	}
)

var apiExtensions = []string{"api-extensions"}

var admissionregistration = []*Kind{
	MutatingWebhookConfiguration,
	ValidatingWebhookConfiguration,
	ValidatingAdmissionPolicy,
	ValidatingAdmissionPolicyBinding,
	MutatingAdmissionPolicy,
	MutatingAdmissionPolicyBinding,
}

func webhookColumns[T Object](count func(T) int) []Column {
	return []Column{
		nameColumn,
		cell("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration", func(o T) any { return int64(count(o)) }),
		ageColumn,
	}
}

func policyColumns[T Object](name, describe string, value func(T) (int, *admissionv1.ParamKind)) []Column {
	return []Column{
		nameColumn,
		cell(name, "integer", describe, func(o T) any {
			n, _ := value(o)
			return int64(n)
		}),
		cell("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy", func(o T) any {
			_, k := value(o)
			if k == nil {
				return "<unset>"
			}
			return k.APIVersion + "/" + k.Kind
		}),
		ageColumn,
	}
}

func policyBindingColumns[T Object](value func(T) (string, *admissionv1.ParamRef)) []Column {
	return []Column{
		nameColumn,
		cell("PolicyName", "string", "PolicyName indicates the policy definition which the policy binding binded to", func(o T) any {
			name, _ := value(o)
			return name
		}),
		cell("ParamRef", "string", "ParamRef indicates the param resource which sets the configuration param", func(o T) any {
			_, ref := value(o)
			switch {
			case ref == nil:
			case ref.Name != "" && ref.Namespace != "":
				return ref.Namespace + "/" + ref.Name
			case ref.Name != "":
				return "*/" + ref.Name
			case ref.Selector != nil:
				return ref.Selector.String()
			}
			return "<unset>"
		}),
		ageColumn,
	}
}

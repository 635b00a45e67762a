package custom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/knarr/internal/webhook"
)

// conversionTimeout is upstream's.
const conversionTimeout = 30 * time.Second

// review is a ConversionReview, of v1 or v1beta1: they have the same shape.
type review struct {
	metav1.TypeMeta `json:",inline"`
	Request         *reviewRequest  `json:"request,omitempty"`
	Response        *reviewResponse `json:"response,omitempty"`
}

type reviewRequest struct {
	UID     types.UID                    `json:"uid"`
	Version string                       `json:"desiredAPIVersion"`
	Objects []*unstructured.Unstructured `json:"objects"`
}

type reviewResponse struct {
	UID     types.UID         `json:"uid"`
	Objects []json.RawMessage `json:"convertedObjects"`
	Result  metav1.Status     `json:"result"`
}

// ByWebhook converts by asking the webhook of a definition.
func ByWebhook(caller *webhook.Caller) Convert {
	return func(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, objects []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error) {
		out, err := ask(ctx, caller, crd.Spec.Conversion.Webhook, objects, apiVersion)
		if err != nil {
			kind := objects[0].GroupVersionKind()
			err = fmt.Errorf("conversion webhook for %v failed: %w", kind, err)
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
				Reason: metav1.StatusReasonInternalError, Message: err.Error()}}
		}
		return out, nil
	}
}

func ask(ctx context.Context, caller *webhook.Caller, hook *apiextensionsv1.WebhookConversion, objects []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error) {
	if hook == nil || hook.ClientConfig == nil {
		return nil, errors.New("it is not configured")
	}
	i := slices.IndexFunc(hook.ConversionReviewVersions, func(v string) bool { return v == "v1" || v == "v1beta1" })
	if i < 0 {
		return nil, errors.New("it understands neither v1 nor v1beta1 of ConversionReview")
	}
	what := metav1.TypeMeta{Kind: "ConversionReview", APIVersion: apiextensionsv1.GroupName + "/" + hook.ConversionReviewVersions[i]}
	id := uuid.NewUUID()
	body, err := json.Marshal(review{TypeMeta: what, Request: &reviewRequest{UID: id, Version: apiVersion, Objects: objects}})
	if err != nil {
		return nil, err
	}
	answer, err := caller.Call(ctx, target(hook.ClientConfig), conversionTimeout, body)
	if err != nil {
		return nil, err
	}
	var r review
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, fmt.Errorf("invalid response: %w", err)
	}
	switch {
	case r.TypeMeta != what:
		return nil, fmt.Errorf("expected webhook response of %s, got %s", what.String(), r.TypeMeta.String())
	case r.Response == nil:
		return nil, errors.New("no response provided")
	case r.Response.UID != id && what.APIVersion == apiextensionsv1.SchemeGroupVersion.String():
		return nil, fmt.Errorf("expected response.uid=%q, got %q", id, r.Response.UID)
	case r.Response.Result.Status != metav1.StatusSuccess:
		return nil, errors.New(refusal(r.Response.Result))
	case len(r.Response.Objects) != len(objects):
		return nil, fmt.Errorf("webhook returned %d objects, expected %d", len(r.Response.Objects), len(objects))
	}
	out := make([]*unstructured.Unstructured, len(objects))
	for i, raw := range r.Response.Objects {
		if out[i], err = accept(raw, objects[i], apiVersion); err != nil {
			return nil, fmt.Errorf("invalid converted object at index %d: %w", i, err)
		}
	}
	return out, nil
}

func refusal(s metav1.Status) string {
	if s.Message != "" {
		return s.Message
	}
	return "failed: no message provided"
}

func target(c *apiextensionsv1.WebhookClientConfig) webhook.Hook {
	h := webhook.Hook{CABundle: c.CABundle}
	if c.URL != nil {
		h.URL = *c.URL
	}
	if s := c.Service; s != nil {
		h.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			h.Service.Path = *s.Path
		}
		if s.Port != nil {
			h.Service.Port = *s.Port
		}
	}
	return h
}

// accept checks a converted object: it has to be the same one, of which only
// labels and annotations may differ in the metadata.
func accept(raw []byte, was *unstructured.Unstructured, apiVersion string) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		return nil, err
	}
	switch {
	case u.GetAPIVersion() != apiVersion:
		return nil, fmt.Errorf("expected apiVersion %q, got %q", apiVersion, u.GetAPIVersion())
	case u.GetKind() != was.GetKind():
		return nil, fmt.Errorf("expected kind %q, got %q", was.GetKind(), u.GetKind())
	case u.GetName() != was.GetName():
		return nil, fmt.Errorf("must have the same name: %q != %q", u.GetName(), was.GetName())
	case u.GetNamespace() != was.GetNamespace():
		return nil, fmt.Errorf("must have the same namespace: %q != %q", u.GetNamespace(), was.GetNamespace())
	case u.GetUID() != was.GetUID():
		return nil, fmt.Errorf("must have the same UID: %q != %q", u.GetUID(), was.GetUID())
	}
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	meta, _, err := unstructured.NestedMap(was.Object, "metadata") // a copy
	if err != nil {
		return nil, err
	}
	u.Object["metadata"] = meta
	u.SetLabels(labels)
	u.SetAnnotations(annotations)
	return u, nil
}

// Package resourceclaim makes the claims to devices that pods want from
// templates, and takes devices back from claims that nobody uses any more.
package resourceclaim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

const (
	// claimNameAnnotation of a claim that was made says for which of the pod's.
	claimNameAnnotation = "resource.kubernetes.io/pod-claim-name"
	// again is how often it is told anew that a template is missing.
	again = 10 * time.Minute
	// baseLength leaves room for the suffix in a name of 63 characters.
	baseLength = 57
)

// Observed is what a plan for a pod depends on.
type Observed struct {
	Pod      *corev1.Pod
	Claim    func(name string) *resourcev1.ResourceClaim // of the pod's namespace; nil: there is none
	Template func(name string) *resourcev1.ResourceClaimTemplate
	Made     []*resourcev1.ResourceClaim // those that the pod owns, by name
	Suffix   func() string
}

// Plan makes the claims that the pod lacks and says in its status which they
// are. Claims of a pod that was placed by somebody who knows nothing of claims
// are reserved for it. Pods that go or have ended get none any more.
func Plan(o Observed) (out plan.Result) {
	if o.Pod.DeletionTimestamp != nil || ended(o.Pod) {
		return plan.Result{}
	}
	var made []corev1.PodResourceClaimStatus
	for i := range o.Pod.Spec.ResourceClaims {
		want := &o.Pod.Spec.ResourceClaims[i]
		if want.ResourceClaimTemplateName == nil || o.settled(want) {
			continue
		}
		name := o.orphan(want.Name)
		if name == "" {
			t := o.Template(*want.ResourceClaimTemplateName)
			if t == nil {
				out.After = again
				out.Events = append(out.Events, *o.failed(want, fmt.Sprintf("resource claim template %q: resourceclaimtemplate.resource.k8s.io %q not found", *want.ResourceClaimTemplateName, *want.ResourceClaimTemplateName)))
				continue
			}
			create := o.create(want, t)
			out.Actions, name = append(out.Actions, create), create.Ref.Name
		}
		made = append(made, corev1.PodResourceClaimStatus{Name: want.Name, ResourceClaimName: &name})
	}
	if len(made) > 0 {
		out.Actions = append(out.Actions, patch(kinds.RefTo(kinds.Pod, o.Pod), o.Pod, types.StrategicMergePatchType, map[string]any{"resourceClaimStatuses": made}))
	}
	if o.Pod.Spec.NodeName != "" {
		out.Actions = append(out.Actions, o.reserve()...)
	}
	return out
}

// settled: the claim is there, or is known not to be needed.
func (o *Observed) settled(want *corev1.PodResourceClaim) bool {
	name, _, err := resourceclaim.Name(o.Pod, want)
	if err != nil || name == nil {
		return err == nil
	}
	claim := o.Claim(*name)
	return claim != nil && resourceclaim.IsForPod(o.Pod, claim, false) == nil
}

// orphan is a claim that was made, but of which the pod's status does not tell.
func (o *Observed) orphan(podClaim string) string {
	for _, c := range o.Made {
		if c.DeletionTimestamp == nil && metav1.IsControlledBy(c, o.Pod) && c.Annotations[claimNameAnnotation] == podClaim {
			return c.Name
		}
	}
	return ""
}

func (o *Observed) create(want *corev1.PodResourceClaim, t *resourcev1.ResourceClaimTemplate) plan.Action {
	t = t.DeepCopy()
	annotations := map[string]string{}
	maps.Copy(annotations, t.Spec.Annotations)
	annotations[claimNameAnnotation] = want.Name
	base := baseOf(o.Pod.Name, want.Name)
	c := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Pod.Namespace, Name: base + o.Suffix(), GenerateName: base, Labels: t.Spec.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(o.Pod, kinds.Pod.GVK)},
		},
		Spec: t.Spec.Spec,
	}
	return plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.ResourceClaim, c), Object: c, Failed: o.failed(want, fmt.Sprintf("create ResourceClaim %s: ", c.Name))}
}

// baseOf a claim's name: the pod's and its own, cut alike if they are too long.
func baseOf(pod, claim string) string {
	base := pod + "-" + claim + "-"
	if n := len(base); n > baseLength {
		base = pod[:len(pod)*baseLength/n] + "-" + claim[:len(claim)*baseLength/n]
	}
	return base
}

// reserve the pod's claims that have devices.
func (o *Observed) reserve() (out []plan.Action) {
	for name, own := range resourceclaim.PodClaims(o.Pod) {
		c := o.Claim(name)
		if c == nil || c.DeletionTimestamp != nil || c.Status.Allocation == nil || resourceclaim.IsReservedForPod(o.Pod, c, false) ||
			len(c.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize || own && resourceclaim.IsForPod(o.Pod, c, false) != nil {
			continue
		}
		if slices.ContainsFunc(out, func(a plan.Action) bool { return a.Ref.Name == name }) {
			continue
		}
		out = append(out, patch(kinds.RefTo(kinds.ResourceClaim, c), c, types.StrategicMergePatchType, map[string]any{
			"reservedFor": []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: o.Pod.Name, UID: o.Pod.UID}}}))
	}
	return out
}

func (o *Observed) failed(want *corev1.PodResourceClaim, why string) *plan.Event {
	return &plan.Event{Regarding: kinds.RefTo(kinds.Pod, o.Pod), UID: o.Pod.UID, Type: corev1.EventTypeWarning, Reason: "FailedResourceClaimCreation",
		Message: fmt.Sprintf("PodResourceClaim %s: %s", want.Name, why)}
}

// patch the status of an object as it was seen; a pod's changes all the time, and
// what is said here depends on nothing in it.
func patch(ref kinds.Ref, o kinds.Object, t types.PatchType, status map[string]any) plan.Action {
	data, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		panic("resourceclaim: " + err.Error()) // API types always marshal
	}
	a := plan.Action{Verb: plan.Patch, Ref: ref.WithSub("status"), PatchType: t, Data: data, UID: o.GetUID(), Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}}
	if ref.Kind != kinds.Pod {
		a.ResourceVersion = o.GetResourceVersion()
	}
	return a
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

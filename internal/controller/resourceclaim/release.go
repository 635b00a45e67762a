package resourceclaim

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Held is what a plan for a claim depends on.
type Held struct {
	Claim *resourcev1.ResourceClaim
	Pod   func(name string) *corev1.Pod // of the claim's namespace; nil: none is seen
	// Placed: some pod on a node has the claim, for which it may not be reserved
	// yet.
	Placed bool
}

// PlanRelease takes pods that are done or gone out of those that a claim is
// reserved for. With the last one its devices are given back, unless they were
// allocated for nobody to begin with. A claim that was made for a pod goes once
// that is done.
func PlanRelease(o Held) (out plan.Result) {
	c := o.Claim
	users, unseen := o.users()
	unused := len(users) == 0 && !o.Placed
	finalizer := slices.Index(c.Finalizers, resourcev1.Finalizer)
	switch {
	case len(users) < len(c.Status.ReservedFor):
		a := o.keep(users, unused && finalizer >= 0)
		a.Live = unseen
		out.Actions = append(out.Actions, a)
		if unused && finalizer >= 0 {
			out.Actions = append(out.Actions, o.unprotect(finalizer))
		}
	case unused && finalizer >= 0 && c.DeletionTimestamp != nil:
		if c.Status.Allocation != nil {
			out.Actions = append(out.Actions, o.keep(nil, true))
		}
		out.Actions = append(out.Actions, o.unprotect(finalizer))
	}
	if unused && c.DeletionTimestamp == nil && o.ownerDone() {
		out.Actions = append(out.Actions, plan.Action{Verb: plan.Delete, Ref: kinds.RefTo(kinds.ResourceClaim, c), UID: c.UID, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}})
	}
	return out
}

// users are those that the claim stays reserved for. Of pods that only are not
// seen, the server is to be asked.
func (o *Held) users() (users []resourcev1.ResourceClaimConsumerReference, unseen []plan.Live) {
	for _, r := range o.Claim.Status.ReservedFor {
		if r.APIGroup != "" || r.Resource != kinds.Pod.Resource {
			users = append(users, r) // nothing is known of it
			continue
		}
		switch pod := o.Pod(r.Name); {
		case pod == nil:
			unseen = append(unseen, plan.Live{Want: plan.Absent, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: o.Claim.Namespace, Name: r.Name}, UID: r.UID})
		case pod.UID == r.UID && !done(pod):
			users = append(users, r)
		}
	}
	return users, unseen
}

// done: none of the pod's containers runs, nor ever will.
func done(p *corev1.Pod) bool {
	return ended(p) || p.DeletionTimestamp != nil && p.Spec.NodeName == ""
}

// ownerDone: the claim was made for a pod that is done, or that another has
// taken the place of. If it is not seen, the garbage collector sees to that.
func (o *Held) ownerDone() bool {
	ref := metav1.GetControllerOfNoCopy(o.Claim)
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != kinds.Pod.GVK.Kind {
		return false
	}
	pod := o.Pod(ref.Name)
	return pod != nil && (pod.UID != ref.UID || done(pod))
}

// keep the claim reserved for these only, with its devices or without.
func (o *Held) keep(users []resourcev1.ResourceClaimConsumerReference, deallocate bool) plan.Action {
	status := map[string]any{"reservedFor": users}
	if deallocate {
		status["allocation"], status["devices"] = nil, nil
	}
	return patch(kinds.RefTo(kinds.ResourceClaim, o.Claim), o.Claim, types.MergePatchType, status)
}

// unprotect a claim that has nothing. Before the server does it, it looks
// whether that is still so: somebody may have allocated it since.
func (o *Held) unprotect(finalizer int) plan.Action {
	path := fmt.Sprint("/metadata/finalizers/", finalizer)
	data, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/status", "value": struct{}{}},
		{"op": "test", "path": path, "value": resourcev1.Finalizer},
		{"op": "remove", "path": path},
	})
	if err != nil {
		panic("resourceclaim: " + err.Error()) // strings always marshal
	}
	return plan.Action{Verb: plan.Patch, Ref: kinds.RefTo(kinds.ResourceClaim, o.Claim), PatchType: types.JSONPatchType, Data: data, UID: o.Claim.UID,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound, metav1.StatusReasonInvalid}}
}

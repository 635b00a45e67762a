package volumebinder

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Held is what the plan of a volume depends on.
type Held struct {
	Volume *corev1.PersistentVolume
	Claim  *corev1.PersistentVolumeClaim // that the volume names; nil: there is none of that name
	Users  []string                      // namespace/name of pods that use a claim of that name and have not ended
}

// PlanVolume says what a volume is: free, bound, or left behind by its claim.
func PlanVolume(h Held) plan.Result {
	v, ref := h.Volume, h.Volume.Spec.ClaimRef
	if ref == nil || ref.UID == "" { // the claim's plan completes what is reserved
		return h.phase(corev1.VolumeAvailable, "")
	}
	c := h.Claim
	switch {
	case c == nil || c.UID != ref.UID:
		// The view of claims may be behind: the server is asked.
		return h.released(plan.Live{Want: plan.Absent, Ref: kinds.Ref{Kind: kinds.PersistentVolumeClaim, Namespace: ref.Namespace, Name: ref.Name}, UID: ref.UID})
	case c.Spec.VolumeName == "" && mode(v.Spec.VolumeMode) != mode(c.Spec.VolumeMode):
		return plan.Result{Events: []plan.Event{
			h.event(corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", c.Name)),
			{Regarding: kinds.RefTo(kinds.PersistentVolumeClaim, c), UID: c.UID, Type: corev1.EventTypeWarning, Reason: "VolumeMismatch",
				Message: fmt.Sprintf("Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name)},
		}}
	case c.Spec.VolumeName == "":
		return plan.Result{} // the claim's plan goes on
	case c.Spec.VolumeName == v.Name:
		return h.phase(corev1.VolumeBound, "")
	case has(v, provisionedBy) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return h.released() // it was made for the claim, which has another
	}
	return h.untie()
}

// untie gives a volume back that its claim did not take.
func (h *Held) untie() plan.Result {
	v := h.Volume.DeepCopy()
	if has(v, boundByController) {
		v.Spec.ClaimRef = nil
		delete(v.Annotations, boundByController)
	} else {
		v.Spec.ClaimRef.UID = "" // a user reserved it, and it stays so
	}
	return plan.Result{Actions: []plan.Action{update(kinds.PersistentVolume, v, "")}}
}

// released: the claim is gone. First that is said, then what the policy asks for
// is done; a volume that failed stays so, for people to see.
func (h *Held) released(live ...plan.Live) plan.Result {
	v := h.Volume
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		return h.phase(corev1.VolumeReleased, "", live...)
	}
	if has(v, migratedTo) {
		return plan.Result{} // its driver does the rest
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
		return plan.Result{}
	case corev1.PersistentVolumeReclaimRecycle:
		if h.Claim == nil && len(h.Users) > 0 {
			return plan.Result{Events: []plan.Event{h.event(corev1.EventTypeNormal, "VolumeFailedRecycle", "Volume is used by pods: "+strings.Join(h.Users, ","))}}
		}
		return h.failed("VolumeFailedRecycle", "No recycler plugin found for the volume!", live...)
	case corev1.PersistentVolumeReclaimDelete:
		if why := h.undeletable(); why != "" {
			return h.failed("VolumeFailedDelete", why, live...)
		}
		return plan.Result{}
	}
	return h.failed("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy", live...)
}

// undeletable is why nobody will delete the volume; empty: whoever provisioned
// it does. What lies on a node is never deleted from here.
func (h *Held) undeletable() string {
	v := h.Volume
	by := v.Annotations[provisionedBy]
	switch {
	case by != "" && !strings.HasPrefix(by, builtIn):
		return ""
	case by != "":
		return "no volume plugin matched name: " + by
	case v.Spec.CSI != nil:
		return ""
	}
	return fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name)
}

func (h *Held) failed(reason, message string, live ...plan.Live) plan.Result {
	out := h.phase(corev1.VolumeFailed, message, live...)
	for i := range out.Actions {
		e := h.event(corev1.EventTypeWarning, reason, message)
		out.Actions[i].Event = &e
	}
	return out
}

// phase of the volume's status, if it is another.
func (h *Held) phase(p corev1.PersistentVolumePhase, message string, live ...plan.Live) plan.Result {
	if h.Volume.Status.Phase == p {
		return plan.Result{}
	}
	v := h.Volume.DeepCopy()
	v.Status.Phase, v.Status.Message = p, message
	a := update(kinds.PersistentVolume, v, "status")
	a.Live = live
	return plan.Result{Actions: []plan.Action{a}}
}

func (h *Held) event(kind, reason, message string) plan.Event {
	return plan.Event{Regarding: kinds.RefTo(kinds.PersistentVolume, h.Volume), UID: h.Volume.UID, Type: kind, Reason: reason, Message: message}
}

func size(v *corev1.PersistentVolume) *resource.Quantity { return v.Spec.Capacity.Storage() }

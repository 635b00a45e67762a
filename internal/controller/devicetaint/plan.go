// Package devicetaint evicts the pods whose devices are tainted so that nothing
// may run on them, and says in the rules that taint devices how far that is.
package devicetaint

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/plan"
)

// Observed is what a plan for a pod depends on.
type Observed struct {
	Pod     *corev1.Pod // on a node, neither done nor going
	Now     time.Time
	Devices []Device // those of its claims
}

// Device that a claim has, with its taints of effect NoExecute.
type Device struct {
	*resourcev1.DeviceRequestAllocationResult
	Taints []Taint
}

// Taint of a device, from a rule, or else from the driver.
type Taint struct {
	*resourcev1.DeviceTaint
	Rule *resourcev1.DeviceTaintRule
}

// Plan deletes the pod once it has no toleration, or none any more, for a taint
// of one of its devices.
func Plan(o Observed) plan.Result {
	causes := o.causes()
	if len(causes) == 0 {
		return plan.Result{}
	}
	first := soonest(causes)
	if left := first.at.Sub(o.Now); left > 0 {
		return plan.Result{After: left}
	}
	return plan.Result{Actions: plan.Evict(o.Pod, o.Now, "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint",
		plan.Event{Reason: "DeviceTaintManagerEviction", Message: "Marking for deletion: " + first.String()})}
}

// cause for a pod to go, and when.
type cause struct {
	at     time.Time
	device *resourcev1.DeviceRequestAllocationResult
	taint  Taint
}

func (c cause) String() string {
	from := "its driver"
	if c.taint.Rule != nil {
		from = "DeviceTaintRule " + c.taint.Rule.Name
	}
	return fmt.Sprintf("device %s/%s/%s has the taint %s=%s:%s of %s", c.device.Driver, c.device.Pool, c.device.Device, c.taint.Key, c.taint.Value, c.taint.Effect, from)
}

// causes are the taints that the pod may not outlast for ever.
func (o *Observed) causes() (out []cause) {
	for _, d := range o.Devices {
		for _, t := range d.Taints {
			if at, ever := deadline(t.DeviceTaint, d.Tolerations); ever {
				out = append(out, cause{at, d.DeviceRequestAllocationResult, t})
			}
		}
	}
	return out
}

// soonest of the causes, and of several at a time the first.
func soonest(causes []cause) cause {
	first := causes[0]
	for _, c := range causes[1:] {
		if c.at.Before(first.at) {
			first = c
		}
	}
	return first
}

// deadline is until when a taint is tolerated; ever is false if it is for ever.
// The shortest toleration counts. One of all effects has no end: its seconds
// are ignored, as the API says. (Upstream does not count it at all here, and so
// evicts what its scheduler lets in.)
func deadline(t *resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) (at time.Time, ever bool) {
	var patience time.Duration
	tolerated := false
	for _, tol := range tolerations {
		if !resourceclaim.ToleratesTaint(tol, *t) {
			continue
		}
		if tol.TolerationSeconds == nil || tol.Effect == "" {
			return time.Time{}, false
		}
		if d := plan.Tolerated(*tol.TolerationSeconds); !tolerated || d < patience {
			patience = d
		}
		tolerated = true
	}
	if t.TimeAdded != nil { // the server sees to it
		at = t.TimeAdded.Time
	}
	return at.Add(patience), true
}

package endpointslice

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// triggers say since when what a slice tells is so, for those who measure how
// long it takes until proxies do it: the first change of a pod's readiness that
// the slices did not know. It depends on what is there, so that nothing has to
// be remembered between passes.
type triggers struct {
	known   bool            // the service has slices
	serving map[string]bool // by endpointKey, as they have it
	since   map[types.UID]time.Time
}

// newTriggers is made once something is to be written, which is rare.
func newTriggers(o *Observed) *triggers {
	t := &triggers{serving: map[string]bool{}, since: map[types.UID]time.Time{}}
	for _, s := range o.Slices {
		if s.Labels[discoveryv1.LabelManagedBy] != ManagedBy || !metav1.IsControlledBy(s, o.Service) {
			continue
		}
		t.known = true
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			t.serving[endpointKey(e)] = deref(e.Conditions.Serving)
		}
	}
	created := o.Service.CreationTimestamp.Time
	for _, p := range o.Pods {
		for i := range p.Status.Conditions {
			if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady {
				t.since[p.UID] = c.LastTransitionTime.Time
				if created.After(t.since[p.UID]) { // before, nobody asked for it
					t.since[p.UID] = created
				}
			}
		}
	}
	return t
}

// stamp a slice that is to be written.
func (c *changes) stamp(s *discoveryv1.EndpointSlice) {
	if c.triggers == nil {
		c.triggers = newTriggers(c.o)
	}
	t := c.triggers
	var first time.Time
	if !t.known {
		first = c.o.Service.CreationTimestamp.Time
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if was, known := t.serving[endpointKey(e)]; known && was == deref(e.Conditions.Serving) || e.TargetRef == nil {
			continue
		}
		if at := t.since[e.TargetRef.UID]; !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if first.IsZero() { // an endpoint has gone, or something else than readiness has changed
		delete(s.Annotations, corev1.EndpointsLastChangeTriggerTime)
		return
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[corev1.EndpointsLastChangeTriggerTime] = first.UTC().Format(time.RFC3339Nano)
}

package apiserver

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver/ownership"
	"knarr.dev/knarr/internal/kinds"
)

// writeOf is what a call means to the managed fields.
func (s *Server) writeOf(c *call) ownership.Write {
	return ownership.Write{Kind: c.ref.Kind, Sub: c.ref.Sub, Manager: c.manager, Now: s.now()}
}

// own writes into obj who owns its fields once it has replaced live, which is
// nil for a new object.
func (s *Server) own(c *call, live, obj kinds.Object) {
	if c.owned {
		return
	}
	if err := s.fields.Update(c.ctx, s.writeOf(c), live, obj); err != nil {
		// An object that cannot be understood yet; validation says so next.
		s.log.Debug("managed fields stay as they are", "object", c.ref.String(), "error", err)
	}
}

// keepValid remembers the managed fields before admission; the function that
// it returns brings them back if a plugin has broken them.
func keepValid(r *admission.Request) func() {
	obj, ok := r.Object.(metav1.Object)
	if !ok {
		return func() {}
	}
	before := obj.GetManagedFields()
	return func() {
		obj, ok = r.Object.(metav1.Object) // a plugin may have put another one there
		if !ok {
			return
		}
		after := obj.GetManagedFields()
		if len(before) == len(after) && (len(before) == 0 || &before[0] == &after[0]) {
			return
		}
		if err := managedfields.ValidateManagedFields(after); err != nil {
			obj.SetManagedFields(before)
			if r.Warn == nil {
				return
			}
			r.Warn(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: " + err.Error())
		}
	}
}

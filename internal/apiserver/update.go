package apiserver

import (
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds"
)

// update replaces the object by what next makes of the one that stands.
func (s *Server) update(c *call, next func(old kinds.Object) (kinds.Object, error)) (kinds.Object, error) {
	k := c.ref.Kind
	if k.StoredAs != nil {
		k = k.StoredAs
	}
	prepare, check := k.PrepareUpdate, k.ValidateUpdate
	if c.ref.Sub != "" {
		sub := k.Subresources[c.ref.Sub]
		prepare, check = sub.PrepareUpdate, sub.ValidateUpdate
	}
	obj, _, err := s.modify(c, func(old kinds.Object) (change, error) {
		shown := s.shown(c.ref.Kind, old)
		obj, err := next(shown)
		if err != nil {
			return change{}, err
		}
		if err := s.fitsOld(c, obj, old); err != nil {
			return change{}, err
		}
		if c.ref.Kind.Default != nil {
			c.ref.Kind.Default(obj)
		}
		if c.verb == "update" {
			c.singleOwners(obj, false)
		}
		s.own(c, shown, obj)
		if c.ref.Kind.ToStored != nil {
			if obj = c.ref.Kind.ToStored(obj); k.Default != nil {
				k.Default(obj)
			}
		}
		if prepare != nil {
			prepare(obj, old)
		}
		if k.Stamp != nil {
			k.Stamp(obj, old, metav1.NewTime(s.now().Truncate(time.Second)))
		}
		req := c.updateRequest(obj, old)
		if err := s.admitUpdated(c, k, obj, old, req, prepare); err != nil {
			return change{}, err
		}
		if check != nil {
			if err := invalid(k, obj.GetName(), check(obj, old)); err != nil {
				return change{}, err
			}
		}
		if err := s.validate(c.ctx, req); err != nil {
			return change{}, err
		}
		ch := change{obj: obj, remove: finished(obj, old)}
		if c.ref.Sub == "" {
			s.warnings(c, k, obj, old)
			ch.reserved, err = s.alloc.assign(c, s, k, obj, old)
		}
		return ch, err
	})
	if err != nil {
		return nil, err
	}
	return s.shown(c.ref.Kind, obj), nil
}

// fitsOld checks what ties an update to the object that stands, and keeps what
// no client may change.
func (s *Server) fitsOld(c *call, obj, old kinds.Object) error {
	if rv := obj.GetResourceVersion(); rv != "" && rv != old.GetResourceVersion() {
		if _, err := strconv.ParseUint(rv, 10, 64); err != nil {
			return invalid(c.ref.Kind, c.ref.Name, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), rv, err.Error())})
		}
		return modified(c.ref)
	} else if rv == "" && c.ref.Kind.RequireVersion && c.verb == "update" {
		return invalid(c.ref.Kind, c.ref.Name, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")})
	}
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {
		return wrongUID(c.ref, uid, old.GetUID())
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	obj.SetGenerateName(old.GetGenerateName())
	obj.SetSelfLink("")
	return nil
}

// replace is update with a whole object from a client; absent kinds that allow
// it are created.
func (s *Server) replace(c *call, obj kinds.Object) (kinds.Object, bool, error) {
	if err := checkScope(c.ref, obj); err != nil {
		return nil, false, err
	}
	if err := checkName(c.ref, obj); err != nil {
		return nil, false, err
	}
	out, err := s.update(c, func(kinds.Object) (kinds.Object, error) { return obj.DeepCopyObject().(kinds.Object), nil })
	if apierrors.IsNotFound(err) && c.ref.Kind.AllowCreateOnUpdate && c.ref.Sub == "" && obj.GetResourceVersion() == "" && obj.GetUID() == "" {
		if err := s.mayCreate(c); err != nil {
			return nil, false, err
		}
		out, err = s.create(c, obj)
		return out, err == nil, err
	}
	return out, false, err
}

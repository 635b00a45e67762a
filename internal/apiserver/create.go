package apiserver

import (
	"errors"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

const (
	// generateTries is how often a generated name that is taken is replaced.
	generateTries = 8
	// nameRunes leave out vowels and look-alikes, as upstream's suffixes do.
	nameRunes    = "bcdfghjklmnpqrstvwxz2456789"
	suffixLength = 5
	maxGenerated = 63 - suffixLength // so that the name still fits a label
)

func randomUID() string { return string(uuid.NewUUID()) }

func (s *Server) suffix() string {
	b := make([]byte, suffixLength)
	for i := range b {
		b[i] = nameRunes[s.cfg.Rand(len(nameRunes))]
	}
	return string(b)
}

// create stores obj, which is the callee's to change.
func (s *Server) create(c *call, obj kinds.Object) (kinds.Object, error) {
	k := c.ref.Kind
	if err := checkScope(c.ref, obj); err != nil {
		return nil, err
	}
	if rv := obj.GetResourceVersion(); rv != "" && rv != "0" {
		return nil, badRequest("resourceVersion should not be set on objects to be created")
	}
	unborn(obj)
	if k.Default != nil {
		k.Default(obj)
	}
	if !c.owned { // else it comes of a configuration
		c.singleOwners(obj, false)
	}
	s.own(c, nil, obj)
	if k.ToStored != nil {
		if obj, k = k.ToStored(obj), k.StoredAs; k.Default != nil {
			k.Default(obj)
		}
	}
	c.ref.Name = obj.GetName() // none if it is to be generated: what changes the object does not see the name
	req := c.request(admission.Create, obj, nil)
	if err := s.admitCreated(c, k, obj, req); err != nil {
		return nil, err
	}
	if obj.GetName() != "" || obj.GetGenerateName() == "" {
		return s.createNamed(c, k, obj, *req)
	}
	for try := 1; ; try++ {
		o := obj.DeepCopyObject().(kinds.Object)
		base := o.GetGenerateName()
		o.SetName(base[:min(len(base), maxGenerated)] + s.suffix())
		out, err := s.createNamed(c, k, o, *req)
		if !apierrors.IsAlreadyExists(err) || try == generateTries {
			return out, err
		}
	}
}

// unborn takes away what an object only gets once it is made.
func unborn(obj kinds.Object) {
	obj.SetUID("")
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetResourceVersion("")
	obj.SetSelfLink("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
}

// createNamed stores an object that admission has completed and that has its
// name; req is what admission was asked.
func (s *Server) createNamed(c *call, k *kinds.Kind, obj kinds.Object, req admission.Request) (kinds.Object, error) {
	c.ref.Name = obj.GetName()
	req.Ref.Name, req.Object = obj.GetName(), obj
	obj.SetUID(types.UID(s.uid()))
	obj.SetCreationTimestamp(metav1.NewTime(s.now().Truncate(time.Second)))
	if k.PrepareCreate != nil {
		k.PrepareCreate(obj)
	}
	if k.Validate != nil {
		if err := invalid(k, obj.GetName(), k.Validate(obj)); err != nil {
			return nil, err
		}
	}
	if err := s.validate(c.ctx, &req); err != nil {
		return nil, err
	}
	s.warnings(c, k, obj, nil)
	reserved, err := s.alloc.assign(c, s, k, obj, nil)
	if err != nil {
		return nil, err
	}
	rev, err := s.insert(c, k, obj)
	if errors.Is(err, store.ErrTooLarge) && !c.owned && obj.GetManagedFields() != nil {
		obj.SetManagedFields(nil) // rather than refuse the object
		rev, err = s.insert(c, k, obj)
	}
	if err != nil || c.dryRun {
		reserved.drop()
	}
	if err != nil {
		return nil, err
	}
	if !c.dryRun {
		reserved.settle(rev)
		obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	}
	return s.shown(c.ref.Kind, obj), nil
}

// insert stores a new object, or checks only that it could.
func (s *Server) insert(c *call, k *kinds.Kind, obj kinds.Object) (rev int64, err error) {
	key := k.Key(obj.GetNamespace(), obj.GetName())
	data, err := codec.Save(c.ctx, k, obj)
	if err != nil {
		return 0, err
	}
	var there store.KV
	if c.dryRun {
		there, err = s.cfg.Store.Get(c.ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
	} else {
		rev, err = s.cfg.Store.Put(c.ctx, key, data, 0)
		var conflict *store.Conflict
		if !errors.As(err, &conflict) {
			return rev, err
		}
		there = conflict.Current
	}
	exists := apierrors.NewAlreadyExists(k.GroupResource(), obj.GetName())
	if obj.GetGenerateName() != "" {
		exists = apierrors.NewGenerateNameConflict(k.GroupResource(), obj.GetName(), 1)
	}
	if cur, err := decodeCurrent(c.ctx, k, there); err == nil && cur.obj.GetDeletionTimestamp() != nil {
		exists.ErrStatus.Message = "object is being deleted: " + exists.ErrStatus.Message
	}
	return 0, exists
}

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver/ownership"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
	"knarr.dev/knarr/internal/store"
)

const (
	// generateTries is how often a generated name that is taken is replaced.
	generateTries = 8
	// conflictTries bounds how often a change is planned again on a newer object.
	conflictTries = 10
	// nameRunes leave out vowels and look-alikes, as upstream's suffixes do.
	nameRunes    = "bcdfghjklmnpqrstvwxz2456789"
	suffixLength = 5
	maxGenerated = 63 - suffixLength // so that the name still fits a label
)

// call is one authorized request on its way to the store, from HTTP or from a
// component.
type call struct {
	ctx    context.Context
	user   user.Info
	ref    kinds.Ref
	dryRun bool
	warn   func(string)
	verb   string
	in     *info

	manager string       // of the fields that are written
	said    string       // the manager that the client has named
	force   bool         // apply: take fields from others
	owned   bool         // whoever plans the change has seen to the managed fields
	scale   *kinds.Scale // the update is one of the scale, and admitted as such
	audit   *audit.Record

	admitted bool // a deletion that was ordered by an eviction, and admitted as such
}

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

// shown converts from the stored form to the one that was asked for.
func (s *Server) shown(k *kinds.Kind, obj kinds.Object) kinds.Object {
	if k.FromStored != nil {
		rv := obj.GetResourceVersion()
		obj = k.FromStored(obj)
		obj.SetResourceVersion(rv)
	}
	return obj
}

// checkName compares what an update is called with what it is to replace.
func checkName(ref kinds.Ref, obj kinds.Object) error {
	switch obj.GetName() {
	case "":
		return badRequest("the name of the object (%s based on URL) was undeterminable: name must be provided", ref.Name)
	case ref.Name:
		return checkScope(ref, obj)
	}
	return badRequest("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), ref.Name)
}

// checkScope makes the object's namespace that of the URL, or refuses.
func checkScope(ref kinds.Ref, obj kinds.Object) error {
	if !ref.Kind.Namespaced {
		obj.SetNamespace("") // as upstream: it has none, whatever the client thinks
		return nil
	}
	if ref.Namespace == "" {
		return badRequest("an empty namespace may not be set during creation")
	}
	if ns := obj.GetNamespace(); ns != "" && ns != ref.Namespace {
		return errNamespace()
	}
	obj.SetNamespace(ref.Namespace)
	return nil
}

func (s *Server) mutate(ctx context.Context, r *admission.Request) error {
	defer keepValid(r)()
	began := time.Now()
	err := admission.Mutate(ctx, s.plugins, r)
	s.metrics.step(r, admit, time.Since(began), err)
	return err
}

func (s *Server) validate(ctx context.Context, r *admission.Request) error {
	began := time.Now()
	err := admission.Validate(ctx, s.plugins, r)
	s.metrics.step(r, validate, time.Since(began), err)
	return err
}

func (s *Server) warnings(c *call, k *kinds.Kind, obj, old kinds.Object) {
	if k.Warnings == nil || c.warn == nil {
		return
	}
	for _, w := range k.Warnings(obj, old) {
		c.warn(w)
	}
}

// current is an object as it stands; live says that the store was asked, not
// the cache.
type current struct {
	obj  kinds.Object
	rev  int64
	live bool
	data []byte // as stored; nil: obj encoded
	// stale: the disk holds it in another way than it would be written now;
	// known if live.
	stale bool
}

// lookup prefers the cache; live asks the store.
func (s *Server) lookup(ctx context.Context, ref kinds.Ref, live bool) (current, error) {
	k := ref.Kind
	if k.StoredAs != nil {
		k = k.StoredAs
	}
	if !live {
		if it := s.cfg.Cache.Get(k, ref.Namespace, ref.Name); it != nil {
			obj, err := it.Load(ctx)
			return current{obj: obj, rev: it.Rev, data: it.Stored()}, err
		}
	}
	kv, err := s.cfg.Store.Get(ctx, k.Key(ref.Namespace, ref.Name))
	if errors.Is(err, store.ErrNotFound) {
		return current{}, notFound(ref)
	}
	if err != nil {
		return current{}, err
	}
	return decodeCurrent(ctx, k, kv)
}

func decodeCurrent(ctx context.Context, k *kinds.Kind, kv store.KV) (current, error) {
	obj, err := codec.Load(ctx, k, kv.Value, kv.Rev)
	if err != nil {
		return current{}, fmt.Errorf("cannot decode %s: %w", kv.Key, err)
	}
	return current{obj: obj, rev: kv.Rev, live: true, data: kv.Value, stale: kv.Stale}, nil
}

// stored is what stands in the store, if it is written the way that is
// written now: else an object that does not change is written once more.
func (cur *current) stored(k *kinds.Kind) ([]byte, error) {
	if k.Save != nil {
		return cur.data, nil
	}
	return codec.EncodeStored(cur.obj)
}

// change is what a planner of modify decides.
type change struct {
	obj      kinds.Object // the new object; nil with remove
	remove   bool
	reserved *reservation
}

// modify plans a change on the object as it stands and stores it if nobody was
// faster, else plans again. A plan that fails on the cached object is tried
// once more on the live one, so that an answer never rests on old news.
func (s *Server) modify(c *call, plan func(old kinds.Object) (change, error)) (obj kinds.Object, removed bool, err error) {
	k := c.ref.Kind
	if k.StoredAs != nil {
		k = k.StoredAs
	}
	cur, err := s.lookup(c.ctx, c.ref, false)
	for try := 0; ; try++ {
		if err != nil {
			return nil, false, err
		}
		ch, perr := plan(cur.obj)
		if perr != nil {
			if cur.live {
				return nil, false, perr
			}
			seen := cur.rev
			if cur, err = s.lookup(c.ctx, c.ref, true); err == nil && cur.rev == seen {
				return nil, false, perr // the news was not old: nobody is asked twice
			}
			continue
		}
		obj, removed, err = s.commit(c, k, cur, ch)
		if err != nil || c.dryRun {
			ch.reserved.drop()
		} else if rev, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64); err == nil {
			ch.reserved.settle(rev)
		}
		var conflict *store.Conflict
		if !errors.As(err, &conflict) {
			if err == nil && !c.dryRun && k == kinds.Service {
				s.releaseAddresses(cur.obj, obj, removed)
			}
			return obj, removed, err
		}
		if try >= conflictTries {
			return nil, false, modified(c.ref)
		}
		if conflict.Current.Rev == 0 {
			return nil, false, notFound(c.ref)
		}
		cur, err = decodeCurrent(c.ctx, k, conflict.Current)
	}
}

// commit writes a planned change at the revision that it was planned on.
func (s *Server) commit(c *call, k *kinds.Kind, cur current, ch change) (kinds.Object, bool, error) {
	key := k.Key(c.ref.Namespace, c.ref.Name)
	if ch.remove {
		obj := cur.obj
		if ch.obj != nil {
			obj = ch.obj
		}
		if c.dryRun {
			return obj, true, nil
		}
		rev, err := s.cfg.Store.Delete(c.ctx, key, cur.rev)
		if err != nil {
			return nil, false, err
		}
		obj = obj.DeepCopyObject().(kinds.Object)
		obj.SetResourceVersion(strconv.FormatInt(rev, 10))
		return obj, true, nil
	}
	data, err := codec.Save(c.ctx, k, ch.obj)
	if err != nil {
		return nil, false, err
	}
	same, err := cur.stored(k)
	if err != nil {
		return nil, false, err
	}
	if kept := ch.obj.GetManagedFields(); len(same) == len(data) && string(same) != string(data) && ownership.KeepTimes(ch.obj, cur.obj) {
		again, err := codec.Save(c.ctx, k, ch.obj)
		if err != nil {
			return nil, false, err
		}
		if string(again) == string(same) { // nothing but the times has changed
			data = again
		} else {
			ch.obj.SetManagedFields(kept)
		}
	}
	if string(same) == string(data) { // nothing changes: nothing is written, but what is stale on disk
		if !cur.live {
			// The cache may lag behind: only the store knows what stands.
			if cur, err = s.lookup(c.ctx, c.ref, true); err != nil {
				return nil, false, err
			}
			if live, err := cur.stored(k); err != nil || string(live) != string(data) {
				return nil, false, &store.Conflict{Current: store.KV{Key: key, Value: live, Rev: cur.rev}}
			}
		}
		if !cur.stale {
			return cur.obj, false, nil
		}
	}
	if c.dryRun {
		ch.obj.SetResourceVersion(strconv.FormatInt(cur.rev, 10))
		return ch.obj, false, nil
	}
	rev, err := s.cfg.Store.Put(c.ctx, key, data, cur.rev)
	if errors.Is(err, store.ErrTooLarge) && !c.owned && ch.obj.GetManagedFields() != nil {
		ch.obj.SetManagedFields(nil) // rather than refuse the object
		if data, err = codec.Save(c.ctx, k, ch.obj); err == nil {
			rev, err = s.cfg.Store.Put(c.ctx, key, data, cur.rev)
		}
	}
	if err != nil {
		return nil, false, err
	}
	ch.obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	return ch.obj, false, nil
}

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

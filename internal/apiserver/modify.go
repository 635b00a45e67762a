package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"knarr.dev/knarr/internal/apiserver/ownership"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// conflictTries bounds how often a change is planned again on a newer object.
const conflictTries = 10

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
	ctx := c.ctx
	if ch.obj.GetDeletionTimestamp() != nil {
		ctx = store.Deleting(ctx)
	}
	rev, err := s.cfg.Store.Put(ctx, key, data, cur.rev)
	if errors.Is(err, store.ErrTooLarge) && !c.owned && ch.obj.GetManagedFields() != nil {
		ch.obj.SetManagedFields(nil) // rather than refuse the object
		if data, err = codec.Save(c.ctx, k, ch.obj); err == nil {
			rev, err = s.cfg.Store.Put(ctx, key, data, cur.rev)
		}
	}
	if errors.Is(err, store.ErrDiskFull) && !cur.live {
		// What is being deleted may still be written: the cache may not know yet.
		if live, err := s.lookup(c.ctx, c.ref, true); err == nil && live.rev != cur.rev {
			return nil, false, &store.Conflict{Current: store.KV{Key: key, Value: live.data, Rev: live.rev}}
		}
	}
	if err != nil {
		return nil, false, err
	}
	ch.obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	return ch.obj, false, nil
}

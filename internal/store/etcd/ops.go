package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"knarr.dev/knarr/internal/store"
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	resp, err := s.client.Get(ctx, key)
	if err != nil {
		return store.KV{}, s.translate(err)
	}
	if len(resp.Kvs) == 0 {
		return store.KV{}, store.ErrNotFound
	}
	return kv(resp.Kvs[0]), nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, o store.ListOptions) (store.Page, error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	if o.After >= prefix {
		from = o.After + "\x00"
	}
	page := store.Page{Rev: o.Rev}
	for {
		limit := pageSize
		if o.Limit > 0 {
			limit = min(limit, o.Limit-len(page.KVs))
		}
		resp, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)), clientv3.WithRev(page.Rev))
		if err != nil {
			return store.Page{}, s.translate(err)
		}
		if page.Rev == 0 {
			page.Rev = resp.Header.Revision
		}
		for _, k := range resp.Kvs {
			page.KVs = append(page.KVs, kv(k))
		}
		page.More = resp.More
		if !resp.More || o.Limit > 0 && len(page.KVs) >= o.Limit {
			return page, nil
		}
		from = page.KVs[len(page.KVs)-1].Key + "\x00"
	}
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, expect int64) (int64, error) {
	return s.write(ctx, key, expect, clientv3.OpPut(key, string(value)))
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, expect int64) (int64, error) {
	if expect == 0 {
		return 0, store.ErrNotFound
	}
	return s.write(ctx, key, expect, clientv3.OpDelete(key))
}

// write is one transaction: the change if the key is at the expected revision,
// else the value that stands.
func (s *Store) write(ctx context.Context, key string, expect int64, op clientv3.Op) (int64, error) {
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", expect)).
		Then(op).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, s.translate(err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	current := store.KV{Key: key}
	if got := resp.Responses[0].GetResponseRange(); len(got.Kvs) > 0 {
		current = kv(got.Kvs[0])
	}
	return 0, &store.Conflict{Current: current}
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := s.client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(),
		clientv3.WithRev(after+1), clientv3.WithProgressNotify())
	for {
		var resp clientv3.WatchResponse
		var ok bool
		select {
		case resp, ok = <-events:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := resp.Err(); err != nil {
			return s.translate(err)
		}
		if !ok {
			if err := ctx.Err(); err != nil {
				return err
			}
			return errors.New("etcd: the watch ended")
		}
		b := batch(resp)
		if b.Rev <= after {
			continue
		}
		after = b.Rev
		if err := recv(b); err != nil {
			return err
		}
	}
}

func batch(resp clientv3.WatchResponse) store.Batch {
	if resp.IsProgressNotify() {
		return store.Batch{Rev: resp.Header.Revision}
	}
	b := store.Batch{Events: make([]store.Event, 0, len(resp.Events))}
	for _, e := range resp.Events {
		ev := store.Event{KV: kv(e.Kv), Delete: e.Type == mvccpb.Event_DELETE}
		if e.PrevKv != nil {
			prev := kv(e.PrevKv)
			ev.Prev = &prev
		}
		b.Events = append(b.Events, ev)
		b.Rev = e.Kv.ModRevision
	}
	return b
}

// Revision implements store.Store: a linearizable read that returns nothing.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	resp, err := s.client.Get(ctx, "\x00", clientv3.WithCountOnly())
	if err != nil {
		return 0, s.translate(err)
	}
	return resp.Header.Revision, nil
}

// Compact forgets the history up to and including rev.
func (s *Store) Compact(ctx context.Context, rev int64) error {
	_, err := s.client.Compact(ctx, rev)
	return s.translate(err)
}

func kv(k *mvccpb.KeyValue) store.KV {
	return store.KV{Key: string(k.Key), Value: k.Value, Rev: k.ModRevision}
}

func (s *Store) translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrGRPCCompacted):
		return store.ErrCompacted
	case errors.Is(err, rpctypes.ErrFutureRev) || errors.Is(err, rpctypes.ErrGRPCFutureRev):
		return store.ErrFutureRevision
	case errors.Is(err, rpctypes.ErrNoSpace) || errors.Is(err, rpctypes.ErrGRPCNoSpace):
		select {
		case s.room <- struct{}{}:
		default:
		}
		return store.ErrNoSpace
	}
	return fmt.Errorf("etcd: %w", err)
}

// makeRoom compacts and defragments once a write has met the quota, and lifts
// the alarm if that helped.
func (s *Store) makeRoom(ctx context.Context) {
	defer close(s.done)
	for {
		select {
		case <-s.room:
		case <-ctx.Done():
			return
		}
		if err := s.makeRoomOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("the store is full: delete objects, or raise its quota", "quota", s.quota, "error", err)
		}
		select {
		case <-time.After(roomInterval):
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) makeRoomOnce(ctx context.Context) error {
	rev, err := s.Revision(ctx)
	if err != nil {
		return err
	}
	if _, err := s.client.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil && !errors.Is(s.translate(err), store.ErrCompacted) {
		return err
	}
	size, err := s.defragment(ctx)
	if err != nil {
		return err
	}
	if size >= s.quota {
		return fmt.Errorf("%d bytes are in use", size)
	}
	_, err = s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	if err == nil {
		s.log.Info("the store has room again", "bytes", size, "quota", s.quota)
	}
	return err
}

// defragment returns the size that remains. The in-process client does not
// know how, so an embedded server is asked itself.
func (s *Store) defragment(ctx context.Context) (int64, error) {
	if s.server != nil {
		b := s.server.Server.Backend()
		err := b.Defrag()
		return b.Size(), err
	}
	var size int64
	for _, endpoint := range s.client.Endpoints() {
		if _, err := s.client.Defragment(ctx, endpoint); err != nil {
			return 0, err
		}
		st, err := s.client.Status(ctx, endpoint)
		if err != nil {
			return 0, err
		}
		size = max(size, st.DbSize)
	}
	return size, nil
}

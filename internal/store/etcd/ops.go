package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"knarr.dev/knarr/internal/store"
)

// pageSize is keys per request: pages keep answers at a few MiB.
const pageSize = 1000

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	resp, err := s.client.Get(ctx, s.outer(key))
	if err != nil {
		return store.KV{}, s.translate(err)
	}
	if len(resp.Kvs) == 0 {
		return store.KV{}, store.ErrNotFound
	}
	return s.inner(kv(resp.Kvs[0])), nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, o store.ListOptions) (store.Page, error) {
	from := s.outer(prefix)
	end := clientv3.GetPrefixRangeEnd(from)
	if o.After >= prefix {
		from = s.outer(o.After) + "\x00" // also for an empty prefix: etcd has no empty keys
	}
	page := store.Page{Rev: o.Rev}
	for {
		limit := pageSize
		if o.Limit > 0 {
			limit = min(limit, o.Limit-len(page.KVs))
		}
		resp, err := s.page(ctx, from, end, limit, page.Rev)
		if err != nil {
			return store.Page{}, s.translate(err)
		}
		if page.Rev == 0 {
			page.Rev = resp.Header.Revision
		}
		for _, k := range resp.Kvs {
			page.KVs = append(page.KVs, s.inner(kv(k)))
		}
		page.More = resp.More
		if !resp.More || o.Limit > 0 && len(page.KVs) >= o.Limit {
			return page, nil
		}
		from = s.outer(page.KVs[len(page.KVs)-1].Key) + "\x00"
	}
}

func (s *Store) page(ctx context.Context, from, end string, limit int, rev int64) (*clientv3.GetResponse, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)), clientv3.WithRev(rev))
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, expect int64) (int64, error) {
	if len(value) > store.MaxValue+store.MaxOverhead {
		return 0, store.ErrTooLarge
	}
	need := uint64(diskReserve)
	if store.IsDeleting(ctx) {
		need = deleteReserve
	}
	if err := s.diskRoom(need); err != nil {
		return 0, err
	}
	return s.write(ctx, key, expect, clientv3.OpPut(s.outer(key), string(value)))
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, expect int64) (int64, error) {
	if expect != 0 {
		return s.write(ctx, key, expect, clientv3.OpDelete(s.outer(key)))
	}
	// A transaction would succeed and delete nothing.
	current, err := s.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	return 0, &store.Conflict{Current: current}
}

// write is one transaction: the change if the key is at the expected revision,
// else the value that stands.
func (s *Store) write(ctx context.Context, key string, expect int64, op clientv3.Op) (int64, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(s.outer(key)), "=", expect)).
		Then(op).
		Else(clientv3.OpGet(s.outer(key))).Commit()
	if err != nil {
		return 0, s.translate(err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	current := store.KV{Key: key}
	if got := resp.Responses[0].GetResponseRange(); len(got.Kvs) > 0 {
		current = s.inner(kv(got.Kvs[0]))
	}
	return 0, &store.Conflict{Current: current}
}

// Revision implements store.Store: a linearizable read that returns nothing.
// Concurrent ones share a round of the embedded server.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	if s.server != nil {
		if err := s.server.Server.LinearizableReadNotify(ctx); err != nil {
			return 0, s.translate(err)
		}
		return s.server.Server.KV().Rev(), nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	// Of our own keys, which is all that a user of etcd's may be allowed to read.
	before := s.highest.seen()
	resp, err := s.client.Get(ctx, s.outer(DefaultRoot+"/"), clientv3.WithCountOnly())
	if err != nil {
		return 0, s.translate(err)
	}
	if s.highest.see(resp.Header.Revision); resp.Header.Revision < before {
		s.highest.rewind(resp.Header.Revision)
	}
	return resp.Header.Revision, nil
}

// Compact forgets the history before rev: ErrCompacted if it is forgotten
// already.
func (s *Store) Compact(ctx context.Context, rev int64) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
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
	case errors.Is(err, rpctypes.ErrRequestTooLarge) || errors.Is(err, rpctypes.ErrGRPCRequestTooLarge):
		return store.ErrTooLarge
	case errors.Is(err, rpctypes.ErrNoSpace) || errors.Is(err, rpctypes.ErrGRPCNoSpace):
		select {
		case s.room <- struct{}{}:
		default:
		}
		return store.ErrNoSpace
	}
	return fmt.Errorf("etcd: %w", err)
}

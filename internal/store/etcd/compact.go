package etcd

import (
	"context"
	"errors"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"knarr.dev/knarr/internal/store"
)

// compactKey is what those who compact agree by.
const compactKey = OwnRoot + "/compacted"

// compactor forgets the history of an external etcd, as an embedded one does by
// itself. Of several servers one does it each time: who has raised the key from
// the version that it has seen last.
type compactor struct {
	seen int64 // version of the key
	rev  int64 // revision that was the newest then; 0: not known yet
}

func (s *Store) compactEvery(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var c compactor
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := s.compactOnce(ctx, &c); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot compact the external etcd; it is tried again", "after", interval, "error", err)
		}
	}
}

// compactOnce forgets what is older than the last call: an interval's history
// is always kept.
func (s *Store) compactOnce(ctx context.Context, c *compactor) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(compactKey), "=", c.seen)).
		Then(clientv3.OpPut(compactKey, strconv.FormatInt(c.rev, 10))).
		Else(clientv3.OpGet(compactKey)).Commit()
	if err != nil {
		return err
	}
	upTo := c.rev
	c.rev = resp.Header.Revision
	if !resp.Succeeded {
		c.seen = 0
		if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			c.seen = kvs[0].Version
		}
		return nil // somebody else does it
	}
	c.seen++
	if upTo == 0 {
		return nil
	}
	if err := s.Compact(ctx, upTo); !errors.Is(err, store.ErrCompacted) {
		return err
	}
	return nil
}

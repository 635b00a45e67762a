package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/mvcc"

	"knarr.dev/knarr/internal/store"
)

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 2 * time.Second
	// progressInterval moves a watch on which nothing happens.
	progressInterval = time.Minute
	// maxGather bounds the responses, mostly of one event each, in one batch.
	maxGather = 256
)

var (
	errWatchEnded = errors.New("etcd: the watch ended")
	// errRewound: etcd has been restored; whoever watches has to look anew.
	errRewound = errors.New("etcd: it is at an older revision than it was")
	errClosed  = errors.New("etcd: the store is closed")
)

// recvError is an error of the receiver, which ends the watch.
type recvError struct{ error }

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	return s.watch(ctx, prefix, after, true, recv)
}

// WatchLean implements store.LeanWatcher: etcd looks up no previous values.
func (s *Store) WatchLean(ctx context.Context, prefix string, after int64, recv func(store.Batch) error) error {
	return s.watch(ctx, prefix, after, false, recv)
}

// watch takes up again what etcd broke off, from where it was.
func (s *Store) watch(ctx context.Context, prefix string, after int64, prev bool, recv func(store.Batch) error) error {
	wait := minBackoff
	for {
		before := after
		deliver := func(b store.Batch) error {
			if b.Rev <= after {
				return nil
			}
			after = b.Rev
			if err := recv(b); err != nil {
				return recvError{err}
			}
			return nil
		}
		var err error
		if s.server != nil {
			err = s.watchServer(ctx, prefix, after+1, prev, deliver)
		} else {
			err = s.watchClient(ctx, prefix, after+1, prev, deliver)
		}
		var ours recvError
		switch {
		case errors.As(err, &ours):
			return ours.error
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrCompacted), errors.Is(err, errRewound):
			return err
		}
		if after > before {
			wait = minBackoff
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return errClosed
		}
		s.log.Warn("etcd ended a watch: it is taken up again", "prefix", prefix, "revision", after, "error", err)
		wait = min(2*wait, maxBackoff)
	}
}

// watchServer asks the embedded server's store itself: the in-process client
// hands every event through five goroutines, and locks up when many watches
// are cancelled at once.
func (s *Store) watchServer(ctx context.Context, prefix string, from int64, prev bool, deliver func(store.Batch) error) error {
	stream := s.server.Server.KV().NewWatchStream()
	defer stream.Close()
	id, err := stream.Watch(ctx, clientv3.AutoWatchID, []byte(prefix), []byte(clientv3.GetPrefixRangeEnd(prefix)), from)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	ask := make(chan struct{}, 1)
	s.asks.add(ask)
	defer s.asks.remove(ask)
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case resp := <-stream.Chan():
			b, err := s.batch(ctx, gather(resp, stream.Chan()), prev)
			if len(b.Events) > 0 || err == nil {
				err = errors.Join(err, deliver(b))
			}
			if err != nil {
				return err
			}
		case <-ask:
			stream.RequestProgress(id)
		case <-tick.C:
			stream.RequestProgress(id)
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return errClosed
		}
	}
}

// gather takes along what is ready too, so that a receiver that is behind
// works in larger steps.
func gather(first mvcc.WatchResponse, more <-chan mvcc.WatchResponse) []mvcc.WatchResponse {
	out := []mvcc.WatchResponse{first}
	for len(out) < maxGather {
		select {
		case resp := <-more:
			out = append(out, resp)
		default:
			return out
		}
	}
	return out
}

// batch joins the embedded server's responses up to the one that says that
// history is lost. Previous values are looked up as etcd does it for its
// clients, while the database is open.
func (s *Store) batch(ctx context.Context, responses []mvcc.WatchResponse, prev bool) (store.Batch, error) {
	var b store.Batch
	if prev {
		if !s.open.TryRLock() {
			return b, errClosed
		}
		defer s.open.RUnlock()
	}
	for _, resp := range responses {
		if resp.CompactRevision != 0 {
			return b, store.ErrCompacted
		}
		mvcc.ReportEventReceived(len(resp.Events))
		for _, e := range resp.Events {
			ev := event(e)
			if prev {
				ev.Prev = s.previous(ctx, e)
			}
			b.Events = append(b.Events, ev)
		}
		b.Rev = resp.Revision
		if n := len(resp.Events); n > 0 {
			b.Rev = resp.Events[n-1].Kv.ModRevision
		}
	}
	return b, nil
}

// previous value of what an event changed; nil if there was none, or if it was
// compacted meanwhile, so that nobody knows any more.
func (s *Store) previous(ctx context.Context, e *mvccpb.Event) *store.KV {
	if e.Type == mvccpb.Event_PUT && e.Kv.CreateRevision == e.Kv.ModRevision {
		return nil
	}
	r, err := s.server.Server.KV().Range(ctx, e.Kv.Key, nil, mvcc.RangeOptions{Rev: e.Kv.ModRevision - 1})
	if err != nil || len(r.KVs) == 0 {
		return nil
	}
	was := kv(r.KVs[0])
	return &was
}

func event(e *mvccpb.Event) store.Event {
	ev := store.Event{KV: kv(e.Kv), Delete: e.Type == mvccpb.Event_DELETE}
	if e.PrevKv != nil {
		prev := kv(e.PrevKv)
		ev.Prev = &prev
	}
	return ev
}

// watchClient watches an external etcd.
func (s *Store) watchClient(ctx context.Context, prefix string, from int64, prev bool, deliver func(store.Batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithProgressNotify()}
	if prev {
		opts = append(opts, clientv3.WithPrevKV())
	}
	events := s.client.Watch(clientv3.WithRequireLeader(ctx), s.outer(prefix), opts...)
	rewound := s.highest.rewound()
	for {
		var resp clientv3.WatchResponse
		var ok bool
		select {
		case resp, ok = <-events:
		case <-rewound:
			return errRewound
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return errClosed
		}
		if err := resp.Err(); err != nil {
			return s.translate(err)
		}
		if !ok {
			return errWatchEnded
		}
		s.highest.see(resp.Header.Revision)
		b := store.Batch{Rev: resp.Header.Revision}
		for _, e := range resp.Events {
			b.Events = append(b.Events, s.innerEvent(event((*mvccpb.Event)(e))))
			b.Rev = e.Kv.ModRevision
		}
		if err := deliver(b); err != nil {
			return err
		}
	}
}

// RequestProgress implements store.Progresser.
func (s *Store) RequestProgress(ctx context.Context) error {
	if s.server != nil {
		s.asks.ask()
		return nil
	}
	// The client finds the watches' stream by the context's metadata.
	return s.client.RequestProgress(clientv3.WithRequireLeader(ctx))
}

// askSet reaches the running watches of an embedded server.
type askSet struct {
	mu    sync.Mutex
	chans map[chan struct{}]bool
}

func (a *askSet) add(c chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.chans == nil {
		a.chans = map[chan struct{}]bool{}
	}
	a.chans[c] = true
}

func (a *askSet) remove(c chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.chans, c)
}

func (a *askSet) ask() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.chans {
		select {
		case c <- struct{}{}:
		default: // asked already
		}
	}
}

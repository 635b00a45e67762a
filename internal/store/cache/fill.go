package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// history is how many revisions before the newest one a start begins at: what
// happened just before is told again from the store's own history, so that a
// client that was cut off by a restart finds its place and misses nothing. To
// replay 2,000 changes of pods takes some 30 ms.
const history = 2000

// Run fills the cache and follows the store until ctx ends. It rides out a
// store that is away, and returns ErrRewound if the store comes back as an
// older one.
func (c *Cache) Run(ctx context.Context) error {
	wait := minBackoff
	fill := true
	for ctx.Err() == nil {
		var err error
		if fill {
			if err = c.fillPast(ctx); errors.Is(err, store.ErrCompacted) {
				err = c.FillFrom(ctx)
			}
			fill = err != nil
		}
		if err == nil {
			err = c.follow(ctx, func() { wait = minBackoff })
			fill = errors.Is(err, store.ErrCompacted)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrRewound):
			return err
		}
		c.log.Warn("the store's watch broke off", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxBackoff)
	}
	return nil
}

// follow watches the store from where the cache is.
func (c *Cache) follow(ctx context.Context, alive func()) error {
	rev, err := c.store.Revision(ctx)
	if err != nil {
		return err
	}
	after := c.Rev()
	if rev < after { // a watch would wait for the revision to come again
		return fmt.Errorf("%w: from %d to %d", ErrRewound, after, rev)
	}
	// The items remember what was before.
	return store.WatchLean(ctx, c.store, kinds.Root, after, func(b store.Batch) error {
		alive()
		c.Apply(b)
		return nil
	})
}

// fillPast is FillFrom, but for the first time: then the content is that of a
// moment ago, and the cache is ready once following has brought it to now.
func (c *Cache) fillPast(ctx context.Context) error {
	now, err := c.store.Revision(ctx)
	if err != nil {
		return fmt.Errorf("cannot read the store: %w", err)
	}
	if c.isFilled() || now <= history {
		return c.FillFrom(ctx)
	}
	c.complete = now
	return c.fillAt(ctx, now-history)
}

// FillFrom makes the content that of the store now. What differs from before
// becomes events, so watchers need not begin anew.
func (c *Cache) FillFrom(ctx context.Context) error {
	c.complete = 0
	return c.fillAt(ctx, 0)
}

// fillAt reads the store at a revision; 0: the newest.
func (c *Cache) fillAt(ctx context.Context, rev int64) error {
	var changes []pending
	seen := map[string]bool{}
	o := store.ListOptions{Limit: fillPage, Rev: rev}
	for {
		page, err := c.store.List(ctx, kinds.Root, o)
		if err != nil {
			return fmt.Errorf("cannot read the store: %w", err)
		}
		o.Rev = page.Rev
		var fresh []store.Event
		for _, kv := range page.KVs {
			seen[kv.Key] = true
			if old := c.at(kv.Key); old == nil || old.Rev != kv.Rev {
				fresh = append(fresh, store.Event{KV: kv})
			}
		}
		changes = append(changes, c.decode(fresh)...)
		if !page.More {
			break
		}
		o.After = page.KVs[len(page.KVs)-1].Key
	}
	if o.Rev < c.Rev() {
		return fmt.Errorf("%w: from %d to %d", ErrRewound, c.Rev(), o.Rev)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.filled {
		c.refill(changes, seen, o.Rev)
	} else {
		c.fill(changes, o.Rev)
	}
	c.isReady()
	return nil
}

func (c *Cache) isFilled() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.filled
}

func (c *Cache) at(key string) *Item {
	t, rest := c.layout.Load().tableOf(key)
	if t == nil {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	it, _ := t.items.Get(rest)
	return it
}

// fill is for the first time: there are no events before it.
func (c *Cache) fill(changes []pending, rev int64) {
	for _, p := range changes {
		p.table.items.Set(p.key, p.item)
		p.table.frozen = nil
	}
	c.rev, c.filled = rev, true
	for _, t := range c.layout.Load().tables {
		t.floor = rev
	}
	for _, v := range c.feeds {
		c.replace(v)
	}
	c.moved.wake()
}

// isReady tells once that everything is in. The caller holds the lock.
func (c *Cache) isReady() {
	if c.rev < c.complete {
		return
	}
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
}

// refill makes the difference into events. A name that another object has now
// was deleted in between. Each deletion has used up a revision; which one is
// not known, so that any that is free will do.
func (c *Cache) refill(changes []pending, seen map[string]bool, rev int64) {
	var events []pending
	used := make(map[int64]bool, len(changes))
	for _, p := range changes {
		if p.table.joining != nil {
			continue
		}
		if old, ok := p.table.items.Get(p.key); ok && old.Object().GetUID() != p.item.Object().GetUID() {
			events = append(events, pending{table: p.table, key: p.key, rev: p.rev - 1})
			used[p.rev-1] = true
		}
		events = append(events, p)
		used[p.rev] = true
	}
	free := rev
	for _, t := range c.layout.Load().tables {
		if t.joining != nil {
			t.joining.broken = true // what happened in between is not known
			continue
		}
		t.items.Scan(func(key string, _ *Item) bool {
			if seen[t.kind.KeyPrefix("")+key] {
				return true
			}
			for used[free] {
				free--
			}
			at := free
			if free > c.rev+1 {
				free--
			}
			events = append(events, pending{table: t, key: key, rev: at})
			return true
		})
	}
	slices.SortStableFunc(events, func(a, b pending) int { return cmp.Compare(a.rev, b.rev) })
	changed := map[*table]bool{}
	for _, p := range events {
		changed[p.table] = true
	}
	c.change(events, rev, false)
	// Views take the whole: they find the differences themselves.
	for _, v := range c.feeds {
		for _, k := range v.Kinds() {
			if t := c.table(k); changed[t] {
				v.Replace(k, t.objects(), rev)
			}
		}
		v.ProgressAll(rev)
	}
}

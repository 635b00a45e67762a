package cache

import (
	"context"
	"fmt"
	"slices"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// backlog is what the watch brings of a kind whose content is still being read.
type backlog struct {
	changes []pending
	broken  bool // the watch has lost events: read again
}

// Add takes up one more kind, in its decoded form too, and returns once its
// content is as current as that of the others. Views that hold the kind are
// fed. It must not be called while the first content is being read: before Run,
// or once the cache is ready.
func (c *Cache) Add(ctx context.Context, k *kinds.Kind) error {
	t := newTable(k, true)
	c.mu.Lock()
	old := c.layout.Load()
	if old.byPrefix[k.Prefix] != nil {
		c.mu.Unlock()
		return fmt.Errorf("cache: two kinds are stored as %s", k.Prefix)
	}
	if c.filled {
		t.joining = &backlog{}
	}
	c.layout.Store(newLayout(append(slices.Clip(old.tables), t)))
	c.mu.Unlock()
	if t.joining == nil {
		return nil // the first content will have it
	}
	for {
		done, err := c.join(ctx, t)
		if err != nil {
			c.Remove(k)
			return err
		}
		if done {
			return nil
		}
	}
}

// join reads a kind's content. Every event after the table is in the layout is
// in its backlog, and every one before that is in the store already: so what
// was read at a revision and the backlog after it are the whole.
func (c *Cache) join(ctx context.Context, t *table) (done bool, err error) {
	c.mu.Lock()
	*t.joining = backlog{}
	c.mu.Unlock()
	var items []pending
	o := store.ListOptions{Limit: fillPage}
	for {
		page, err := c.store.List(ctx, t.kind.KeyPrefix(""), o)
		if err != nil {
			return false, fmt.Errorf("cannot read the store: %w", err)
		}
		events := make([]store.Event, len(page.KVs))
		for i, kv := range page.KVs {
			events[i].KV = kv
		}
		items = append(items, c.decode(events)...)
		o.Rev = page.Rev
		if !page.More {
			break
		}
		o.After = page.KVs[len(page.KVs)-1].Key
	}
	// The content must not show what the cache as a whole does not know yet.
	if err := c.WaitRev(ctx, o.Rev); err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.removed:
		return false, ErrRemoved
	case t.joining.broken:
		return false, nil
	}
	for _, p := range items {
		t.items.Set(p.key, p.item)
	}
	later := slices.DeleteFunc(t.joining.changes, func(p pending) bool { return p.rev <= o.Rev })
	t.joining, t.floor = nil, o.Rev
	for _, v := range c.feeds {
		if v.Has(t.kind) {
			v.Replace(t.kind, t.objects(), o.Rev)
		}
	}
	c.change(later, c.rev, true)
	return true, nil
}

// Remove lets a kind go, and ends the watches of it. Views keep what they have.
func (c *Cache) Remove(k *kinds.Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.layout.Load()
	t := old.byPrefix[k.Prefix]
	if t == nil || t.kind != k {
		return
	}
	c.layout.Store(newLayout(slices.DeleteFunc(slices.Clone(old.tables), func(o *table) bool { return o == t })))
	t.removed = true
	t.items.Scan(func(_ string, it *Item) bool {
		c.encoded.release(it)
		return true
	})
	t.items.Clear()
	t.frozen = nil
	t.moved.wake()
	for _, groups := range t.groups {
		for _, g := range groups {
			g.moved.wake()
		}
	}
}

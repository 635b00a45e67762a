package admission

import (
	"context"
	"slices"
	"sync"
)

// batches gathers work of one key while earlier work of that key is under way.
// There are no workers: whoever comes first works for those who came
// meanwhile, and then hands over.
type batches[T any] struct {
	work func(ctx context.Context, key string, items []T)

	mu      sync.Mutex
	waiting map[string][]*place[T] // a key that is there is being worked on
}

// place in a queue. turn is closed when the item is done, or when its batch is
// its own to work on.
type place[T any] struct {
	item  T
	turn  chan struct{}
	batch []*place[T] // not nil: work on it
}

func newBatches[T any](work func(ctx context.Context, key string, items []T)) *batches[T] {
	return &batches[T]{work: work, waiting: map[string][]*place[T]{}}
}

// do returns when the item has been worked on. An error says that ctx ended
// before anybody began.
func (b *batches[T]) do(ctx context.Context, key string, item T) error {
	p := &place[T]{item: item, turn: make(chan struct{})}
	b.mu.Lock()
	queue, busy := b.waiting[key]
	if busy {
		b.waiting[key] = append(queue, p)
	} else {
		b.waiting[key] = nil
	}
	b.mu.Unlock()
	if !busy {
		b.run(ctx, key, []*place[T]{p})
		return nil
	}
	select {
	case <-p.turn:
	case <-ctx.Done():
		if b.leave(key, p) {
			return ctx.Err()
		}
		<-p.turn // somebody works on it already, for a bounded time
	}
	if p.batch != nil {
		b.run(ctx, key, p.batch)
	}
	return nil
}

// leave takes back an item that nobody works on yet.
func (b *batches[T]) leave(key string, p *place[T]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting[key], p)
	if i >= 0 {
		b.waiting[key] = slices.Delete(b.waiting[key], i, i+1)
	}
	return i >= 0
}

func (b *batches[T]) run(ctx context.Context, key string, batch []*place[T]) {
	defer b.handOver(key, batch) // even after a panic: others wait
	items := make([]T, len(batch))
	for i, p := range batch {
		items[i] = p.item
	}
	b.work(ctx, key, items)
}

// handOver tells all but the first, who did the work, and lets the next one
// work on what has come meanwhile.
func (b *batches[T]) handOver(key string, batch []*place[T]) {
	for _, p := range batch[1:] {
		close(p.turn)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.waiting[key]
	if len(next) == 0 {
		delete(b.waiting, key)
		return
	}
	b.waiting[key] = nil
	next[0].batch = next
	close(next[0].turn)
}

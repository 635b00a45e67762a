package imagestore

import (
	"context"
	"sync"
)

// flights lets those who want the same thing at the same time wait for one
// piece of work. It ends early once nobody waits for it any more.
type flights[K comparable, V any] struct {
	mu    sync.Mutex
	life  context.Context
	work  sync.WaitGroup
	going map[K]*flight[V]
}

type flight[V any] struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int
	value   V
	err     error
}

// start allows work until ctx ends.
func (f *flights[K, V]) start(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life, f.going = ctx, map[K]*flight[V]{}
}

// wait returns when all work has ended, after the end of start's context.
func (f *flights[K, V]) wait() {
	f.mu.Lock()
	f.life = nil
	f.mu.Unlock()
	f.work.Wait()
}

// do joins the work that is under way for key, or begins it: own tells which.
// When the last waiter leaves, it has seen the work end.
func (f *flights[K, V]) do(ctx context.Context, key K, work func(context.Context) (V, error)) (value V, own bool, err error) {
	f.mu.Lock()
	if f.life == nil {
		f.mu.Unlock()
		return value, true, errStopped
	}
	fl := f.going[key]
	if own = fl == nil; own {
		inner, cancel := context.WithCancel(f.life)
		fl = &flight[V]{done: make(chan struct{}), cancel: cancel}
		f.going[key] = fl
		f.work.Go(func() {
			defer cancel()
			fl.value, fl.err = work(inner)
			f.mu.Lock()
			if f.going[key] == fl {
				delete(f.going, key)
			}
			f.mu.Unlock()
			close(fl.done)
		})
	}
	fl.waiting++
	f.mu.Unlock()

	select {
	case <-fl.done:
		return fl.value, own, fl.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	fl.waiting--
	last := fl.waiting == 0
	if last && f.going[key] == fl {
		delete(f.going, key) // it is ending: who comes now begins anew
	}
	f.mu.Unlock()
	if last {
		fl.cancel()
		<-fl.done
	}
	return value, own, context.Cause(ctx)
}

// locks serialises what is done to one thing, by its name.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	sync.Mutex
	users int
}

func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	own := l.held[name]
	if own == nil {
		own = &lock{}
		l.held[name] = own
	}
	own.users++
	l.mu.Unlock()
	own.Lock()
	return func() {
		own.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(l.held, name)
		}
	}
}

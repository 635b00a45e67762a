package leader

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Term is one time in office.
type Term struct {
	elector *Elector
	number  int
	cancel  context.CancelFunc
	done    chan error // what came of it
}

// open: it may be acted. It is asked before each write, for a process that was
// stopped for a while goes on where it was before any timer fires.
func (t *Term) open() (until time.Time, ok bool) {
	e := t.elector
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.self.until, e.self.term == t.number && e.self.leads(e.cfg.Now())
}

// Client refuses writes when the term is over.
func (t *Term) Client(c client.Client) client.Client {
	return gated{c, func() bool { _, ok := t.open(); return ok }}
}

// Gate refuses writes while this candidate does not lead; for who drives Step.
func (e *Elector) Gate(c client.Client) client.Client { return gated{c, e.Leads} }

type gated struct {
	client.Client
	open func() bool
}

// Create implements client.Client.
func (g gated) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if !g.open() {
		return nil, errOver
	}
	return g.Client.Create(ctx, ref, obj)
}

// Update implements client.Client.
func (g gated) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if !g.open() {
		return nil, errOver
	}
	return g.Client.Update(ctx, ref, obj)
}

// Patch implements client.Client.
func (g gated) Patch(ctx context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	if !g.open() {
		return nil, errOver
	}
	return g.Client.Patch(ctx, ref, t, data)
}

// Delete implements client.Client.
func (g gated) Delete(ctx context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error) {
	if !g.open() {
		return nil, errOver
	}
	return g.Client.Delete(ctx, ref, o)
}

// releaseLimit bounds how long a server that stops tries to give its lease up.
const releaseLimit = time.Second

// Run takes part until ctx ends, and then gives the lease up. While it leads,
// lead runs; its context ends with the term, and lead must then return, having
// stopped to act. An error of lead ends Run.
func (e *Elector) Run(ctx context.Context, lead func(context.Context, *Term) error) error {
	if err := e.cfg.View.WaitSynced(ctx); err != nil {
		return nil // only ctx ends the wait
	}
	defer e.cfg.View.Subscribe(e.changed)()
	var t *Term
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, _ := e.turn(ctx)
		number := e.current()
		if t != nil && t.number != number {
			t.cancel()
			if err := e.end(t); err != nil {
				return err
			}
			t = nil
			continue // much may have happened in the meantime
		}
		if t == nil && number != 0 {
			t = e.begin(ctx, number, lead)
		}
		var done chan error
		if t != nil {
			done = t.done
		}
		timer.Reset(max(0, due.Sub(e.cfg.Now())))
		select {
		case <-ctx.Done():
			return e.resign(ctx, t)
		case err := <-done:
			if _, open := t.open(); err == nil && !open {
				t = nil // left because it is over
				continue
			}
			e.giveUp(ctx)
			return err
		case <-e.wakeup:
		case <-timer.C:
		}
	}
}

// changed is called by the view, under its lock.
func (e *Elector) changed(c view.Change) {
	if o := c.Object(); c.Kind == kinds.Lease && o.GetName() == e.ref.Name && o.GetNamespace() == e.ref.Namespace {
		select {
		case e.wakeup <- struct{}{}:
		default:
		}
	}
}

// begin a term.
func (e *Elector) begin(ctx context.Context, number int, lead func(context.Context, *Term) error) *Term {
	ctx, cancel := context.WithCancel(ctx)
	t := &Term{elector: e, number: number, cancel: cancel, done: make(chan error, 1)}
	go func() {
		defer cancel()
		stop := t.watch()
		defer stop()
		if err := e.catchUp(ctx); err != nil {
			t.done <- nil // only ctx ends the wait
			return
		}
		t.done <- lead(ctx, t)
	}()
	return t
}

// watch ends the term when its time is up, whatever else is stuck.
func (t *Term) watch() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			until, ok := t.open()
			if !ok {
				t.cancel()
				return
			}
			select {
			case <-time.After(until.Sub(t.elector.cfg.Now())):
			case <-ctx.Done():
				return
			}
		}
	}()
	return cancel
}

// catchUp waits until the view shows what the former leader has done.
func (e *Elector) catchUp(ctx context.Context) error {
	for {
		rev, err := e.cfg.Revision(ctx)
		if err == nil && e.cfg.Reach != nil {
			err = e.cfg.Reach(ctx, rev)
		}
		if err == nil {
			return e.cfg.View.WaitReached(ctx, rev)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.cfg.Log.Warn("a new leader waits: the store's revision is not known", "lease", e.ref.String(), "error", err)
		select {
		case <-time.After(e.cfg.Timing.Retry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// end waits until a term that is over has been left.
func (e *Elector) end(t *Term) error {
	err := <-t.done
	if err != nil {
		return fmt.Errorf("%s: %w", e.ref.Name, err)
	}
	return nil
}

// resign leaves the term, if any, and gives the lease up.
func (e *Elector) resign(ctx context.Context, t *Term) error {
	var err error
	if t != nil {
		t.cancel()
		err = e.end(t)
	}
	e.giveUp(ctx)
	return err
}

func (e *Elector) giveUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
	defer cancel()
	e.Release(ctx)
	e.current()
}

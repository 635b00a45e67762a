package reconciletest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
)

// Events collects what a runtime emits.
type Events struct {
	All []plan.Event
}

// Emit implements reconcile.Emitter.
func (e *Events) Emit(ev plan.Event) { e.All = append(e.All, ev) }

// Drive plans keys of the controllers against the world, in an order given by
// the seed, until nothing is ready; then it moves the world's clock to the
// next due key, at most horizon ahead in all. It fails after limit passes, so
// that plans which never come to rest are found. It returns the events.
func (w *World) Drive(seed uint64, limit int, horizon time.Duration, cs ...reconcile.Controller) (*Events, error) {
	events := &Events{}
	r, err := reconcile.New(reconcile.Config{
		Controllers: cs, View: w.View,
		Client: func(string) client.Client { return w },
		Events: func(string) reconcile.Emitter { return events },
		Now:    func() time.Time { return w.Now },
		Rand:   rand.New(rand.NewPCG(seed, 1)),
	})
	if err != nil {
		return nil, err
	}
	defer r.Stop()
	rng := rand.New(rand.NewPCG(seed, 2))
	end := w.Now.Add(horizon)
	for n := 0; ; n++ {
		if n > limit {
			return events, fmt.Errorf("not at rest after %d passes; last writes: %v", limit, tail(w.Writes, 5))
		}
		if r.Step(context.Background(), rng) {
			continue
		}
		due := r.NextDue()
		if due.IsZero() || due.After(end) {
			return events, nil
		}
		if due.After(w.Now) {
			w.Now = due
		}
	}
}

func tail(s []string, n int) []string { return s[max(0, len(s)-n):] }

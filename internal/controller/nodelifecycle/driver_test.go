package nodelifecycle

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// driver keeps one runtime over a test that moves the clock itself.
type driver struct {
	w   *reconciletest.World
	r   *reconcile.Runtime
	rng *rand.Rand
}

func (d *driver) start(t *testing.T, w *reconciletest.World, c reconcile.Controller) {
	t.Helper()
	r, err := reconcile.New(reconcile.Config{
		Controllers: []reconcile.Controller{c}, View: w.View, Client: func(string) client.Client { return w },
		Now: func() time.Time { return w.Now }, Rand: rand.New(rand.NewPCG(1, 2)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	d.w, d.r, d.rng = w, r, rand.New(rand.NewPCG(3, 4))
}

// rest plans until nothing is ready.
func (d *driver) rest(t *testing.T) {
	t.Helper()
	for n := 0; d.r.Step(context.Background(), d.rng); n++ {
		if n > 500 {
			t.Fatalf("not at rest: %v", d.w.Writes[max(0, len(d.w.Writes)-5):])
		}
	}
}

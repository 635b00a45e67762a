package csr

import (
	"context"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// approvals is a world that knows the approval subresource: a part of the
// status.
type approvals struct{ *reconciletest.World }

func (a *approvals) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if ref.Sub == "approval" {
		ref.Sub = "status"
	}
	return a.World.Update(ctx, ref, obj)
}

// drive is World.Drive through the above.
func (a *approvals) drive(c reconcile.Controller, horizon time.Duration) error {
	r, err := reconcile.New(reconcile.Config{
		Controllers: []reconcile.Controller{c}, View: a.View, Client: func(string) client.Client { return a },
		Now: func() time.Time { return a.Now }, Rand: rand.New(rand.NewPCG(1, 2)),
	})
	if err != nil {
		return err
	}
	defer r.Stop()
	rng, end := rand.New(rand.NewPCG(3, 4)), a.Now.Add(horizon)
	for range 10000 {
		if r.Step(context.Background(), rng) {
			continue
		}
		due := r.NextDue()
		if due.IsZero() || due.After(end) {
			break
		}
		a.Now = due
	}
	a.Now = end
	return nil
}

package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/quota"
	"knarr.dev/knarr/internal/view"
)

const (
	// quotaPatience is how long a request waits for its charge; upstream's figure.
	quotaPatience = 10 * time.Second
	// quotaTries bounds how often a charge is made again because somebody else
	// wrote the quota.
	quotaTries = 10
)

// Self is the API server, asked by itself.
type Self interface {
	Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error)
	Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error)
}

// resourceQuota charges a write to the quotas of its namespace before it
// happens: what is used is written first, so that two servers never let in more
// than there is. What was charged and never happened is given back when the
// controller counts again.
type resourceQuota struct {
	c       *Config
	batches *batches[*quotaCharge]
	written *writtenQuotas
}

// quotaCharge is one request's part of a batch.
type quotaCharge struct {
	write   *quota.Write
	look    bool // only whether there is enough
	decided bool
	err     error
}

func (c *quotaCharge) decide(err error) { c.decided, c.err = true, err }

func newResourceQuota(c *Config) resourceQuota {
	p := resourceQuota{c: c, written: &writtenQuotas{}}
	p.batches = newBatches(p.settle)
	return p
}

func (resourceQuota) Name() string { return "ResourceQuota" }

func (resourceQuota) Mutate(context.Context, *Request) error { return nil }

func (p resourceQuota) Validate(ctx context.Context, r *Request) error {
	if r.Operation != Create && r.Operation != Update || r.Ref.Namespace == "" || !quota.Counted(r.Ref.Kind) {
		return nil
	}
	w := &quota.Write{Kind: r.Ref.Kind, Sub: r.Ref.Sub}
	var ok bool
	if w.Object, ok = r.Object.(kinds.Object); !ok {
		return nil
	}
	if r.Operation == Update {
		if w.Old, ok = r.Old.(kinds.Object); !ok {
			return nil
		}
	}
	if !quota.Costs(w) {
		return nil
	}
	quotas := view.NowList[*corev1.ResourceQuota](p.c.View, kinds.ResourceQuota, r.Ref.Namespace)
	if len(quotas) == 0 {
		return nil
	}
	s := p.c.View.Snapshot()
	m := p.meter(s)
	if !slices.ContainsFunc(quotas, func(q *corev1.ResourceQuota) bool { return m.Limits(q.Status.Hard, w.Kind) }) {
		return nil
	}
	charge := &quotaCharge{write: w, look: r.DryRun || w.Old == nil && there(s, r.Ref)}
	ctx, cancel := context.WithTimeout(ctx, quotaPatience)
	defer cancel()
	if err := p.batches.do(ctx, r.Ref.Namespace, charge); err != nil {
		return apierrors.NewInternalError(errors.New("resource quota evaluation timed out"))
	}
	if !charge.decided { // whoever worked on it has panicked
		return apierrors.NewInternalError(errors.New("resource quota was not evaluated"))
	}
	var refused *quota.Refused
	if errors.As(charge.err, &refused) {
		return forbid(r, refused)
	}
	return charge.err
}

func (p resourceQuota) meter(s *view.Snapshot) quota.Meter {
	return quota.Meter{Around: quota.In{Snapshot: s}, Now: p.c.Now()}
}

// there: the creation will fail. Clients that create until they may not would
// use up the quota.
func there(s *view.Snapshot, ref kinds.Ref) bool {
	k := s.ByName(ref.Kind.GroupResource())
	return k != nil && view.Get[kinds.Object](s, k, ref.Namespace, ref.Name) != nil
}

// settle decides about all requests of one namespace that came meanwhile, with
// one write for each quota.
func (p resourceQuota) settle(ctx context.Context, namespace string, batch []*quotaCharge) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quotaPatience)
	defer cancel()
	s := p.c.View.Snapshot()
	m, quotas := p.meter(s), p.written.newest(slices.Collect(view.List[*corev1.ResourceQuota](s, kinds.ResourceQuota, namespace)))
	for try := 1; ; try++ {
		charged := chargeAll(m, quotas, batch)
		again, err := p.write(ctx, quotas, charged)
		if len(again) == 0 || err != nil || try == quotaTries {
			if len(again) > 0 && err == nil {
				err = apierrors.NewConflict(kinds.ResourceQuota.GroupResource(), again[0].Name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
			}
			for _, c := range batch {
				if !c.decided {
					c.decide(err)
				}
			}
			return
		}
		quotas = again // the others have been charged
	}
}

// chargeAll adds up what the undecided requests cost; those who cost nothing
// here, or too much, are decided.
func chargeAll(m quota.Meter, quotas []*corev1.ResourceQuota, batch []*quotaCharge) []*corev1.ResourceQuota {
	for _, c := range batch {
		if c.decided {
			continue
		}
		out, err := m.Charge(quotas, c.write)
		if err != nil || c.look || slices.Equal(out, quotas) {
			c.decide(err)
			continue
		}
		quotas = out
	}
	return quotas
}

// write stores what has changed. It returns the quotas, as they stand now, that
// somebody else had written.
func (p resourceQuota) write(ctx context.Context, quotas, charged []*corev1.ResourceQuota) (again []*corev1.ResourceQuota, err error) {
	self := p.c.Self()
	for i, q := range charged {
		if q == quotas[i] {
			continue
		}
		ref := kinds.RefTo(kinds.ResourceQuota, q)
		out, err := self.Update(ctx, ref.WithSub("status"), q)
		if apierrors.IsConflict(err) {
			out, err = self.Get(ctx, ref)
			if q, ok := out.(*corev1.ResourceQuota); ok && err == nil {
				again = append(again, q)
			}
		} else if q, ok := out.(*corev1.ResourceQuota); ok && err == nil {
			p.written.note(q)
		}
		if err != nil && !apierrors.IsNotFound(err) { // one that is gone limits nothing
			return again, fmt.Errorf("cannot charge quota %s: %w", q.Name, err)
		}
	}
	return again, nil
}

// maxWritten bounds what is remembered; forgetting costs a conflict.
const maxWritten = 256

// writtenQuotas are what was written a moment ago, until the view shows it, so
// that the next charge does not begin with a conflict.
type writtenQuotas struct {
	mu     sync.Mutex
	quotas map[types.UID]*corev1.ResourceQuota
}

func (w *writtenQuotas) note(q *corev1.ResourceQuota) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.quotas == nil || len(w.quotas) >= maxWritten {
		w.quotas = map[types.UID]*corev1.ResourceQuota{}
	}
	w.quotas[q.UID] = q
}

// newest replaces what has been written since the view saw it.
func (w *writtenQuotas) newest(quotas []*corev1.ResourceQuota) []*corev1.ResourceQuota {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, q := range quotas {
		newer, ok := w.quotas[q.UID]
		switch {
		case !ok:
		case revisionOf(newer) > revisionOf(q):
			quotas[i] = newer
		default:
			delete(w.quotas, q.UID)
		}
	}
	return quotas
}

func revisionOf(q *corev1.ResourceQuota) int64 {
	rev, err := strconv.ParseInt(q.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return rev
}

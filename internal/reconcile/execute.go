package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

var (
	errPanic      = errors.New("panic while planning")
	errUndeclared = errors.New("write is not declared by the controller")
	// errStale ends a pass whose live preconditions do not hold.
	errStale = errors.New("the view is behind the server")
)

// outcome of one pass.
type outcome struct {
	again   bool // plan again after a back-off
	stale   bool // only because the pass looked at an old state
	after   time.Duration
	holds   []hold
	failure *Failure
	exists  bool
}

// pass plans one key and applies what the plan says.
func (r *Runtime) pass(ctx context.Context, it *item) {
	begin := r.now()
	ctl, s := it.ctl, r.view.Snapshot()
	o := outcome{exists: ctl.For == nil || view.Get[kinds.Object](s, ctl.For, it.key.Namespace, it.key.Name) != nil}
	in := Input{View: s, Key: it.key, Now: begin, Suffix: r.suffix, Failure: it.failure}
	res, err := r.plan(ctl, in)
	var applied []write
	if err == nil {
		o.after = res.After
		for _, e := range res.Events {
			ctl.events.Emit(e)
		}
		applied, err = r.execute.apply(ctx, ctl, res.Actions)
		o.holds = holdsOf(r.view, applied)
	}
	if err != nil {
		o.again, o.stale = true, outrun(err)
		o.failure = r.report(ctl, it, err)
	}
	r.metrics.passed(ctl.Name, err)
	took := r.now().Sub(begin)
	ctl.told.worked.Observe(took.Seconds())
	if ctl.Passed != nil {
		p := Pass{Input: in, Result: res, Err: err, Took: took}
		for _, w := range applied {
			p.Applied = append(p.Applied, w.action)
		}
		ctl.Passed(p)
	}
	r.mu.Lock()
	r.finish(it, o)
	r.mu.Unlock()
}

// plan calls the controller's plan; a panic is that key's error.
func (r *Runtime) plan(ctl *controller, in Input) (res plan.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.panicked(ctl, in.Key, p)
			err = errPanic
		}
	}()
	return ctl.Plan(in), nil
}

func (r *Runtime) panicked(ctl *controller, key Key, p any) {
	r.metrics.panics.WithLabelValues(ctl.Name).Inc()
	r.log.Error("controller panicked", "controller", ctl.Name, "key", key.String(), "panic", p, "stack", string(debug.Stack()))
}

// report logs what ended a pass, unless it is in the course of things, and
// returns what the next plan is told.
func (r *Runtime) report(ctl *controller, it *item, err error) *Failure {
	if quiet(err) && !(apierrors.IsAlreadyExists(err) && it.failures >= takenTries) {
		r.log.Debug("pass ended early", "controller", ctl.Name, "key", it.key.String(), "reason", err)
		return nil
	}
	var f *failed
	if errors.As(err, &f) {
		r.log.Warn("write failed", "controller", ctl.Name, "key", it.key.String(), "error", err)
		return &Failure{Verb: f.action.Verb, Kind: f.action.Ref.Kind, Reason: apierrors.ReasonForError(f.err), Message: f.err.Error()}
	}
	return nil // a panic, which is logged where it happened
}

// takenTries is how often something may exist already before that is a failure:
// what the view does not show yet is seen by then, so another object is in the way.
const takenTries = 3

// outrun: somebody else has changed what the plan looked at.
func outrun(err error) bool { return errors.Is(err, errStale) || apierrors.IsConflict(err) }

// quiet errors mean that the plan looked at an old state, or that the world
// it is for is going away; the next plan sees that.
func quiet(err error) bool {
	return outrun(err) || errors.Is(err, context.Canceled) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) ||
		apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// failed is an action's error; it unwraps to the server's.
type failed struct {
	action *plan.Action
	err    error
}

func (f *failed) Error() string {
	return fmt.Sprintf("cannot %s %s: %v", f.action.Verb, f.action.Ref, f.err)
}
func (f *failed) Unwrap() error { return f.err }

// suffixAlphabet is upstream's: no vowels and nothing that looks like one, so
// that no words come out.
const suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"

func (r *Runtime) suffix() string {
	r.randMu.Lock()
	defer r.randMu.Unlock()
	var b [5]byte
	for i := range b {
		b[i] = suffixAlphabet[r.rand.IntN(len(suffixAlphabet))]
	}
	return string(b[:])
}

// write is an action that was applied, with the server's answer.
type write struct {
	action *plan.Action
	answer runtime.Object // nil: the write was tolerated, or its answer is unknown
}

// holdsOf lists what v must show until the writes are read: one revision per
// kind, and the end of each deleted object.
func holdsOf(v *view.View, writes []write) []hold {
	var holds []hold
	revs := map[*kinds.Kind]int64{}
	for _, w := range writes {
		k := w.action.Ref.Kind
		if !v.Has(k) {
			continue
		}
		if w.action.Verb == plan.Delete {
			if w.action.UID != "" {
				holds = append(holds, hold{kind: k, gone: w.action.Ref, uid: string(w.action.UID)})
			}
			continue
		}
		if rev := revision(w.answer); rev > revs[k] {
			if revs[k] == 0 {
				holds = append(holds, hold{kind: k})
			}
			revs[k] = rev
		}
	}
	for i := range holds {
		if holds[i].uid == "" {
			holds[i].rev = revs[holds[i].kind]
		}
	}
	return holds
}

// revision of an answer; 0 for what has none, as the Status of a binding.
func revision(o runtime.Object) int64 {
	if o == nil {
		return 0
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return 0
	}
	rev, err := strconv.ParseInt(m.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return rev
}

// executor applies actions; it decides nothing.
type executor struct {
	log      *slog.Logger
	metrics  *metrics
	parallel int
}

// apply runs the actions in order until one fails, and returns those that
// succeeded.
func (e *executor) apply(ctx context.Context, ctl *controller, actions []plan.Action) ([]write, error) {
	var done []write
	for len(actions) > 0 {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		n := 1
		if actions[0].Parallel {
			for n < len(actions) && actions[n].Parallel {
				n++
			}
		}
		writes, err := e.spread(ctx, ctl, actions[:n])
		done = append(done, writes...)
		if err != nil {
			return done, err
		}
		actions = actions[n:]
	}
	return done, nil
}

// spread runs independent actions, at first one at a time and with each success
// one more at once: when admission or quota refuses them all, the server has
// seen one request, not all of them. A failure ends it.
func (e *executor) spread(ctx context.Context, ctl *controller, actions []plan.Action) ([]write, error) {
	type result struct {
		answer runtime.Object
		err    error
		tried  bool
	}
	results := make([]result, len(actions))
	e.grow(len(actions), func(i int) bool {
		answer, err := e.one(ctx, ctl, &actions[i])
		results[i] = result{answer, err, true}
		return err == nil
	})
	done := make([]write, 0, len(actions))
	var first error
	for i, r := range results {
		switch {
		case r.tried && r.err == nil:
			done = append(done, write{&actions[i], r.answer})
		case first == nil || quiet(first) && r.err != nil && !quiet(r.err):
			first = r.err
		}
	}
	return done, first
}

// grow calls do for the numbers below n, more and more at once while it
// succeeds, and returns when all that it began are done.
func (e *executor) grow(n int, do func(i int) bool) {
	if e.parallel <= 1 {
		for i := 0; i < n && do(i); i++ {
		}
		return
	}
	jobs, results := make(chan int), make(chan bool, e.parallel)
	defer close(jobs)
	next, running, workers, window := 0, 0, 0, 1
	for {
		for next < n && running < window {
			if workers == running {
				workers++
				go func() {
					for i := range jobs {
						results <- do(i)
					}
				}()
			}
			jobs <- next
			next, running = next+1, running+1
		}
		if running == 0 {
			return
		}
		running--
		if <-results {
			window = min(window+1, e.parallel)
		} else {
			n = next
		}
	}
}

// each calls do for every number below n, as many at once as is allowed, and
// returns when all are done.
func (e *executor) each(n int, do func(i int)) {
	workers := min(e.parallel, n)
	if workers <= 1 {
		for i := range n {
			do(i)
		}
		return
	}
	var wg sync.WaitGroup
	var next atomic.Int64
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	wg.Wait()
}

// one applies a single action.
func (e *executor) one(ctx context.Context, ctl *controller, a *plan.Action) (runtime.Object, error) {
	if !ctl.allows(a) {
		e.metrics.refused.WithLabelValues(ctl.Name).Inc()
		return nil, &failed{a, errUndeclared}
	}
	if err := e.live(ctx, ctl, a.Live); err != nil {
		return nil, &failed{a, err}
	}
	answer, err := e.send(ctx, ctl.client, a)
	if err != nil && slices.Contains(a.Tolerate, apierrors.ReasonForError(err)) {
		return nil, nil
	}
	if err != nil {
		if a.Failed != nil && !quiet(err) {
			ev := *a.Failed
			ev.Message += err.Error()
			ctl.events.Emit(ev)
		}
		return nil, &failed{a, err}
	}
	if a.Event != nil {
		ctl.events.Emit(*a.Event)
	}
	return answer, nil
}

// allows reports whether the controller declared the write.
func (ctl *controller) allows(a *plan.Action) bool {
	return slices.ContainsFunc(ctl.Writes, func(w Write) bool {
		return a.Ref.Kind.Is(w.Kind) && w.Sub == a.Ref.Sub && slices.Contains(w.Verbs, a.Verb)
	})
}

func (e *executor) send(ctx context.Context, c client.Client, a *plan.Action) (runtime.Object, error) {
	switch a.Verb {
	case plan.Create:
		return c.Create(ctx, createRef(a.Ref), a.Object)
	case plan.Update:
		return c.Update(ctx, a.Ref, a.Object)
	case plan.Patch:
		data, err := guard(a)
		if err != nil {
			return nil, err
		}
		return c.Patch(ctx, a.Ref, a.PatchType, data)
	case plan.Delete:
		return c.Delete(ctx, a.Ref, deleteOptions(a))
	case plan.DeleteAll:
		return nil, e.deleteSome(ctx, c, a)
	}
	return nil, fmt.Errorf("unknown verb %q", a.Verb)
}

// someObjects is how many objects a DeleteAll deletes in one pass.
const someObjects = 500

// deleteSome deletes the first objects of a kind in a namespace.
func (e *executor) deleteSome(ctx context.Context, c client.Client, a *plan.Action) error {
	list, err := c.List(ctx, a.Ref.Kind, a.Ref.Namespace, metav1.ListOptions{Limit: someObjects})
	if err != nil {
		return err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return err
	}
	errs := make([]error, len(items))
	e.each(len(items), func(i int) { errs[i] = deleteOne(ctx, c, *a, items[i]) })
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func deleteOne(ctx context.Context, c client.Client, a plan.Action, o runtime.Object) error {
	m, err := meta.Accessor(o)
	if err != nil || m.GetDeletionTimestamp() != nil {
		return err
	}
	a.UID = m.GetUID()
	_, err = c.Delete(ctx, kinds.RefTo(a.Ref.Kind, m), deleteOptions(&a))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // somebody was faster
	}
	return err
}

// createRef drops the name, which a create takes from the object.
func createRef(ref kinds.Ref) kinds.Ref {
	if ref.Sub == "" {
		ref.Name = ""
	}
	return ref
}

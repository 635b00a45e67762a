package remote

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Getter reads one object.
type Getter interface {
	Doer
	Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error)
}

// Objects follows single objects, each by a watch of its own as long as
// somebody wants it: a node may see only what its pods refer to.
type Objects struct {
	ctx    context.Context
	client Getter
	log    *slog.Logger
	wg     sync.WaitGroup

	mu      sync.Mutex
	next    int
	watched map[kinds.Ref]*watched
}

// watched is one object and those who want to hear of it.
type watched struct {
	stop    context.CancelFunc
	synced  bool
	object  kinds.Object // nil: it does not exist
	changed map[int]func()
}

// NewObjects follows objects until ctx ends.
func NewObjects(ctx context.Context, c Getter, log *slog.Logger) *Objects {
	return &Objects{ctx: ctx, client: c, log: log, watched: map[kinds.Ref]*watched{}}
}

// Wait blocks until all watches have ended, after ctx has.
func (o *Objects) Wait() { o.wg.Wait() }

// Get answers from the watch if there is one, else from the server.
func (o *Objects) Get(ctx context.Context, k *kinds.Kind, namespace, name string) (kinds.Object, error) {
	ref := kinds.Ref{Kind: k, Namespace: namespace, Name: name}
	o.mu.Lock()
	w := o.watched[ref]
	if w != nil && w.synced && w.object != nil {
		defer o.mu.Unlock()
		return w.object, nil
	}
	o.mu.Unlock()
	got, err := o.client.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	obj, ok := got.(kinds.Object)
	if !ok {
		return nil, fmt.Errorf("the server answered with a %T", got)
	}
	return obj, nil
}

// Watch calls changed whenever the object changes, until stop is called.
func (o *Objects) Watch(k *kinds.Kind, namespace, name string, changed func()) (stop func()) {
	ref := kinds.Ref{Kind: k, Namespace: namespace, Name: name}
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.watched[ref]
	if w == nil {
		ctx, cancel := context.WithCancel(o.ctx)
		w = &watched{stop: cancel, changed: map[int]func(){}}
		o.watched[ref] = w
		o.wg.Go(func() { o.follow(ctx, ref, w) })
	}
	o.next++
	id := o.next
	w.changed[id] = changed
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(w.changed, id)
		if len(w.changed) == 0 && o.watched[ref] == w {
			w.stop()
			delete(o.watched, ref)
		}
	}
}

func (o *Objects) follow(ctx context.Context, ref kinds.Ref, w *watched) {
	source := &watcher{client: o.client, log: o.log,
		source: Source{Kind: ref.Kind, Namespace: ref.Namespace, FieldSelector: "metadata.name=" + ref.Name},
		replace: func(list []kinds.Object, _ int64) {
			var obj kinds.Object
			if len(list) > 0 {
				obj = list[0]
			}
			o.set(w, obj)
		},
		apply:    func(c view.Change) { o.set(w, c.New) },
		progress: func(int64) {}}
	source.run(ctx)
}

// set stores the newest state and tells who wants to know.
func (o *Objects) set(w *watched, obj kinds.Object) {
	o.mu.Lock()
	first := !w.synced
	same := w.object != nil && obj != nil && w.object.GetResourceVersion() == obj.GetResourceVersion() || w.object == nil && obj == nil
	w.synced, w.object = true, obj
	var call []func()
	if !same || first && obj == nil {
		for _, fn := range w.changed {
			call = append(call, fn)
		}
	}
	o.mu.Unlock()
	for _, fn := range call {
		fn()
	}
}

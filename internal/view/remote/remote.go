// Package remote feeds a view.View from an apiserver on another machine: one
// watch per kind that begins with the present objects (WatchList), resumed
// where it broke off. Single objects, such as the secrets of a node's pods,
// are watched one by one (Objects).
package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"golang.org/x/sync/errgroup"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// The first wait after a broken watch, and the longest. Jitter spreads the
	// agents of a restarted server.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
	// A server ends a watch after this long, so that load spreads again.
	watchSeconds = 3600
	// maxFrame bounds one watch event: objects are below 3 MiB.
	maxFrame = 16 << 20

	watchType = "application/vnd.kubernetes.protobuf;stream=watch"
)

// Doer is the part of remote.Client that is needed.
type Doer interface {
	Do(ctx context.Context, method, path string, query url.Values, contentType, accept string, body []byte) (*http.Response, error)
}

// Source says what to watch.
type Source struct {
	Kind          *kinds.Kind
	Namespace     string
	FieldSelector string
}

// Config of a Feed.
type Config struct {
	Client  Doer
	View    *view.View
	Sources []Source // one per kind of the view
	Log     *slog.Logger
}

// Feed keeps the view current.
type Feed struct {
	cfg Config
}

// New checks that every kind of the view has a source.
func New(cfg Config) (*Feed, error) {
	have := map[*kinds.Kind]bool{}
	for _, s := range cfg.Sources {
		have[s.Kind] = true
	}
	for _, k := range cfg.View.Kinds() {
		if !have[k] {
			return nil, fmt.Errorf("no source feeds the view's %s", k)
		}
	}
	return &Feed{cfg: cfg}, nil
}

// Run watches until ctx ends; lost connections are taken up again.
func (f *Feed) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range f.cfg.Sources {
		g.Go(func() error {
			w := &watcher{client: f.cfg.Client, source: s, log: f.cfg.Log,
				replace:  func(objs []kinds.Object, rev int64) { f.cfg.View.Replace(s.Kind, objs, rev) },
				apply:    f.cfg.View.Apply,
				progress: func(rev int64) { f.cfg.View.Progress(s.Kind, rev) }}
			w.run(ctx)
			return nil
		})
	}
	return g.Wait()
}

// watcher follows one source.
type watcher struct {
	client   Doer
	source   Source
	log      *slog.Logger
	replace  func([]kinds.Object, int64)
	apply    func(view.Change)
	progress func(int64)

	rev int64 // what is known up to; 0: nothing yet
}

func (w *watcher) run(ctx context.Context) {
	wait, said := minBackoff, false
	for ctx.Err() == nil {
		began := time.Now()
		err := w.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > maxBackoff {
			wait, said = minBackoff, false
		}
		switch {
		case apierrors.IsResourceExpired(err) || apierrors.IsGone(err), apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge):
			w.rev = 0 // the server has forgotten where we were, or was restored: begin anew
		case errors.Is(err, io.EOF):
		case !said: // once: a server may be away for hours
			said = true
			w.log.Warn("watch broke off; it is tried until it lasts", "kind", w.source.Kind.String(), "error", err)
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxBackoff)
	}
}

// watch follows one connection to its end; io.EOF is the regular one.
func (w *watcher) watch(ctx context.Context) error {
	seconds, initial := int64(watchSeconds), true
	o := metav1.ListOptions{Watch: true, AllowWatchBookmarks: true, FieldSelector: w.source.FieldSelector, TimeoutSeconds: &seconds}
	if w.rev > 0 {
		o.ResourceVersion = strconv.FormatInt(w.rev, 10)
	} else {
		o.SendInitialEvents, o.ResourceVersionMatch = &initial, metav1.ResourceVersionMatchNotOlderThan
	}
	path := remote.Path(kinds.Ref{Kind: w.source.Kind, Namespace: w.source.Namespace})
	resp, err := w.client.Do(ctx, http.MethodGet, path, remote.ListQuery(o), "", watchType, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var list []kinds.Object // collected until the initial events end
	listing := w.rev == 0
	for {
		e, err := readEvent(resp.Body)
		if err != nil {
			return err
		}
		if e.Type == string(watch.Error) {
			return eventError(e)
		}
		obj, rev, err := decodeEvent(e)
		if err != nil {
			return fmt.Errorf("cannot decode a watch event of %s: %w", w.source.Kind, err)
		}
		switch {
		case e.Type == string(watch.Bookmark) && listing && obj.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true":
			w.replace(list, rev)
			list, listing = nil, false
			w.rev = rev
		case e.Type == string(watch.Bookmark) && !listing:
			w.progress(rev)
			w.rev = rev
		case listing && e.Type == string(watch.Added):
			list = append(list, obj)
		case !listing && e.Type == string(watch.Deleted):
			w.apply(view.Change{Kind: w.source.Kind, Old: obj, Rev: rev})
			w.rev = rev
		case !listing:
			w.apply(view.Change{Kind: w.source.Kind, New: obj, Rev: rev})
			w.rev = rev
		}
	}
}

// readEvent reads one length-delimited frame.
func readEvent(r io.Reader) (*metav1.WatchEvent, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("watch event of %d bytes", n)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	e := new(metav1.WatchEvent)
	return e, e.Unmarshal(frame)
}

func decodeEvent(e *metav1.WatchEvent) (kinds.Object, int64, error) {
	o, err := codec.Decode(codec.Protobuf, e.Object.Raw)
	if err != nil {
		return nil, 0, err
	}
	obj, ok := o.(kinds.Object)
	if !ok {
		return nil, 0, fmt.Errorf("%T is no object", o)
	}
	rev, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	return obj, rev, err
}

func eventError(e *metav1.WatchEvent) error {
	o, err := codec.Decode(codec.Protobuf, e.Object.Raw)
	if err != nil {
		return err
	}
	if s, ok := o.(*metav1.Status); ok {
		return &apierrors.StatusError{ErrStatus: *s}
	}
	return fmt.Errorf("watch error of type %T", o)
}

package apiserver

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/cache"
)

const (
	bookmarkEvery = time.Minute // as upstream
	// A watch without timeoutSeconds ends after half an hour to an hour, so
	// that connections spread over servers again.
	minWatch = 30 * time.Minute
	// maxWatch is the longest that a client may ask for: rights and certificates
	// are looked at when a watch begins.
	maxWatch = 24 * time.Hour
	// flushBytes is how much is gathered before it is sent although more is ready.
	flushBytes = 64 << 10
	// writeTimeout bounds how long a client may take to accept what is sent.
	writeTimeout = time.Minute
)

// watch streams events until the client or its time is gone.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, k *kinds.Kind, in *info, a accepted, o metav1.ListOptions) error {
	if a.format == codec.YAML {
		return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: %s;stream=watch, %s;stream=watch", typeJSON, typeProtobuf)
	}
	sel, err := checkSelection(k, in)
	if err != nil {
		return err
	}
	if err := checkListOptions(o); err != nil {
		return err
	}
	if r.ContentLength != 0 { // nobody's business, but not to end the watch later
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxBody))
		bodyUntil(w, time.Time{})
	}
	var tab *tabler
	if a.shape == asTable {
		if tab, err = s.newTabler(k, a, r.URL.Query().Get("includeObject")); err != nil {
			return err
		}
		tab.stream = true
	}
	began := s.now()
	ctx, cancel := context.WithTimeout(r.Context(), watchTime(o))
	defer cancel()
	if k.Life != nil { // a definition that has changed ends the watches of its kinds
		defer context.AfterFunc(k.Life, cancel)()
	}
	initial, from, err := s.watchStart(ctx, k, in.ns, o)
	if err != nil {
		return err
	}
	watcher, err := s.cfg.Cache.Watch(k, in.ns, from)
	gone := errors.Is(err, cache.ErrGone)
	if err != nil && !gone {
		return err
	}
	w.Header().Set("Content-Type", a.contentType(true))
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(http.StatusOK)
	// From here on the answer has begun: on an error the client sees the stream end.
	st := &stream{s: s, w: w, rc: http.NewResponseController(w), kind: k, namespace: in.ns, accepted: a, table: tab, sel: sel, told: s.metrics.watching(k)}
	if gone { // upstream answers with an event, too, and clients list again
		_ = st.fail(expired("too old resource version: %d (%d)", from, s.cfg.Cache.Rev()))
		return nil
	}
	err = st.begin(ctx, initial, o)
	in.ticket.Done() // from here on it only waits
	if err != nil {
		_ = st.fail(err)
		return nil
	}
	if o.SendInitialEvents != nil && initial != nil {
		s.metrics.watchLists.WithLabelValues(in.gvr.Group, in.gvr.Version, in.gvr.Resource, scopeOf(in)).Observe(s.now().Sub(began).Seconds())
	}
	st.follow(ctx, watcher, o.AllowWatchBookmarks)
	return nil
}

// watchTime is how long a watch may last. As upstream, 0 asks for nothing in
// particular, and less than that ends it at once.
func watchTime(o metav1.ListOptions) time.Duration {
	if o.TimeoutSeconds == nil || *o.TimeoutSeconds == 0 {
		return minWatch + rand.N(minWatch)
	}
	return time.Duration(max(min(*o.TimeoutSeconds, int64(maxWatch/time.Second)), 0)) * time.Second
}

// sendsInitial: without a version to go on from a watch begins with what is there.
func sendsInitial(o metav1.ListOptions) bool {
	if o.SendInitialEvents != nil {
		return *o.SendInitialEvents
	}
	return o.ResourceVersion == "" || o.ResourceVersion == "0"
}

// watchStart finds where a watch begins, and the objects that come before it.
func (s *Server) watchStart(ctx context.Context, k *kinds.Kind, ns string, o metav1.ListOptions) (*cache.List, int64, error) {
	send := sendsInitial(o)
	if o.ResourceVersion != "" && o.ResourceVersion != "0" {
		rev, err := parseRevision(o.ResourceVersion)
		if err != nil { // as upstream, which names the resource where a kind is meant
			return nil, 0, apierrors.NewInvalid(schema.GroupKind{Group: k.GVK.Group, Kind: k.Resource}, "", field.ErrorList{noRevision(o.ResourceVersion)})
		}
		if !send {
			return nil, rev, s.fresh(ctx, o.ResourceVersion, "")
		}
	}
	if err := s.fresh(ctx, o.ResourceVersion, o.ResourceVersionMatch); err != nil {
		return nil, 0, err
	}
	l := s.cfg.Cache.List(k, ns)
	if !send {
		return nil, l.Rev, nil
	}
	return &l, l.Rev, nil
}

// stream writes one watch.
type stream struct {
	s         *Server
	w         http.ResponseWriter
	rc        *http.ResponseController
	kind      *kinds.Kind
	namespace string
	accepted  accepted
	table     *tabler
	sel       selection
	told      watched
	buf       []byte
	begun     bool // the header is out
	broken    bool // the client is gone
}

// begin sends the present objects, and the bookmark that says that these were all.
func (st *stream) begin(ctx context.Context, initial *cache.List, o metav1.ListOptions) error {
	if initial != nil {
		for it, err := range st.sel.from(ctx, st.kind, st.namespace, initial.After, "") {
			if err == nil {
				err = st.add(ctx, cache.Added, nil, it)
			}
			if err != nil {
				return err
			}
		}
		if o.SendInitialEvents != nil && o.AllowWatchBookmarks {
			if err := st.bookmark(initial.Rev, true); err != nil {
				return err
			}
		}
	}
	return st.flush()
}

// follow sends what happens until the watch ends. A busy watch in which little
// matches gets its bookmarks as well, or its client would fall out of the window.
func (st *stream) follow(ctx context.Context, watcher *cache.Watcher, bookmarks bool) {
	marked := st.s.now()
	for {
		next, cancel := context.WithTimeout(ctx, bookmarkEvery)
		events, _, err := watcher.Next(next)
		cancel()
		switch {
		case ctx.Err() != nil:
			if bookmarks && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				// The client goes on from here without a gap.
				if st.bookmark(watcher.Progress(), false) == nil {
					_ = st.flush()
				}
			}
			return
		case err == nil:
			if err = st.events(ctx, events); err != nil {
				_ = st.fail(err)
			}
		case errors.Is(err, cache.ErrRemoved):
			return
		case errors.Is(err, context.DeadlineExceeded):
			err = nil
		default:
			_ = st.fail(expired("too old resource version"))
			return
		}
		if now := st.s.now(); err == nil && bookmarks && now.Sub(marked) >= bookmarkEvery {
			marked = now
			err = st.bookmark(watcher.Progress(), false)
		}
		if err == nil {
			err = st.flush()
		}
		if err != nil {
			return
		}
	}
}

// events turns a change of what matches into a creation or deletion.
func (st *stream) events(ctx context.Context, events []*cache.Event) error {
	every := st.sel.everything()
	for _, e := range events {
		now, before := every, every
		var err error
		if !every && e.Type != cache.Deleted {
			now, err = st.sel.matches(ctx, e.Item)
		}
		if !every && e.Prev != nil && err == nil {
			before, err = st.sel.matches(ctx, e.Prev)
		}
		switch {
		case err != nil:
		case every, e.Type == cache.Deleted && before, e.Type != cache.Deleted && now && before:
			err = st.add(ctx, e.Type, e, e.Item)
		case now:
			err = st.add(ctx, cache.Added, e, e.Item)
		case before:
			err = st.add(ctx, cache.Deleted, nil, e.Prev.At(e.Rev))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (st *stream) add(ctx context.Context, t cache.EventType, e *cache.Event, it *cache.Item) error {
	var err error
	before := len(st.buf)
	if st.buf, err = st.s.appendEvent(ctx, st.buf, st.accepted, st.table, t, e, it); err != nil {
		return err
	}
	st.told.events.Inc()
	st.told.sizes.Observe(float64(len(st.buf) - before))
	if len(st.buf) >= flushBytes {
		return st.flush()
	}
	return nil
}

// flush sends what has gathered. A client that does not take it in time is
// cut off: it holds a connection, and the events that the window forgets.
func (st *stream) flush() error {
	if len(st.buf) == 0 && st.begun || st.broken {
		return nil
	}
	// Not every test's writer has deadlines.
	_ = st.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := st.w.Write(st.buf); err != nil {
		st.broken = true
		return err
	}
	st.begun = true
	if cap(st.buf) > 4*flushBytes {
		st.buf = nil // an idle watch keeps no large buffer
	}
	st.buf = st.buf[:0]
	err := st.rc.Flush()
	_ = st.rc.SetWriteDeadline(time.Time{})
	return err
}

func (st *stream) bookmark(rev int64, initialEnd bool) error {
	var annotations map[string]string
	if initialEnd {
		annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	rv := strconv.FormatInt(rev, 10)
	var data []byte
	var err error
	switch st.accepted.shape {
	case asTable:
		t := &metav1.Table{TypeMeta: st.accepted.meta("Table"), ListMeta: metav1.ListMeta{ResourceVersion: rv}, Rows: []metav1.TableRow{}}
		if initialEnd {
			p := &metav1.PartialObjectMetadata{TypeMeta: st.accepted.meta("PartialObjectMetadata"),
				ObjectMeta: metav1.ObjectMeta{ResourceVersion: rv, Annotations: annotations}}
			raw, err := codec.Encode(codec.JSON, p)
			if err != nil {
				return err
			}
			row := metav1.TableRow{Cells: []any{}}
			row.Object.Raw = raw
			t.Rows = append(t.Rows, row)
		}
		data, err = codec.Encode(st.accepted.format, t)
	case asPartial:
		data, err = codec.Encode(st.accepted.format, &metav1.PartialObjectMetadata{
			TypeMeta:   st.accepted.meta("PartialObjectMetadata"),
			ObjectMeta: metav1.ObjectMeta{ResourceVersion: rv, Annotations: annotations}})
	default:
		obj := st.kind.New()
		obj.SetResourceVersion(rv)
		obj.SetAnnotations(annotations)
		data, err = codec.Encode(st.accepted.format, obj)
	}
	st.buf = appendFrame(st.buf, st.accepted.format, cache.Bookmark, data)
	return err
}

func (st *stream) fail(cause error) error {
	data, err := codec.Encode(st.accepted.format, statusOf(cause))
	if err != nil {
		return err
	}
	st.buf = appendFrame(st.buf, st.accepted.format, "ERROR", data)
	return st.flush()
}

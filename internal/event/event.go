// Package event turns what components tell into core/v1 Events: similar ones
// are counted on one object, a source that talks too much about one object is
// cut off, memory is bounded, and the caller never waits.
package event

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/plan"
)

var errNoClient = errors.New("event: a client is needed")

const (
	// similarLimit distinct messages about one object with one reason are
	// written as such; further ones within similarWindow share one Event, as
	// users of upstream know it ("combined from similar events").
	similarLimit  = 10
	similarWindow = 10 * time.Minute
	// A source may tell this much about one object at once, and then one more
	// every refill: upstream's figures.
	burst  = 25
	refill = 5 * time.Minute
	// tries of one write, with a second between them, before it is given up:
	// events are best effort.
	tries = 3
	// flushLimit bounds the writes after shutdown began.
	flushLimit = 2 * time.Second
	// maxMessage is what the API accepts, in bytes.
	maxMessage = 1024
	// maxBase leaves room for a dot and 16 hex digits in a name of 253 bytes.
	maxBase = 253 - 17
)

// Config of a recorder.
type Config struct {
	Client    client.Client
	Component string // the default source, as in "kubelet"
	Host      string // the node that it runs on; may be empty
	Log       *slog.Logger
	Now       func() time.Time // optional: time.Now
	// Remembered bounds the Events and the sources that are kept in memory to
	// be counted on. 0: 4096, upstream's figure.
	Remembered int
	// Queued bounds the Events that wait to be written; what comes on top is
	// dropped and counted. 0: 1000, upstream's figure.
	Queued int
}

// Recorder writes events. Emit may be called from anywhere, before Run too.
type Recorder struct {
	client    client.Client
	component string
	host      string
	log       *slog.Logger
	now       func() time.Time
	queued    int
	wakeup    chan struct{} // capacity 1

	mu       sync.Mutex
	records  *lru[recordKey, *record]
	groups   *lru[groupKey, *group]
	sources  *lru[sourceKey, *bucket]
	queue    []*record
	dropped  int
	lastName int64
}

// sourceKey is what the rate is bound by.
type sourceKey struct {
	component string
	kind      string
	namespace string
	name      string
	uid       string
}

// groupKey is what makes events similar.
type groupKey struct {
	sourceKey
	field, kind, reason string
}

// recordKey is what makes events the same.
type recordKey struct {
	groupKey
	message string
}

type bucket struct {
	tokens float64
	at     time.Time
}

type group struct {
	messages map[string]bool
	at       time.Time
}

// record is one Event object and what happened since it was written.
type record struct {
	event       corev1.Event
	stored      bool
	queued      bool
	writeFailed int
}

// New makes a recorder; it starts nothing.
func New(c Config) (*Recorder, error) {
	if c.Client == nil {
		return nil, errNoClient
	}
	r := &Recorder{client: c.Client, component: c.Component, host: c.Host, log: c.Log, now: c.Now, queued: c.Queued, wakeup: make(chan struct{}, 1)}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.queued == 0 {
		r.queued = 1000
	}
	n := c.Remembered
	if n == 0 {
		n = 4096
	}
	r.records, r.groups, r.sources = newLRU[recordKey, *record](n), newLRU[groupKey, *group](n), newLRU[sourceKey, *bucket](n)
	return r, nil
}

// Source is the recorder under another component's name.
type Source struct {
	recorder  *Recorder
	component string
}

// As returns a source that shares the recorder's queue and bounds.
func (r *Recorder) As(component string) Source { return Source{r, component} }

// Emit records e; it never blocks.
func (s Source) Emit(e plan.Event) { s.recorder.emit(s.component, e) }

// Emit records e under the recorder's own component; it never blocks.
func (r *Recorder) Emit(e plan.Event) { r.emit(r.component, e) }

func (r *Recorder) emit(component string, e plan.Event) {
	if e.Regarding.Kind == nil {
		r.log.Error("event about nothing", "component", component, "reason", e.Reason)
		return
	}
	e.Message = bounded(e.Message)
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	src := sourceKey{component, e.Regarding.Kind.String(), e.Regarding.Namespace, e.Regarding.Name, string(e.UID)}
	if !r.admit(src, now) {
		r.dropped++
		return
	}
	g := groupKey{src, e.FieldPath, e.Type, e.Reason}
	key, message := recordKey{g, e.Message}, e.Message
	if r.combine(g, e.Message, now) {
		key, message = recordKey{groupKey: g}, bounded("(combined from similar events): "+e.Message)
	}
	rec, ok := r.records.get(key)
	if !ok {
		if len(r.queue) >= r.queued {
			r.dropped++
			return
		}
		rec = &record{event: r.fresh(component, e, now)}
		r.records.put(key, rec)
	}
	rec.event.Count++
	rec.event.LastTimestamp = metav1.NewTime(now)
	rec.event.Message = message
	r.enqueue(rec)
}

func (r *Recorder) enqueue(rec *record) {
	if rec.queued {
		return
	}
	if len(r.queue) >= r.queued {
		r.dropped++ // the count is kept and written with the next one
		return
	}
	rec.queued = true
	r.queue = append(r.queue, rec)
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// admit takes a token of the source's bucket for this object.
func (r *Recorder) admit(src sourceKey, now time.Time) bool {
	b, ok := r.sources.get(src)
	if !ok {
		b = &bucket{tokens: burst, at: now}
		r.sources.put(src, b)
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(burst, b.tokens+float64(passed)/float64(refill))
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// combine reports whether the message goes into the group's shared Event.
func (r *Recorder) combine(g groupKey, message string, now time.Time) bool {
	grp, ok := r.groups.get(g)
	if !ok || now.Sub(grp.at) > similarWindow {
		grp = &group{messages: map[string]bool{}}
		r.groups.put(g, grp)
	}
	grp.at = now
	if grp.messages[message] {
		return false
	}
	if len(grp.messages) >= similarLimit {
		return true
	}
	grp.messages[message] = true
	return false
}

// fresh makes the Event object; its name is the regarded object's and a time,
// as upstream's, made unique here.
func (r *Recorder) fresh(component string, e plan.Event, now time.Time) corev1.Event {
	k := e.Regarding.Kind
	namespace := e.Regarding.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where events about cluster-scoped objects live
	}
	return corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: r.name(e.Regarding.Name, now)},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: k.GVK.GroupVersion().String(), Kind: k.GVK.Kind, FieldPath: e.FieldPath,
			Namespace: e.Regarding.Namespace, Name: e.Regarding.Name, UID: e.UID,
		},
		Type: e.Type, Reason: e.Reason,
		Source:              corev1.EventSource{Component: component, Host: r.host},
		ReportingController: component, ReportingInstance: r.host,
		FirstTimestamp: metav1.NewTime(now),
	}
}

// name of an Event that tells of the object of that name. Other recorders may
// make the same one.
func (r *Recorder) name(of string, now time.Time) string {
	r.lastName = max(now.UnixNano(), r.lastName+1)
	base := of[:min(len(of), maxBase)]
	return strings.TrimRight(base, ".-") + "." + strconv.FormatInt(r.lastName, 16)
}

func bounded(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	const more = " ..."
	cut := maxMessage - len(more)
	for cut > 0 && s[cut]&0xC0 == 0x80 { // not within a UTF-8 sequence
		cut--
	}
	return s[:cut] + more
}

// Run writes what is emitted until ctx ends, and then what is still queued,
// for at most two seconds.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
			defer cancel()
			r.Flush(last)
			r.mu.Lock()
			defer r.mu.Unlock()
			if n := len(r.queue); n > 0 {
				r.log.Debug("events dropped at shutdown", "count", n)
			}
			return nil
		case <-r.wakeup:
		}
		if r.Flush(ctx) {
			continue
		}
		select { // the server refused or was away: not at once again
		case <-ctx.Done():
		case <-time.After(time.Second):
			r.kick()
		}
	}
}

func (r *Recorder) kick() {
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// Flush writes what is queued now; false if something has to be tried again.
// What ctx leaves no time for stays queued.
func (r *Recorder) Flush(ctx context.Context) bool {
	r.mu.Lock()
	queue, dropped := r.queue, r.dropped
	r.queue, r.dropped = nil, 0
	r.mu.Unlock()
	if dropped > 0 {
		r.log.Debug("events dropped", "count", dropped)
	}
	done := true
	for i, rec := range queue {
		if ctx.Err() != nil {
			r.mu.Lock()
			r.queue = append(queue[i:], r.queue...)
			r.mu.Unlock()
			return false
		}
		done = r.write(ctx, rec) && done
	}
	return done
}

// write brings one record to the server.
func (r *Recorder) write(ctx context.Context, rec *record) bool {
	r.mu.Lock()
	rec.queued = false
	ev, stored, tried := rec.event, rec.stored, rec.writeFailed > 0
	r.mu.Unlock()
	err := r.send(ctx, &ev, stored, tried)
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.event.Name = ev.Name
	switch {
	case err == nil:
		rec.stored, rec.writeFailed = true, 0
		return true
	case final(err):
		r.log.Debug("event refused", "reason", ev.Reason, "error", err)
		rec.stored, rec.writeFailed = false, 0
		return true
	}
	rec.writeFailed++
	if rec.writeFailed >= tries {
		r.log.Warn("event given up", "reason", ev.Reason, "error", err)
		rec.writeFailed = 0
		return true
	}
	r.enqueue(rec)
	return false
}

// final errors will not go away by themselves: bad events, and namespaces that
// are ending.
func final(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// lru forgets what was used least recently.
type lru[K comparable, V any] struct {
	max   int
	order *list.List // of entries, newest first
	byKey map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](n int) *lru[K, V] {
	return &lru[K, V]{max: n, order: list.New(), byKey: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(k K) (V, bool) {
	if e := l.byKey[k]; e != nil {
		l.order.MoveToFront(e)
		return e.Value.(*entry[K, V]).value, true
	}
	var none V
	return none, false
}

func (l *lru[K, V]) put(k K, v V) {
	if e := l.byKey[k]; e != nil {
		e.Value.(*entry[K, V]).value = v
		l.order.MoveToFront(e)
		return
	}
	l.byKey[k] = l.order.PushFront(&entry[K, V]{k, v})
	if l.order.Len() > l.max {
		last := l.order.Back()
		l.order.Remove(last)
		delete(l.byKey, last.Value.(*entry[K, V]).key)
	}
}

func (l *lru[K, V]) len() int { return l.order.Len() }

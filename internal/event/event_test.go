package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func recorder(t *testing.T) (*Recorder, *reconciletest.World) {
	t.Helper()
	w := reconciletest.New([]*kinds.Kind{kinds.Event})
	r, err := New(Config{Client: w, Component: "replicaset-controller", Host: "node-1", Now: func() time.Time { return w.Now }})
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

func about(name, reason, message string) plan.Event {
	return plan.Event{Regarding: kinds.Ref{Kind: kinds.ReplicaSet, Namespace: "default", Name: name}, UID: "u-1",
		Type: corev1.EventTypeNormal, Reason: reason, Message: message}
}

func events(w *reconciletest.World) []*corev1.Event {
	var out []*corev1.Event
	for _, o := range w.Objects(kinds.Event) {
		out = append(out, o.(*corev1.Event))
	}
	return out
}

func TestEventFields(t *testing.T) {
	r, w := recorder(t)
	e := about("web", "SuccessfulCreate", "Created pod: web-1")
	e.FieldPath = "spec.containers{web}"
	r.Emit(e)
	r.As("scheduler").Emit(plan.Event{Regarding: kinds.Ref{Kind: kinds.Node, Name: "n"}, Type: corev1.EventTypeWarning, Reason: "Odd", Message: "m"})
	r.Flush(context.Background())
	all := events(w)
	if len(all) != 2 {
		t.Fatalf("%d events, want 2", len(all))
	}
	for _, ev := range all {
		switch ev.InvolvedObject.Kind {
		case "ReplicaSet":
			o := ev.InvolvedObject
			if o.APIVersion != "apps/v1" || o.Name != "web" || o.Namespace != "default" || o.UID != "u-1" || o.FieldPath != "spec.containers{web}" {
				t.Errorf("involved object %+v", o)
			}
			if ev.Source.Component != "replicaset-controller" || ev.Source.Host != "node-1" || ev.ReportingController != "replicaset-controller" {
				t.Errorf("source %+v", ev.Source)
			}
			if ev.Count != 1 || !ev.FirstTimestamp.Time.Equal(w.Now) || !ev.LastTimestamp.Time.Equal(w.Now) || !strings.HasPrefix(ev.Name, "web.") {
				t.Errorf("event %+v", ev)
			}
		case "Node":
			if ev.Namespace != "default" || ev.InvolvedObject.Namespace != "" || ev.Source.Component != "scheduler" || ev.Type != "Warning" {
				t.Errorf("event %+v", ev)
			}
		}
	}
}

func TestSameEventIsCounted(t *testing.T) {
	r, w := recorder(t)
	for range 3 {
		r.Emit(about("web", "BackOff", "waiting"))
		r.Flush(context.Background())
		w.Now = w.Now.Add(time.Minute)
	}
	all := events(w)
	if len(all) != 1 || all[0].Count != 3 {
		t.Fatalf("events %+v, want one that was counted to 3", all)
	}
	if d := all[0].LastTimestamp.Sub(all[0].FirstTimestamp.Time); d != 2*time.Minute {
		t.Errorf("last is %v after first, want 2m", d)
	}
	// Waiting in the queue costs one write, however often it happens.
	before := len(w.Writes)
	for range 5 {
		r.Emit(about("web", "BackOff", "waiting"))
	}
	r.Flush(context.Background())
	if n := len(w.Writes) - before; n != 1 || events(w)[0].Count != 8 {
		t.Errorf("%d writes, count %d, want 1 and 8", n, events(w)[0].Count)
	}
	// The server forgets events; the next one starts over where it was.
	w.Remove(kinds.Event, all[0].Namespace, all[0].Name)
	r.Emit(about("web", "BackOff", "waiting"))
	r.Flush(context.Background())
	if all = events(w); len(all) != 1 || all[0].Count != 9 {
		t.Errorf("after expiry: %+v", all)
	}
}

func TestSimilarEventsAreCombined(t *testing.T) {
	r, w := recorder(t)
	for i := range 20 {
		r.Emit(about("web", "SuccessfulCreate", fmt.Sprintf("Created pod: web-%d", i)))
		r.Flush(context.Background())
	}
	all := events(w)
	if len(all) != similarLimit+1 {
		t.Fatalf("%d events, want %d", len(all), similarLimit+1)
	}
	combined := 0
	for _, ev := range all {
		if strings.HasPrefix(ev.Message, "(combined from similar events): Created pod: web-19") && ev.Count == 10 {
			combined++
		}
	}
	if combined != 1 {
		t.Errorf("no combined event with the last message and count 10: %+v", all)
	}
}

func TestRatePerObject(t *testing.T) {
	r, w := recorder(t)
	for range 100 {
		r.Emit(about("noisy", "BackOff", "waiting"))
	}
	r.Emit(about("quiet", "BackOff", "waiting"))
	r.Flush(context.Background())
	count := map[string]int32{}
	for _, ev := range events(w) {
		count[ev.InvolvedObject.Name] = ev.Count
	}
	if count["noisy"] != burst || count["quiet"] != 1 {
		t.Errorf("counts %v, want %d of the noisy one", count, burst)
	}
	w.Now = w.Now.Add(refill + time.Second)
	r.Emit(about("noisy", "BackOff", "waiting"))
	r.Emit(about("noisy", "BackOff", "waiting"))
	r.Flush(context.Background())
	for _, ev := range events(w) {
		if ev.InvolvedObject.Name == "noisy" && ev.Count != burst+1 {
			t.Errorf("count %d after one refill, want %d", ev.Count, burst+1)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Event})
	r, err := New(Config{Client: w, Component: "c", Remembered: 10, Queued: 5})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		r.Emit(about(fmt.Sprint("web-", i), "R", "m"))
	}
	if len(r.queue) != 5 || r.records.len() > 10 || r.groups.len() > 10 || r.sources.len() > 10 {
		t.Errorf("queue %d, records %d, groups %d, sources %d", len(r.queue), r.records.len(), r.groups.len(), r.sources.len())
	}
	r.Flush(context.Background())
	if n := len(events(w)); n != 5 {
		t.Errorf("%d events written, want the 5 that fitted", n)
	}
	r.Emit(about("later", "R", "m"))
	r.Flush(context.Background())
	if n := len(events(w)); n != 6 {
		t.Errorf("%d events, want one more once there is room", n)
	}
}

func TestLongMessagesAreCut(t *testing.T) {
	r, w := recorder(t)
	r.Emit(about("web", "R", strings.Repeat("é", 2000)))
	r.Flush(context.Background())
	m := events(w)[0].Message
	if len(m) > maxMessage || !utf8.ValidString(m) || !strings.HasSuffix(m, " ...") {
		t.Errorf("message of %d bytes, valid %v", len(m), utf8.ValidString(m))
	}
}

func TestRunRetriesAndFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := recorder(t)
		fail := 2
		w.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
			if fail--; fail >= 0 {
				return apierrors.NewInternalError(errors.New("away"))
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		r.Emit(about("web", "R", "first"))
		<-time.After(time.Minute)
		synctest.Wait()
		if n := len(events(w)); n != 1 {
			t.Fatalf("%d events after retries, want 1", n)
		}
		r.Emit(about("web", "R", "last words"))
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := len(events(w)); n != 2 {
			t.Errorf("%d events after shutdown, want the queued one too", n)
		}
	})
}

func TestRefusedEventsAreNotRetried(t *testing.T) {
	r, w := recorder(t)
	w.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
		return apierrors.NewForbidden(kinds.Event.GroupResource(), "", errors.New("namespace is being terminated"))
	}
	r.Emit(about("web", "R", "m"))
	if !r.Flush(context.Background()) || len(r.queue) != 0 {
		t.Error("a refused event is queued again")
	}
}

// Two recorders tell of one object in the same nanosecond, as the controllers'
// and the scheduler's do: both are heard.
func TestSameMomentElsewhere(t *testing.T) {
	r, w := recorder(t)
	other, err := New(Config{Client: w, Component: "default-scheduler", Now: func() time.Time { return w.Now }})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, r := range []*Recorder{r, other} {
			r.Emit(about("web", "R", "m"))
			if !r.Flush(context.Background()) {
				t.Error("an event has to be tried again")
			}
		}
	}
	all := events(w)
	if len(all) != 2 || all[0].Source.Component == all[1].Source.Component || all[0].Count != 2 || all[1].Count != 2 {
		t.Errorf("%+v, want one event of each, counted twice", all)
	}
}

// The server has created the event, but its answer was lost: it is counted, not
// told twice.
func TestLostAnswer(t *testing.T) {
	r, w := recorder(t)
	lossy := &lossy{World: w}
	r.client = lossy
	r.Emit(about("web", "R", "m"))
	if r.Flush(context.Background()) {
		t.Error("the lost answer is taken for one")
	}
	r.Emit(about("web", "R", "m"))
	r.Flush(context.Background())
	if all := events(w); len(all) != 1 || all[0].Count != 2 {
		t.Errorf("%+v, want one event, counted twice", all)
	}
}

// lossy loses the answer of the first creation.
type lossy struct {
	*reconciletest.World
	lost bool
}

func (l *lossy) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	o, err := l.World.Create(ctx, ref, obj)
	if !l.lost {
		l.lost = true
		return nil, apierrors.NewInternalError(errors.New("away"))
	}
	return o, err
}

package why

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// Want is something to be read: one object, or a list.
type Want struct {
	Kind *kinds.Kind
	// Namespace; of a list empty: all.
	Namespace string
	Name      string    // empty: a list
	Labels    string    // a selector; empty: all
	About     types.UID // of Events: those about this object
}

// Answer to a Want.
type Answer struct {
	Objects []kinds.Object // none, of a named object: it does not exist
	Refused bool           // whoever asks may not read it
	More    bool           // the list is longer than what is given here
}

// Facts are what is known. The zero value is ready to use.
type Facts struct {
	Now     time.Time
	answers map[Want]Answer
}

// Know adds an answer.
func (f *Facts) Know(w Want, a Answer) {
	if f.answers == nil {
		f.answers = map[Want]Answer{}
	}
	f.answers[w] = a
}

func (l *look) ask(w Want) (a Answer, known bool) {
	a, known = l.facts.answers[w]
	switch {
	case !known && !slices.Contains(l.wants, w):
		l.wants = append(l.wants, w)
	case a.Refused:
		l.refused = append(l.refused, w)
	}
	return a, known
}

// get is one object, or nil; gone: it is known not to exist.
func get[T kinds.Object](l *look, k *kinds.Kind, namespace, name string) (o T, gone bool) {
	if !k.Namespaced {
		namespace = ""
	}
	a, known := l.ask(Want{Kind: k, Namespace: namespace, Name: name})
	if len(a.Objects) > 0 {
		o, _ = a.Objects[0].(T)
		return o, false
	}
	return o, known && !a.Refused
}

// list is what is known of a list; complete: that is all of it.
func list[T kinds.Object](l *look, w Want) (out []T, complete bool) {
	a, known := l.ask(w)
	for _, o := range a.Objects {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out, known && !a.Refused && !a.More
}

// events about an object, the newest first.
func (l *look) events(o metav1.Object) []*corev1.Event {
	namespace := o.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where events about cluster-scoped objects live
	}
	all, _ := list[*corev1.Event](l, Want{Kind: kinds.Event, Namespace: namespace, About: o.GetUID()})
	slices.SortStableFunc(all, func(a, b *corev1.Event) int {
		ta, tb := when(a), when(b)
		return cmp.Or(tb.Compare(ta.Time), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// told is the newest event about an object with one of these reasons, or nil.
func (l *look) told(o metav1.Object, reasons ...string) *corev1.Event {
	for _, e := range l.events(o) {
		if slices.Contains(reasons, e.Reason) {
			return e
		}
	}
	return nil
}

// when an event was seen last.
func when(e *corev1.Event) metav1.Time {
	switch {
	case e.Series != nil && !e.Series.LastObservedTime.IsZero():
		return metav1.NewTime(e.Series.LastObservedTime.Time)
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp
	case !e.EventTime.IsZero():
		return metav1.NewTime(e.EventTime.Time)
	}
	return e.CreationTimestamp
}

// began is when an event was seen first.
func began(e *corev1.Event) metav1.Time {
	if !e.FirstTimestamp.IsZero() {
		return e.FirstTimestamp
	}
	return when(e)
}

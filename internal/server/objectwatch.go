package server

import (
	"sync"

	"knarr.dev/knarr/internal/kinds"
)

// objectWatch tells those who use an object that it has changed.
type objectWatch struct {
	mu       sync.Mutex
	next     int
	watchers map[objectName]map[int]func()
}

type objectName struct {
	kind            *kinds.Kind
	namespace, name string
}

func newObjectWatch() *objectWatch { return &objectWatch{watchers: map[objectName]map[int]func(){}} }

func (w *objectWatch) add(k *kinds.Kind, namespace, name string, changed func()) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := objectName{k, namespace, name}
	if w.watchers[key] == nil {
		w.watchers[key] = map[int]func(){}
	}
	w.next++
	id := w.next
	w.watchers[key][id] = changed
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.watchers[key], id)
		if len(w.watchers[key]) == 0 {
			delete(w.watchers, key)
		}
	}
}

// changed calls everyone who watches the object; the functions must be quick.
func (w *objectWatch) changed(k *kinds.Kind, namespace, name string) {
	w.mu.Lock()
	var call []func()
	for _, fn := range w.watchers[objectName{k, namespace, name}] {
		call = append(call, fn)
	}
	w.mu.Unlock()
	for _, fn := range call {
		fn()
	}
}

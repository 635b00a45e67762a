package main

import (
	"math/rand/v2"
	"slices"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// link brings changes from the server to one process's view, each kind at its
// own pace: within a kind in order, between kinds not.
type link struct {
	world *world
	view  *view.View
	kinds []*kinds.Kind
	next  map[*kinds.Kind]int // position in the world's log
	want  int64               // a revision that somebody waits for
	apart *kinds.Kind         // once listed, it takes no turns from others
	// change alters what is delivered; a plant.
	change func(kinds.Object) kinds.Object
}

func newLink(w *world, v *view.View, ks []*kinds.Kind, change func(kinds.Object) kinds.Object) *link {
	return &link{world: w, view: v, kinds: ks, next: map[*kinds.Kind]int{}, change: change}
}

// synced: every kind has had its first list.
func (l *link) synced() bool { return len(l.next) == len(l.kinds) }

// pending kinds, those without a first list included.
func (l *link) pending() []*kinds.Kind {
	var out []*kinds.Kind
	for _, k := range l.kinds {
		if at, ok := l.next[k]; !ok || at < len(l.world.changes[k]) || l.view.Rev(k) < l.want {
			out = append(out, k)
		}
	}
	return out
}

// deliverSome brings a random part of what waits of one kind.
func (l *link) deliverSome(rng *rand.Rand) bool {
	ks := slices.DeleteFunc(l.pending(), func(k *kinds.Kind) bool {
		_, listed := l.next[k]
		return listed && k == l.apart
	})
	if len(ks) == 0 {
		return false
	}
	k := ks[rng.IntN(len(ks))]
	if n := len(l.world.changes[k]) - l.next[k]; n > 0 {
		l.deliver(k, 1+rng.IntN(n))
	} else {
		l.deliver(k, 0)
	}
	return true
}

// catchUp brings everything of one kind.
func (l *link) catchUp(k *kinds.Kind) { l.deliver(k, len(l.world.changes[k])-l.next[k]) }

// deliverAll brings everything; it reports whether there was something.
func (l *link) deliverAll() bool {
	ks := l.pending()
	for _, k := range ks {
		l.catchUp(k)
	}
	if len(ks) > 0 {
		l.view.ProgressAll(l.world.pumped)
	}
	return len(ks) > 0
}

func (l *link) deliver(k *kinds.Kind, n int) {
	log := l.world.changes[k]
	if _, listed := l.next[k]; !listed {
		l.list(k)
		return
	}
	for _, c := range log[l.next[k] : l.next[k]+n] {
		if l.change != nil && c.New != nil {
			c.New = l.change(c.New)
		}
		l.view.Apply(c)
	}
	l.next[k] += n
	if l.next[k] == len(log) {
		l.view.Progress(k, l.world.pumped)
	}
}

// list is the first, complete answer of the server for a kind.
func (l *link) list(k *kinds.Kind) {
	objects := slices.Collect(view.List[kinds.Object](l.world.tap.Snapshot(), k, ""))
	if l.change != nil {
		for i := range objects {
			objects[i] = l.change(objects[i])
		}
	}
	l.view.Replace(k, objects, l.world.pumped)
	l.next[k] = len(l.world.changes[k])
}

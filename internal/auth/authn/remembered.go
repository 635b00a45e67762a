package authn

import (
	"crypto/sha256"
	"sync"
)

// maxRemembered bounds what is remembered of credentials; when it is full,
// everything is forgotten and verified anew.
const maxRemembered = 4096

// remembered maps the hash of a credential whose signature held to what it
// says. Everything that may change with time is still checked by the reader.
type remembered[V any] struct {
	mu     sync.RWMutex
	values map[[sha256.Size]byte]V
}

func newRemembered[V any]() *remembered[V] {
	return &remembered[V]{values: map[[sha256.Size]byte]V{}}
}

func (r *remembered[V]) get(key [sha256.Size]byte) (V, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, ok := r.values[key]
	return v, ok
}

func (r *remembered[V]) put(key [sha256.Size]byte, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.values) >= maxRemembered {
		clear(r.values)
	}
	r.values[key] = v
}

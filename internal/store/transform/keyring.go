package transform

import (
	"context"
	"slices"
	"sync/atomic"

	"knarr.dev/knarr/internal/store"
)

// Keyring is an AESGCM whose keys can be exchanged while it is used.
type Keyring struct{ now atomic.Pointer[ring] }

type ring struct {
	*AESGCM
	keys []Key
}

var _ store.Transformer = (*Keyring)(nil)

// NewKeyring begins with these keys.
func NewKeyring(keys []Key) (*Keyring, error) {
	k := &Keyring{}
	return k, k.set(keys)
}

// set exchanges the keys, or changes nothing.
func (k *Keyring) set(keys []Key) error {
	g, err := NewAESGCM(keys)
	if err != nil {
		return err
	}
	k.now.Store(&ring{g, slices.Clone(keys)})
	return nil
}

// has says whether these are its keys, in this order.
func (k *Keyring) has(keys []Key) bool {
	return slices.EqualFunc(k.now.Load().keys, keys, func(a, b Key) bool { return a.Name == b.Name && string(a.Secret) == string(b.Secret) })
}

func (k *Keyring) wrote(value []byte) bool { return k.now.Load().wrote(value) }

// ToStore implements store.Transformer.
func (k *Keyring) ToStore(ctx context.Context, key string, value []byte) ([]byte, error) {
	return k.now.Load().ToStore(ctx, key, value)
}

// FromStore implements store.Transformer.
func (k *Keyring) FromStore(ctx context.Context, key string, value []byte) (_ []byte, stale bool, _ error) {
	return k.now.Load().FromStore(ctx, key, value)
}

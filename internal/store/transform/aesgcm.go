package transform

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
)

const (
	// Every encrypted value says so, as upstream's do, then what it was
	// encrypted with. No codec's output begins like this.
	anyPrefix = "k8s:enc:"
	gcmPrefix = "k8s:enc:aesgcm:v1:"

	keySize = 32 // AES-256
)

var (
	errTooShort   = errors.New("the stored value is too short to be encrypted")
	errOtherKind  = errors.New("the stored value is encrypted in a way that is not configured")
	errOtherKey   = errors.New("the stored value is encrypted with a key that is not in the key file")
	errTampered   = errors.New("the stored value was changed, moved from another key, or the encryption key is another one of the same name")
	errInvalidKey = errors.New("transform: a key needs a name without a colon and 16, 24 or 32 bytes")
)

// Key is a named AES key.
type Key struct {
	Name   string
	Secret []byte
}

// AESGCM is a store.Transformer in the layout of upstream's aesgcm provider:
// prefix, key name, nonce, sealed value, with the store's key authenticated,
// so that a value does not open under another name. Nonces are random, 96 bits:
// one key is good for 2^32 writes, a thousand a second for seven weeks.
type AESGCM struct {
	first sealer // writes
	all   map[string]sealer
}

type sealer struct {
	prefix string
	aead   cipher.AEAD
}

// NewAESGCM writes with the first key and reads with all, and reads what is
// not encrypted.
func NewAESGCM(keys []Key) (*AESGCM, error) {
	t := &AESGCM{all: map[string]sealer{}}
	for i, k := range keys {
		block, err := aes.NewCipher(k.Secret)
		if err != nil || k.Name == "" || strings.Contains(k.Name, ":") {
			return nil, errInvalidKey
		}
		if _, twice := t.all[k.Name]; twice {
			return nil, fmt.Errorf("transform: two keys of the name %s", k.Name)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		t.all[k.Name] = sealer{prefix: gcmPrefix + k.Name + ":", aead: aead}
		if i == 0 {
			t.first = t.all[k.Name]
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("transform: no key")
	}
	return t, nil
}

// ToStore implements store.Transformer.
func (t *AESGCM) ToStore(_ context.Context, key string, value []byte) ([]byte, error) {
	prefix, aead := t.first.prefix, t.first.aead
	out := make([]byte, len(prefix)+aead.NonceSize(), len(prefix)+aead.NonceSize()+len(value)+aead.Overhead())
	copy(out, prefix)
	nonce := out[len(prefix):]
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return aead.Seal(out, nonce, value, []byte(key)), nil
}

// wrote says whether the value was encrypted by a key of that name.
func (t *AESGCM) wrote(value []byte) bool {
	rest, encrypted := bytes.CutPrefix(value, []byte(gcmPrefix))
	name, _, _ := bytes.Cut(rest, []byte(":"))
	_, ok := t.all[string(name)]
	return encrypted && ok
}

// FromStore implements store.Transformer.
func (t *AESGCM) FromStore(_ context.Context, key string, value []byte) (_ []byte, stale bool, _ error) {
	rest, encrypted := bytes.CutPrefix(value, []byte(gcmPrefix))
	if !encrypted {
		if bytes.HasPrefix(value, []byte(anyPrefix)) {
			return nil, false, errOtherKind
		}
		return value, true, nil
	}
	name, sealed, ok := bytes.Cut(rest, []byte(":"))
	if !ok {
		return nil, false, errTooShort
	}
	s, ok := t.all[string(name)]
	if !ok {
		return nil, false, errOtherKey
	}
	n := s.aead.NonceSize()
	if len(sealed) < n+s.aead.Overhead() {
		return nil, false, errTooShort
	}
	out, err := s.aead.Open(make([]byte, 0, len(sealed)-n), sealed[:n], sealed[n:], []byte(key))
	if err != nil {
		return nil, false, errTampered
	}
	return out, s.prefix != t.first.prefix, nil
}

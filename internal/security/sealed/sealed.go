// Package sealed keeps files secret from whoever stores them: what the servers
// of a cluster have in common lies in an etcd that others run and back up.
package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const (
	version = 1
	// keySize is that of AES-256. A key is random, so that no slow derivation
	// is needed to keep it from being guessed.
	keySize = 32
	// maxSize bounds what is opened: keys and certificates take some 10 KiB.
	maxSize = 1 << 20
	// leastDifferent bytes are in any random key (fewer have a chance of 1 in
	// 10^22); what has fewer was typed, and could be guessed.
	leastDifferent = 12
)

var (
	// ErrKey: it was sealed with another key.
	ErrKey    = errors.New("it is sealed with another key")
	errForm   = errors.New("a cluster key is 64 hexadecimal digits: make one with `openssl rand -hex 32`")
	errWeak   = errors.New("the cluster key is not random: make one with `openssl rand -hex 32`")
	errBroken = errors.New("it is broken: restore it from a backup")
)

// Key seals and opens. It prints as nothing that could be used.
type Key struct{ secret [keySize]byte }

// NewKey makes a random one.
func NewKey() (k Key) {
	_, _ = rand.Read(k.secret[:]) // it never fails
	return k
}

// ParseKey reads what Encode wrote. The error never holds the key.
func ParseKey(text string) (k Key, err error) {
	data, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(data) != keySize {
		return k, errForm
	}
	different := map[byte]bool{}
	for _, b := range data {
		different[b] = true
	}
	if len(different) < leastDifferent {
		return k, errWeak
	}
	copy(k.secret[:], data)
	return k, nil
}

// Encode is the key as a file holds it.
func (k Key) Encode() string { return hex.EncodeToString(k.secret[:]) + "\n" }

// Format prints nothing of the key, whatever the verb is.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("(cluster key)")) }

// envelope is what is stored. ID tells a wrong key from broken content, and
// nothing about the key.
type envelope struct {
	Version int    `json:"version"`
	ID      []byte `json:"id"`
	Nonce   []byte `json:"nonce"`
	Data    []byte `json:"data"`
}

func (k Key) derive(purpose string, size int) ([]byte, error) {
	return hkdf.Key(sha256.New, k.secret[:], nil, "knarr sealed "+purpose, size)
}

func (k Key) cipher() (cipher.AEAD, []byte, error) {
	secret, err := k.derive("aes-256-gcm", keySize)
	if err != nil {
		return nil, nil, err
	}
	id, err := k.derive("id", 8)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, id, err
}

// Seal files, by their names, for one place, where alone they open again.
func (k Key) Seal(place string, files map[string][]byte) ([]byte, error) {
	aead, id, err := k.cipher()
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(files)
	if err != nil {
		return nil, err
	}
	e := envelope{Version: version, ID: id, Nonce: make([]byte, aead.NonceSize())}
	_, _ = rand.Read(e.Nonce) // it never fails
	e.Data = aead.Seal(nil, e.Nonce, plain, []byte(place))
	return json.Marshal(e)
}

// Open what was sealed for that place.
func (k Key) Open(place string, data []byte) (map[string][]byte, error) {
	aead, id, err := k.cipher()
	if err != nil {
		return nil, err
	}
	var e envelope
	if len(data) > maxSize || json.Unmarshal(data, &e) != nil {
		return nil, errBroken
	}
	switch {
	case e.Version != version:
		return nil, fmt.Errorf("it has the version %d, of a newer knarr", e.Version)
	case !bytes.Equal(e.ID, id):
		return nil, ErrKey
	case len(e.Nonce) != aead.NonceSize():
		return nil, errBroken
	}
	plain, err := aead.Open(nil, e.Nonce, e.Data, []byte(place))
	if err != nil {
		return nil, errBroken
	}
	var files map[string][]byte
	if err := json.Unmarshal(plain, &files); err != nil {
		return nil, errBroken
	}
	return files, nil
}

package transform

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/store"
)

// keyFile is the part of upstream's EncryptionConfiguration that is read; a
// file that says more is refused, so that nobody believes in what is not done.
type keyFile struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Resources  []keyResources `json:"resources"`
}

type keyResources struct {
	Resources []string      `json:"resources"`
	Providers []keyProvider `json:"providers"`
}

type keyProvider struct {
	AESGCM   *keyList  `json:"aesgcm,omitempty"`
	Identity *struct{} `json:"identity,omitempty"`
}

type keyList struct {
	Keys []keyEntry `json:"keys"`
}

type keyEntry struct {
	Name   string `json:"name"`
	Secret string `json:"secret"` // base64
}

const (
	keyFileVersion = "apiserver.config.k8s.io/v1"
	keyFileKind    = "EncryptionConfiguration"
)

// ErrNoKeyFile: there is no file where the keys should be.
var ErrNoKeyFile = errors.New("is gone")

// KeyFile is where the generated keys lie, and what they encrypt.
type KeyFile struct {
	Path       string
	Raw        store.Store // as it is on disk
	Prefix     string      // of what the keys encrypt there
	Configured bool        // an EncryptionConfiguration has keys of its own
}

// Open reads the keys that Secrets are encrypted with, the first of which
// writes. A file that is not there is made, with one random key, readable by
// its owner only, unless the store holds what another key has encrypted: who
// loses the file loses every Secret, and shall know it.
func (f KeyFile) Open(ctx context.Context, now func() time.Time) ([]Key, error) {
	if _, err := os.Lstat(f.Path); errors.Is(err, fs.ErrNotExist) {
		lost, err := orphans(ctx, f.Raw, f.Prefix, f.Configured)
		if err != nil {
			return nil, err
		}
		if lost.Values > 0 {
			return nil, fmt.Errorf("the encryption key file %s is gone, and %d stored Secrets cannot be read without its keys: put it back from a backup, or give these Secrets up for ever with `knarr secrets discard %s`",
				f.Path, lost.Values, strings.Join(lost.Keys, " "))
		}
		if len(lost.Foreign) > 0 {
			return nil, fmt.Errorf("the encryption key file %s is gone, and stored Secrets are encrypted by %s: start with the --encryption-provider-config that has these keys",
				f.Path, strings.Join(lost.Foreign, ", "))
		}
		key, err := newKey(now(), nil)
		if err == nil {
			err = writeKeys(f.Path, []Key{key}, os.Link) // never over another one
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("cannot make the encryption key file: %w", err)
		}
	}
	return ReadKeys(f.Path)
}

// ReadKeys reads the file as it stands.
func ReadKeys(path string) ([]Key, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the encryption key file %s %w: put it back from a backup, and do not stop the server before", path, ErrNoKeyFile)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the encryption key file %s is open to others (mode %04o): chmod 600 it, and consider its keys known", path, info.Mode().Perm())
	}
	var data bytes.Buffer
	if _, err := data.ReadFrom(f); err != nil {
		return nil, err
	}
	keys, err := parseKeys(data.Bytes())
	if err != nil {
		return nil, fmt.Errorf("the encryption key file %s: %w", path, err)
	}
	return keys, nil
}

// parseKeys never puts a part of the file into an error.
func parseKeys(data []byte) ([]Key, error) {
	var f keyFile
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return nil, errors.New("it is no EncryptionConfiguration with aesgcm and identity providers alone")
	}
	if f.APIVersion != keyFileVersion || f.Kind != keyFileKind {
		return nil, fmt.Errorf("it is not %s of %s", keyFileKind, keyFileVersion)
	}
	if len(f.Resources) != 1 || len(f.Resources[0].Resources) != 1 || f.Resources[0].Resources[0] != "secrets" {
		return nil, errors.New("it has to be about secrets alone")
	}
	var keys []Key
	for i, p := range f.Resources[0].Providers {
		switch {
		case p.AESGCM != nil && p.Identity == nil:
			for _, e := range p.AESGCM.Keys {
				secret, err := base64.StdEncoding.DecodeString(e.Secret)
				if err != nil {
					return nil, fmt.Errorf("key %q is not base64", e.Name)
				}
				keys = append(keys, Key{Name: e.Name, Secret: secret})
			}
		case p.Identity != nil && p.AESGCM == nil && i > 0:
			// What is not encrypted is always read.
		default:
			return nil, errors.New("its providers have to be aesgcm first, and then at most identity")
		}
	}
	return keys, nil
}

// keyTime is how a generated key's name says when it was made.
const keyTime = "20060102-150405"

// isGenerated: newKey gives such names.
func isGenerated(name string) bool {
	stamp, ok := strings.CutPrefix(name, "key")
	_, err := time.Parse(keyTime, stamp)
	return ok && err == nil
}

// newKey is a random one with a name that none of the others has.
func newKey(now time.Time, others []Key) (Key, error) {
	secret := make([]byte, keySize)
	if _, err := rand.Read(secret); err != nil {
		return Key{}, err
	}
	for {
		name := "key" + now.UTC().Format(keyTime)
		if !slices.ContainsFunc(others, func(k Key) bool { return k.Name == name }) {
			return Key{Name: name, Secret: secret}, nil
		}
		now = now.Add(time.Second)
	}
}

// writeKeys makes the file at once or not at all, and durably; put is os.Link
// for a file that must not be there yet, os.Rename to replace one.
func writeKeys(path string, keys []Key, put func(from, to string) error) (err error) {
	var list keyList
	for _, k := range keys {
		list.Keys = append(list.Keys, keyEntry{Name: k.Name, Secret: base64.StdEncoding.EncodeToString(k.Secret)})
	}
	data, err := yaml.Marshal(keyFile{APIVersion: keyFileVersion, Kind: keyFileKind, Resources: []keyResources{{
		Resources: []string{"secrets"},
		Providers: []keyProvider{{AESGCM: &list}, {Identity: &struct{}{}}},
	}}})
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { // gone already, if it was renamed
		if rerr := os.Remove(tmp.Name()); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := put(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir) // Secrets must not reach the disk before their key
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

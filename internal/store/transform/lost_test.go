package transform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"knarr.dev/knarr/internal/store/mem"
)

// A key file that is gone while the store still needs its keys stops the start:
// no new key is made, and the message says which keys are missing.
func TestLostKeyFile(t *testing.T) {
	h := newHost(t)
	first := h.keys(t)[0]
	now := func() time.Time { return h.now }
	kept, err := os.ReadFile(h.path)
	if err == nil {
		err = os.Remove(h.path)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := KeyFile{Path: h.path, Raw: h.raw, Prefix: below}
	_, err = file.Open(t.Context(), now)
	want := fmt.Sprintf("the encryption key file %s is gone, and %d stored Secrets cannot be read without its keys: "+
		"put it back from a backup, or give these Secrets up for ever with `knarr secrets discard %s`", h.path, stored, first)
	if err == nil || err.Error() != want {
		t.Fatalf("got  %v\nwant %s", err, want)
	}
	if _, err := os.Lstat(h.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key file was made: %v", err)
	}
	if err := os.WriteFile(h.path, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := file.Open(t.Context(), now)
	if err != nil || keys[0].Name != first {
		t.Fatalf("with the file back: %d keys, %v", len(keys), err)
	}
	if _, err := Discard(t.Context(), h.raw, below, keys, []string{first}); err == nil || !strings.Contains(err.Error(), "is in the key file") {
		t.Errorf("what can be read was discarded: %v", err)
	}
	if err := os.Remove(h.path); err != nil {
		t.Fatal(err)
	}
	if lost, err := Discard(t.Context(), h.raw, below, nil, []string{"another"}); err != nil || lost.Values != 0 {
		t.Errorf("another key's: %+v %v", lost, err)
	}
	if lost, err := Discard(t.Context(), h.raw, below, nil, []string{first}); err != nil || lost.Values != stored {
		t.Errorf("discarded %+v %v", lost, err)
	}
	h.now = h.now.Add(time.Minute)
	if keys, err := file.Open(t.Context(), now); err != nil || len(keys) != 1 || keys[0].Name == first {
		t.Errorf("after giving them up: %d keys, %v", len(keys), err)
	}
	for _, key := range []string{below + "a/clear", "/registry/configmaps/a/c"} {
		if _, err := h.raw.Get(t.Context(), key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// With an EncryptionConfiguration, what its keys have encrypted is not missed;
// without, it is said where these keys are.
func TestOrphans(t *testing.T) {
	for _, tt := range []struct {
		value      string
		configured bool
		lost       int
		foreign    string
	}{
		{"clear", false, 0, ""},
		{"k8s:enc:aesgcm:v1:mine:x", false, 1, ""},
		{"k8s:enc:secretbox:v1:mine:x", false, 0, "secretbox mine"},
		{"k8s:enc:kms:v2:mine:x", false, 0, "kms mine"},
		{"k8s:enc:kms:v2:mine:x", true, 0, ""},
		{"k8s:enc:aesgcm:v1:mine:x", true, 0, ""},
		{"k8s:enc:aesgcm:v1:key20270115-080000:x", true, 1, ""},
		{"k8s:enc:aescbc:v1:key20270115-080000:x", true, 0, ""},
	} {
		raw := mem.New()
		if _, err := raw.Put(t.Context(), below+"a/b", []byte(tt.value), 0); err != nil {
			t.Fatal(err)
		}
		got, err := orphans(t.Context(), raw, below, tt.configured)
		if err != nil || got.Values != tt.lost || strings.Join(got.Foreign, ",") != tt.foreign {
			t.Errorf("%s, configured %v: %+v %v", tt.value, tt.configured, got, err)
		}
		path := filepath.Join(t.TempDir(), "encryption.yaml")
		_, err = KeyFile{Path: path, Raw: raw, Prefix: below, Configured: tt.configured}.Open(t.Context(), time.Now)
		if (err != nil) != (tt.lost > 0 || tt.foreign != "") || tt.foreign != "" && !strings.Contains(err.Error(), "are encrypted by "+tt.foreign+": start with the --encryption-provider-config") {
			t.Errorf("%s, configured %v: %v", tt.value, tt.configured, err)
		}
		if _, serr := os.Lstat(path); (serr == nil) != (err == nil) {
			t.Errorf("%s, configured %v: the file: %v", tt.value, tt.configured, serr)
		}
	}
}

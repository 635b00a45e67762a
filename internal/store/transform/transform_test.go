package transform

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/mem"
	"knarr.dev/knarr/internal/store/storetest"
)

func keysOf(names ...string) []Key {
	var out []Key
	for _, n := range names {
		out = append(out, Key{Name: n, Secret: bytes.Repeat([]byte(n[:1]), keySize)})
	}
	return out
}

func gcm(t testing.TB, names ...string) *AESGCM {
	t.Helper()
	g, err := NewAESGCM(keysOf(names...))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

type encrypted struct {
	*Store
	inner *mem.Store
}

func (e encrypted) Compact(ctx context.Context, rev int64) error { return e.inner.Compact(ctx, rev) }

func open(t testing.TB, prefix string, log *slog.Logger) encrypted {
	t.Helper()
	inner := mem.New()
	s, err := New(Config{Store: inner, Rule: Below(prefix, gcm(t, "one")), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return encrypted{s, inner}
}

// TestSuite: an encrypting store is a store.
func TestSuite(t *testing.T) {
	storetest.Run(t, func(t testing.TB) storetest.Compacter { return open(t, "/registry/", nil) })
}

func TestOnDisk(t *testing.T) {
	ctx := context.Background()
	s := open(t, "/registry/secrets/", nil)
	for key, hidden := range map[string]bool{"/registry/secrets/a/s": true, "/registry/configmaps/a/c": false} {
		if _, err := s.Put(ctx, key, []byte("password"), 0); err != nil {
			t.Fatal(err)
		}
		raw, err := s.inner.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if got := !bytes.Contains(raw.Value, []byte("password")); got != hidden || bytes.HasPrefix(raw.Value, []byte("k8s:enc:aesgcm:v1:one:")) != hidden {
			t.Errorf("%s: on disk %q", key, raw.Value)
		}
		if kv, err := s.Get(ctx, key); err != nil || string(kv.Value) != "password" {
			t.Errorf("%s: %q %v", key, kv.Value, err)
		}
	}
	// What was there before encryption was switched on.
	if _, err := s.inner.Put(ctx, "/registry/secrets/a/plain", []byte("k8s\x00plain"), 0); err != nil {
		t.Fatal(err)
	}
	if kv, err := s.Get(ctx, "/registry/secrets/a/plain"); err != nil || string(kv.Value) != "k8s\x00plain" {
		t.Errorf("plain: %q %v", kv.Value, err)
	}
}

// TestUnreadable: one value that cannot be read does not take others with it,
// and no log shows it.
func TestUnreadable(t *testing.T) {
	ctx := context.Background()
	var log strings.Builder
	s := open(t, "/registry/secrets/", slog.New(slog.NewTextHandler(&log, nil)))
	rev, err := s.Put(ctx, "/registry/secrets/a/good", []byte("password"), 0)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := s.inner.Put(ctx, "/registry/secrets/b/bad", []byte("k8s:enc:aesgcm:v1:lost:hush-hush"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "/registry/secrets/b/bad"); !errors.Is(err, errOtherKey) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Put(ctx, "/registry/secrets/b/bad", []byte("x"), 0); !errors.Is(err, errOtherKey) {
		t.Errorf("conflict: %v", err)
	}
	page, err := s.List(ctx, "/registry/", store.ListOptions{})
	if err != nil || len(page.KVs) != 2 || string(page.KVs[0].Value) != "password" || !strings.HasPrefix(string(page.KVs[1].Value), anyPrefix) {
		t.Errorf("list: %+v %v", page.KVs, err)
	}
	stop := errors.New("stop")
	err = s.Watch(ctx, "/registry/", rev-1, func(b store.Batch) error {
		if len(b.Events) != 2 || string(b.Events[0].Value) != "password" || !strings.HasPrefix(string(b.Events[1].Value), anyPrefix) {
			t.Errorf("watch: %+v", b.Events)
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Error(err)
	}
	if _, err := s.Delete(ctx, "/registry/secrets/b/bad", bad); err != nil {
		t.Errorf("it cannot be deleted: %v", err)
	}
	if strings.Contains(log.String(), "hush") || !strings.Contains(log.String(), "/registry/secrets/b/bad") {
		t.Errorf("log: %s", log.String())
	}
}

func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.String().Draw(t, "key")
		value := rapid.SliceOf(rapid.Byte()).Draw(t, "value")
		old, now := gcmOf("one"), gcmOf("two", "one")
		sealed, err := old.ToStore(ctx, key, value)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := old.ToStore(ctx, key, value)
		if bytes.Equal(sealed, again) {
			t.Fatal("the same value looks the same twice")
		}
		if got, _, err := now.FromStore(ctx, key, sealed); err != nil || !bytes.Equal(got, value) {
			t.Fatalf("after a rotation: %q %v", got, err)
		}
		if _, _, err := now.FromStore(ctx, key+"x", sealed); !errors.Is(err, errTampered) {
			t.Fatalf("under another key: %v", err)
		}
		i := rapid.IntRange(len("k8s:enc:aesgcm:v1:one:"), len(sealed)-1).Draw(t, "at")
		sealed[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, _, err := now.FromStore(ctx, key, sealed); !errors.Is(err, errTampered) {
			t.Fatalf("changed: %v", err)
		}
		if _, _, err := now.FromStore(ctx, key, sealed[:i]); err == nil {
			t.Fatal("cut, and read")
		}
	})
}

func gcmOf(names ...string) *AESGCM {
	g, err := NewAESGCM(keysOf(names...))
	if err != nil {
		panic(err)
	}
	return g
}

// TestLayout opens a value by hand, as any tool that knows upstream's layout.
func TestLayout(t *testing.T) {
	sealed, err := gcm(t, "one").ToStore(context.Background(), "/registry/secrets/a/s", []byte("value"))
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.TrimPrefix(sealed, []byte("k8s:enc:aesgcm:v1:one:"))
	block, err := aes.NewCipher(bytes.Repeat([]byte("o"), 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := aead.Open(nil, body[:12], body[12:], []byte("/registry/secrets/a/s")); err != nil || string(got) != "value" {
		t.Errorf("%q %v", got, err)
	}
}

func TestRefused(t *testing.T) {
	for name, keys := range map[string][]Key{
		"none": nil, "short": {{Name: "a", Secret: []byte("x")}}, "nameless": {{Secret: make([]byte, 32)}},
		"colon": {{Name: "a:b", Secret: make([]byte, 32)}}, "twice": {keysOf("one")[0], keysOf("one")[0]},
	} {
		if _, err := NewAESGCM(keys); err == nil {
			t.Errorf("keys: %s", name)
		}
	}
	for name, value := range map[string]string{"other provider": "k8s:enc:kms:v2:x", "no name": "k8s:enc:aesgcm:v1:one", "nothing": "k8s:enc:aesgcm:v1:one:", "short": "k8s:enc:aesgcm:v1:one:0123456789abcdef"} {
		if got, _, err := gcm(t, "one").FromStore(context.Background(), "k", []byte(value)); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a rule without a transformer")
	}
}

func TestOpenKeys(t *testing.T) {
	now := func() time.Time { return time.Unix(1_800_000_000, 0) }
	path := filepath.Join(t.TempDir(), "new", "encryption.yaml")
	file := KeyFile{Path: path, Raw: mem.New(), Prefix: below}
	keys, err := file.Open(t.Context(), now)
	if err != nil || len(keys) != 1 || len(keys[0].Secret) != keySize || keys[0].Name != "key20270115-080000" {
		t.Fatalf("%+v %v", keys, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	again, err := file.Open(t.Context(), now)
	if err != nil || !bytes.Equal(again[0].Secret, keys[0].Secret) {
		t.Errorf("another key the second time: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Open(t.Context(), now); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("open to the group: %v", err)
	}
}

func TestKeyFileRefused(t *testing.T) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
	const secret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	good := head + "- resources: [secrets]\n  providers:\n  - aesgcm: {keys: [{name: b, secret: " + secret + "}, {name: a, secret: " + secret + "}]}\n  - identity: {}\n"
	if keys, err := parseKeys([]byte(good)); err != nil || len(keys) != 2 || keys[0].Name != "b" {
		t.Fatalf("%v %v", keys, err)
	}
	for name, text := range map[string]string{
		"empty":          "",
		"other kind":     strings.Replace(good, "EncryptionConfiguration", "Secret", 1),
		"configmaps too": strings.Replace(good, "[secrets]", "[secrets, configmaps]", 1),
		"identity first": head + "- resources: [secrets]\n  providers: [{identity: {}}]\n",
		"kms":            head + "- resources: [secrets]\n  providers: [{kms: {name: x}}]\n",
		"both in one":    strings.Replace(good, "  - identity", "    identity", 1),
		"no base64":      strings.Replace(good, secret, "topsecret!", 1),
		"broken":         strings.Replace(good, "keys: [", "keys: topsecret! [", 1),
	} {
		_, err := parseKeys([]byte(text))
		if err == nil {
			t.Errorf("%s was read", name)
		} else if strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

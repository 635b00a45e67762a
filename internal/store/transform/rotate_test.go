package transform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/mem"
)

const below = "/registry/secrets/"

// TestNext: a step for each state, and none that takes a key away which
// something needs.
func TestNext(t *testing.T) {
	by := func(pairs ...any) map[string]int {
		out := map[string]int{}
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i].(string)] = pairs[i+1].(int)
		}
		return out
	}
	for _, tc := range []struct {
		name string
		in   rotating
		want step
		err  string
	}{
		{"asked", rotating{fresh: true, file: []string{"a"}, loaded: true, counts: by("a", 3)}, begin, ""},
		{"asked with nothing stored", rotating{fresh: true, file: []string{"a"}, loaded: true}, begin, ""},
		{"asked, but the server has other keys", rotating{fresh: true, file: []string{"a"}, counts: by("a", 3)}, load, ""},
		{"made", rotating{file: []string{"b", "a"}, counts: by("a", 3)}, load, ""},
		{"loaded", rotating{file: []string{"b", "a"}, loaded: true, counts: by("a", 3)}, rewrite, ""},
		{"half", rotating{file: []string{"b", "a"}, loaded: true, counts: by("a", 1, "b", 2)}, rewrite, ""},
		{"clear text", rotating{file: []string{"b"}, loaded: true, counts: by(ClearText, 1, "b", 2)}, rewrite, ""},
		{"half, and history is forgotten", rotating{file: []string{"b", "a"}, loaded: true, counts: by("a", 1, "b", 2), forgotten: true}, rewrite, ""},
		{"moved", rotating{file: []string{"b", "a"}, loaded: true, counts: by("b", 3)}, forget, ""},
		{"moved, asked again", rotating{fresh: true, file: []string{"b", "a"}, loaded: true, counts: by("b", 3)}, forget, ""},
		{"forgotten", rotating{file: []string{"b", "a"}, loaded: true, counts: by("b", 3), forgotten: true}, drop, ""},
		{"dropped from the file", rotating{file: []string{"b"}, counts: by("b", 3), forgotten: true}, load, ""},
		{"over", rotating{file: []string{"b"}, loaded: true, counts: by("b", 3)}, done, ""},
		{"nothing stored", rotating{file: []string{"b"}, loaded: true}, done, ""},
		{"a key that is gone", rotating{file: []string{"b", "a"}, loaded: true, counts: by("b", 3, "c", 2)}, done, "2 stored values are encrypted in another way, by c,"},
		{"another provider", rotating{fresh: true, file: []string{"b"}, loaded: true, counts: by("aescbc k", 1)}, done, "aescbc k"},
		{"no key", rotating{fresh: true}, done, "holds no key"},
	} {
		got, err := next(tc.in)
		if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) || got != tc.want {
			t.Errorf("%s: %v %v", tc.name, got, err)
		}
	}
}

// host is a machine whose server may die: its disk is what stays.
type host struct {
	path string
	raw  *mem.Store
	now  time.Time
}

const stored = 250 // more than two pages

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{path: filepath.Join(t.TempDir(), "pki", "encryption.yaml"), raw: mem.New(), now: time.Unix(1_800_000_000, 0)}
	r := h.start(t)
	for i := range stored {
		if _, err := r.Store.Put(t.Context(), fmt.Sprintf("%sa/s%03d", below, i), fmt.Appendf(nil, "secret %d", i), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.raw.Put(t.Context(), below+"a/clear", []byte("as it was before"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Store.Put(t.Context(), "/registry/configmaps/a/c", []byte("open"), 0); err != nil {
		t.Fatal(err)
	}
	return h
}

// start a server.
func (h *host) start(t *testing.T) *Rotator {
	t.Helper()
	h.now = h.now.Add(time.Minute)
	keys, err := KeyFile{Path: h.path, Raw: h.raw, Prefix: below}.Open(t.Context(), func() time.Time { return h.now })
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Store: h.raw, Rule: Below(below, ring)})
	if err != nil {
		t.Fatal(err)
	}
	return &Rotator{Path: h.path, Ring: ring, Raw: h.raw, Store: s, Prefix: below, Root: "/registry/", Now: func() time.Time { return h.now }}
}

func (h *host) keys(t *testing.T) []string {
	t.Helper()
	keys, err := ReadKeys(h.path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, k := range keys {
		out = append(out, k.Name)
	}
	return out
}

// readable: a server that starts now reads everything.
func (h *host) readable(t *testing.T) {
	t.Helper()
	s := h.start(t).Store
	for i := range stored {
		if kv, err := s.Get(t.Context(), fmt.Sprintf("%sa/s%03d", below, i)); err != nil || string(kv.Value) != fmt.Sprintf("secret %d", i) {
			t.Fatalf("%d: %q %v", i, kv.Value, err)
		}
	}
	if kv, err := s.Get(t.Context(), below+"a/clear"); err != nil || string(kv.Value) != "as it was before" {
		t.Fatalf("%q %v", kv.Value, err)
	}
}

// over: everything is encrypted by the one key of the file.
func (h *host) over(t *testing.T, out *Rotation) {
	t.Helper()
	keys := h.keys(t)
	if len(keys) != 1 || !out.Done || out.Key != keys[0] || !maps.Equal(out.Counts, map[string]int{keys[0]: stored + 1}) {
		t.Fatalf("%+v, file %v", out, keys)
	}
	page, err := h.raw.List(t.Context(), below, store.ListOptions{})
	if err != nil || len(page.KVs) != stored+1 {
		t.Fatal(len(page.KVs), err)
	}
	for _, kv := range page.KVs {
		if !bytes.HasPrefix(kv.Value, []byte(gcmPrefix+keys[0]+":")) {
			t.Fatalf("%s: %.40q", kv.Key, kv.Value)
		}
	}
	if kv, err := h.raw.Get(t.Context(), "/registry/configmaps/a/c"); err != nil || string(kv.Value) != "open" {
		t.Errorf("%q %v", kv.Value, err)
	}
	h.readable(t)
}

func TestRotate(t *testing.T) {
	h := newHost(t)
	first := h.keys(t)[0]
	r := h.start(t)
	before, err := h.raw.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	r.after = func(s step) error { steps = append(steps, s); return nil }
	settled := int64(0)
	r.Settled = func(_ context.Context, rev int64) error {
		settled = rev
		if _, err := r.Rotate(t.Context(), true); !errors.Is(err, ErrRotating) {
			t.Errorf("two at once: %v", err)
		}
		return nil
	}
	out, err := r.Rotate(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	h.over(t, out)
	if !out.New || out.Rewritten != stored+1 || !slices.Equal(out.Dropped, []string{first}) || settled <= before {
		t.Errorf("%+v, settled at %d", out, settled)
	}
	if want := []step{begin, load, rewrite, forget, drop, load}; !slices.Equal(steps, want) {
		t.Errorf("%v", steps)
	}
	// What only the old key would open cannot be asked for.
	if _, err := r.Store.List(t.Context(), below, store.ListOptions{Rev: before}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("the past: %v", err)
	}
	if r.Ring.wrote([]byte(gcmPrefix + first + ":x")) {
		t.Error("the server still has the old key")
	}
	// Without being asked for a new key, nothing happens; then another one.
	if out, err = r.Rotate(t.Context(), false); err != nil || out.Rewritten != 0 || out.New {
		t.Errorf("%+v %v", out, err)
	}
	second := out.Key
	if out, err = r.Rotate(t.Context(), true); err != nil || out.Key == second || out.Key == first {
		t.Errorf("%+v %v", out, err)
	}
	h.over(t, out)
}

var errKilled = errors.New("killed")

// TestRotateKilled: the server dies after each step, and in the middle of the
// writing; it always starts again and reads everything, and the rotation is
// ended with the key that was made.
func TestRotateKilled(t *testing.T) {
	for at := range 7 {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			h := newHost(t)
			first := h.keys(t)[0]
			r := h.start(t)
			n := 0
			r.after = func(s step) error {
				if n++; n > at {
					return errKilled
				}
				return nil
			}
			if _, err := r.Rotate(t.Context(), true); at < 6 != errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			h.readable(t)
			made := h.keys(t)[0]
			if made == first {
				t.Fatal("no key was made")
			}
			out, err := h.start(t).Rotate(t.Context(), at < 4)
			if err != nil {
				t.Fatal(err)
			}
			h.over(t, out)
			if out.Key != made {
				t.Errorf("%s was made, and now %s", made, out.Key)
			}
		})
	}
	for _, left := range []int{0, 1, 99, 100, 101, stored - 1} {
		t.Run(fmt.Sprint("after writes ", left), func(t *testing.T) {
			h := newHost(t)
			r := h.start(t)
			r.Store.inner = &dying{Store: h.raw, left: left}
			if _, err := r.Rotate(t.Context(), true); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			h.readable(t)
			if keys := h.keys(t); len(keys) != 2 {
				t.Fatalf("%v", keys)
			}
			out, err := h.start(t).Rotate(t.Context(), true)
			if err != nil || out.New || out.Rewritten != stored+1-left {
				t.Fatalf("%+v %v", out, err)
			}
			h.over(t, out)
		})
	}
}

// dying takes so many writes.
type dying struct {
	*mem.Store
	left int
}

func (d *dying) Put(ctx context.Context, key string, value []byte, expect int64) (int64, error) {
	if d.left--; d.left < 0 {
		return 0, errKilled
	}
	return d.Store.Put(ctx, key, value, expect)
}

// TestRotateInWrongStates: nothing has changed afterwards, and one line says
// what to do.
func TestRotateInWrongStates(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, h *host, r *Rotator)
		want string
	}{
		{"no key file", func(t *testing.T, h *host, _ *Rotator) {
			if err := os.Rename(h.path, h.path+".away"); err != nil {
				t.Fatal(err)
			}
		}, "is gone: put it back from a backup, and do not stop the server before"},
		{"a file that is none", func(t *testing.T, h *host, _ *Rotator) {
			if err := os.WriteFile(h.path, []byte("keys: secret"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "no EncryptionConfiguration"},
		{"a file that others read", func(t *testing.T, h *host, _ *Rotator) {
			if err := os.Chmod(h.path, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "chmod 600"},
		{"a disk that cannot be written", func(_ *testing.T, _ *host, r *Rotator) {
			r.put = func(string, string) error { return syscall.EROFS }
		}, "cannot write a new key into"},
		{"another provider's value", func(t *testing.T, h *host, _ *Rotator) {
			if _, err := h.raw.Put(t.Context(), below+"a/other", []byte("k8s:enc:aescbc:v1:mine:xyz"), 0); err != nil {
				t.Fatal(err)
			}
		}, "by aescbc mine, which is not in the key file"},
		{"a value that was tampered with", func(t *testing.T, h *host, _ *Rotator) {
			kv, err := h.raw.Get(t.Context(), below+"a/s007")
			if err == nil {
				_, err = h.raw.Put(t.Context(), below+"b/moved", kv.Value, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, "1 stored values do not open with the key that they name, for instance " + below + "b/moved"},
		{"another key of the same name in the file", func(t *testing.T, h *host, _ *Rotator) {
			if err := writeKeys(h.path, []Key{{Name: h.keys(t)[0], Secret: bytes.Repeat([]byte("x"), keySize)}}, os.Rename); err != nil {
				t.Fatal(err)
			}
		}, "do not open with the key that they name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			r := h.start(t)
			tc.make(t, h, r)
			before, _ := os.ReadFile(h.path)
			rev, err := h.raw.Revision(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.Rotate(t.Context(), true)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			after, _ := os.ReadFile(h.path)
			if now, err := h.raw.Revision(t.Context()); err != nil || now != rev || !bytes.Equal(before, after) {
				t.Errorf("revision %d has become %d, the file changed: %v", rev, now, !bytes.Equal(before, after))
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(h.path), ".*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if kv, err := r.Store.Get(t.Context(), below+"a/s001"); err != nil || string(kv.Value) != "secret 1" {
				t.Errorf("%q %v", kv.Value, err)
			}
		})
	}
}

// TestRotateWithoutRoomToDrop: the proof is done, the file cannot be written:
// the next one ends it.
func TestRotateWithoutRoomToDrop(t *testing.T) {
	h := newHost(t)
	r := h.start(t)
	r.after = func(s step) error {
		if s == forget {
			r.put = func(string, string) error { return syscall.ENOSPC }
		}
		return nil
	}
	if _, err := r.Rotate(t.Context(), true); err == nil || !strings.Contains(err.Error(), "nothing needs the old keys any more") {
		t.Fatal(err)
	}
	h.readable(t)
	r.put, r.after = nil, nil
	out, err := r.Rotate(t.Context(), true)
	if err != nil || out.Rewritten != 0 || len(out.Dropped) != 1 {
		t.Fatalf("%+v %v", out, err)
	}
	h.over(t, out)
}

// TestRotateOutOfTime says how far it has come, and goes on.
func TestRotateOutOfTime(t *testing.T) {
	h := newHost(t)
	r := h.start(t)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	r.Settled = func(context.Context, int64) error { return ctx.Err() }
	out, err := r.Rotate(ctx, true)
	if err != nil || out.Done || !out.New || out.Rewritten != stored+1 {
		t.Fatalf("%+v %v", out, err)
	}
	r.Settled = nil
	if out, err = r.Rotate(t.Context(), false); err != nil || out.New || len(out.Dropped) != 1 {
		t.Fatalf("%+v %v", out, err)
	}
	h.over(t, out)
}

// TestRotateByConfiguration: the file is its owner's; what is stored follows it.
func TestRotateByConfiguration(t *testing.T) {
	h := newHost(t)
	r := h.start(t)
	generated := h.keys(t)
	var rewriteFile func(string) error
	r.Configuration, rewriteFile = configure(t, providers("secrets", provider("aescbc", "one")))
	c := r.Configuration
	c.generated = r.Ring
	s, err := New(Config{Store: h.raw, Rule: func(key string) store.Transformer {
		if strings.HasPrefix(key, below) {
			return c.For(secrets)
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.Store = s
	out, err := r.Rotate(t.Context(), true)
	// What was clear text before there was any encryption is not read by a
	// provider list without identity.
	if err == nil || !strings.Contains(err.Error(), below+"a/clear") {
		t.Fatalf("%+v %v", out, err)
	}
	kv, err := h.raw.Get(t.Context(), below+"a/clear")
	if err == nil {
		_, err = h.raw.Delete(t.Context(), kv.Key, kv.Rev)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err = r.Rotate(t.Context(), true)
	if err != nil || !out.Done || !maps.Equal(out.Counts, map[string]int{"aescbc one": stored}) || out.Configuration == "" || out.Key != "" {
		t.Fatalf("%+v %v", out, err)
	}
	if err := rewriteFile(providers("secrets", provider("secretbox", "two")+", "+provider("aescbc", "one"))); err != nil {
		t.Fatal(err)
	}
	if out, err = r.Rotate(t.Context(), true); err != nil || out.Rewritten != stored || !maps.Equal(out.Counts, map[string]int{"secretbox two": stored}) {
		t.Fatalf("%+v %v", out, err)
	}
	if err := rewriteFile(providers("secrets", provider("secretbox", "two"))); err != nil {
		t.Fatal(err)
	}
	if out, err = r.Rotate(t.Context(), true); err != nil || out.Rewritten != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	if now := h.keys(t); !slices.Equal(now, generated) {
		t.Errorf("the generated keys have become %v", now)
	}
}

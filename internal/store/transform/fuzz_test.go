package transform

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

// FuzzFromStore: nothing but what a key of ours has written under that name
// opens as an encrypted value.
func FuzzFromStore(f *testing.F) {
	g := gcm(f, "one", "two")
	sealed, err := g.ToStore(f.Context(), "/registry/secrets/a/b", []byte("password"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("/registry/secrets/a/b", sealed)
	f.Add("/registry/secrets/a/c", sealed)
	f.Add("k", []byte("k8s:enc:aesgcm:v1:two:"))
	f.Add("k", []byte("k8s:enc:aescbc:v1:one:x"))
	f.Add("k", []byte("plain"))
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		out, stale, err := g.FromStore(t.Context(), key, data)
		switch {
		case err != nil && out != nil:
			t.Fatal("a value and an error")
		case err == nil && bytes.HasPrefix(data, []byte(anyPrefix)) && (string(out) != "password" || key != "/registry/secrets/a/b"):
			t.Fatalf("%q opens as %q", data, out)
		case err == nil && !bytes.HasPrefix(data, []byte(anyPrefix)) && (!stale || !bytes.Equal(out, data)):
			t.Fatalf("clear text %q is read as %q, stale %v", data, out, stale)
		}
		again, err := g.ToStore(t.Context(), key, data)
		if err != nil {
			t.Fatal(err)
		}
		if back, stale, err := g.FromStore(t.Context(), key, again); err != nil || stale || !bytes.Equal(back, data) {
			t.Fatalf("%q has become %q: %v", data, back, err)
		}
	})
}

// FuzzKeyFile: a file that is taken has keys that work; one that is not shows
// nothing of itself in the error.
func FuzzKeyFile(f *testing.F) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n"
	const secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ="
	f.Add([]byte(head + "  - aesgcm: {keys: [{name: a, secret: " + secret + "}]}\n  - identity: {}\n"))
	f.Add([]byte(head + "  - identity: {}\n"))
	f.Add([]byte(head + "  - aesgcm: {keys: [{name: a, secret: " + secret[1:] + "}]}\n"))
	f.Add([]byte(head + "  - aescbc: {keys: [{name: a, secret: " + secret + "}]}\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys(data)
		if err != nil {
			if strings.Contains(err.Error(), secret[:12]) {
				t.Fatal(err)
			}
			return
		}
		g, err := NewAESGCM(keys)
		if err != nil {
			for _, k := range keys {
				if len(k.Secret) > 8 && (strings.Contains(err.Error(), string(k.Secret)) || strings.Contains(err.Error(), base64.StdEncoding.EncodeToString(k.Secret))) {
					t.Fatal(err)
				}
			}
			return
		}
		sealed, err := g.ToStore(t.Context(), "k", []byte("v"))
		if err != nil {
			t.Fatal(err)
		}
		if out, stale, err := g.FromStore(t.Context(), "k", sealed); err != nil || stale || string(out) != "v" {
			t.Fatalf("%q %v %v", out, stale, err)
		}
	})
}

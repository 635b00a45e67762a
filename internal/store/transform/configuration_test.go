package transform

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/filewatch"
)

var (
	secrets = schema.GroupResource{Resource: "secrets"}
	widgets = schema.GroupResource{Group: "example.com", Resource: "widgets"}
)

func providers(resources, list string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [" + resources + "]\n  providers: [" + list + "]\n"
}

func provider(kind string, names ...string) string {
	keys := make([]string, len(names))
	for i, n := range names {
		keys[i] = fmt.Sprintf("{name: %s, secret: %s}", n, base64.StdEncoding.EncodeToString([]byte(strings.Repeat(n[:1], 32))))
	}
	return "{" + kind + ": {keys: [" + strings.Join(keys, ", ") + "]}}"
}

func configure(t *testing.T, text string) (c *Configuration, rewrite func(string) error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "enc.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	c, err := OpenConfiguration(path, "test", gcm(t, "generated"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.Reloads = filewatch.NewReloads("encryption_config_controller", "here")
	t.Cleanup(func() { c.now.Load().close() })
	return c, func(text string) error { write(text); return c.Reload(context.Background()) }
}

func TestProviders(t *testing.T) {
	ctx, key := context.Background(), "/registry/secrets/a/b"
	for _, kind := range []string{"aescbc", "aesgcm", "secretbox"} {
		t.Run(kind, func(t *testing.T) {
			c, reload := configure(t, providers("secrets", provider(kind, "one")))
			old, err := c.For(secrets).ToStore(ctx, key, []byte("value"))
			if err != nil || !strings.HasPrefix(string(old), "k8s:enc:"+kind+":v1:one:") {
				t.Fatalf("stored %q, %v", old, err)
			}
			check := func(wantStale, wantErr bool) {
				t.Helper()
				got, stale, err := c.For(secrets).FromStore(ctx, key, old)
				if (err != nil) != wantErr || err == nil && (string(got) != "value" || stale != wantStale) {
					t.Errorf("read %q, stale %v, %v", got, stale, err)
				}
			}
			check(false, false)
			for _, step := range []struct {
				list       string
				stale, bad bool
			}{
				{list: provider(kind, "two", "one"), stale: true},
				{list: "{identity: {}}, " + provider(kind, "one"), stale: true},
				{list: provider(kind, "two"), bad: true},
				{list: provider(kind, "one", "two")},
			} {
				if err := reload(providers("secrets", step.list)); err != nil {
					t.Fatal(err)
				}
				check(step.stale, step.bad)
			}
			if err := reload("broken"); err == nil {
				t.Error("a broken file was taken")
			}
			check(false, false)
			if got, want := reloads(t, c), (map[string]float64{"success": 4, "failure": 1, c.now.Load().EncryptionFileContentHash: 1}); !maps.Equal(got, want) {
				t.Errorf("reloads %v, want %v", got, want)
			}
		})
	}
}

// reloads that were counted by how they came out, and the hash of what holds.
func reloads(t *testing.T, c *Configuration) map[string]float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c.Reloads)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() != "apiserver_id_hash" && f.GetName() != "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds" {
					out[l.GetValue()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
	}
	return out
}

func TestGeneratedKeyBesidesFile(t *testing.T) {
	ctx, key := context.Background(), "/registry/secrets/a/b"
	before, err := gcm(t, "generated").ToStore(ctx, key, []byte("value"))
	if err != nil {
		t.Fatal(err)
	}
	c, reload := configure(t, providers("widgets.example.com", provider("aesgcm", "one")))
	if _, stale, err := c.For(secrets).FromStore(ctx, key, before); stale || err != nil {
		t.Errorf("not spoken of: stale %v, %v", stale, err)
	}
	for _, resources := range []string{"secrets", "'*.*'", "'*.'"} {
		if err := reload(providers(resources, provider("aesgcm", "one"))); err != nil {
			t.Fatal(err)
		}
		if got, stale, err := c.For(secrets).FromStore(ctx, key, before); string(got) != "value" || !stale || err != nil {
			t.Errorf("%s: %q, stale %v, %v", resources, got, stale, err)
		}
	}
}

func TestWildcards(t *testing.T) {
	for resources, want := range map[string]bool{"widgets.example.com": true, "'*.example.com'": true, "'*.*'": true, "'*.'": false, "secrets": false} {
		c, _ := configure(t, providers(resources, provider("aesgcm", "one")))
		out, err := c.For(widgets).ToStore(context.Background(), "/registry/example.com/widgets/a", []byte("v"))
		if err != nil || strings.HasPrefix(string(out), anyPrefix) != want {
			t.Errorf("%s: %q, %v", resources, out, err)
		}
	}
}

func TestRefusedConfigurations(t *testing.T) {
	for name, text := range map[string]string{
		"kms v1":  providers("secrets", "{kms: {name: a, endpoint: 'unix:///nowhere', apiVersion: v1}}"),
		"no keys": providers("secrets", "{aesgcm: {keys: []}}"),
		"field":   providers("secrets", "{rot13: {}}"),
	} {
		path := filepath.Join(t.TempDir(), "enc.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenConfiguration(path, "test", gcm(t, "generated"), slog.New(slog.DiscardHandler))
		if err == nil {
			t.Errorf("%s: taken", name)
		}
		t.Log(name, err)
	}
}

package plugins_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"knarr.dev/knarr/internal/kubelet/dra/dratest"
	"knarr.dev/knarr/internal/kubelet/plugins"
)

// book notes who is registered.
type book struct {
	mu      sync.Mutex
	present map[string]int
	ever    []string
	refuse  error
}

func (b *book) Register(i plugins.Info) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return nil, b.refuse
	}
	name := i.Name + " " + filepath.Base(i.Endpoint) + " " + strings.Join(i.Services, ",")
	b.present[name]++
	b.ever = append(b.ever, name)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.present[name]--
	}, nil
}

func (b *book) count(name string) (now, ever int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.ever {
		if e == name {
			ever++
		}
	}
	return b.present[name], ever
}

func begin(t *testing.T, root string, b *book) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r := plugins.New(plugins.Config{Dir: filepath.Join(root, "plugins_registry"), Handlers: map[string]plugins.Handler{"DRAPlugin": b}, Log: slog.New(slog.DiscardHandler)})
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for name, n := range b.present {
			if n != 0 {
				t.Errorf("%s is registered %d times after the end", name, n)
			}
		}
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: ", what)
		}
	}
}

// A plugin is registered as long as its socket is there, and anew for a new one.
func TestRegistry(t *testing.T) {
	// Longer than an address of a socket can be.
	root := filepath.Join(t.TempDir(), strings.Repeat("a-long-name-", 9))
	b := &book{present: map[string]int{}}
	early := dratest.New(root, "early.example")
	early.Start(t)
	if err := os.WriteFile(filepath.Join(root, "plugins_registry", "no-socket"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	begin(t, root, b)
	const name = " dra.sock v1.DRAPlugin,v1beta1.DRAPlugin"
	is := func(who string, now, ever int) func() bool {
		return func() bool { n, e := b.count(who + name); return n == now && e == ever }
	}
	await(t, "one that was there before", is("early.example", 1, 1))
	late := dratest.New(root, "late.example")
	late.Start(t)
	await(t, "one that came later", is("late.example", 1, 1))
	await(t, "its news", func() bool {
		return len(late.Status()) == 1 && late.Status()[0].PluginRegistered && late.Status()[0].Error == ""
	})
	late.Stop()
	await(t, "its end", is("late.example", 0, 1))
	late.Start(t)
	await(t, "its return", is("late.example", 1, 2))
	if n, e := b.count("early.example" + name); n != 1 || e != 1 {
		t.Errorf("the other one: registered %d times, ever %d", n, e)
	}
}

// What nothing serves yet, or what is wrong, is told to the plugin, and tried
// again.
func TestRefused(t *testing.T) {
	root := t.TempDir()
	b := &book{present: map[string]int{}, refuse: errors.New("no room")}
	begin(t, root, b)
	csi := dratest.New(root, "csi.example")
	csi.Type = "CSIPlugin"
	csi.Start(t)
	await(t, "a refusal", func() bool { return len(csi.Status()) > 0 })
	want := "RegisterPlugin error -- no handler registered for plugin type: CSIPlugin at socket " + csi.RegistrySocket()
	if s := csi.Status()[0]; s.PluginRegistered || s.Error != want {
		t.Errorf("it was told %q, want %q", s, want)
	}
	d := dratest.New(root, "dra.example")
	d.Start(t)
	await(t, "a refusal", func() bool { return len(d.Status()) > 0 })
	if s := d.Status()[0]; s.PluginRegistered || s.Error != "RegisterPlugin error -- plugin registration failed with err: no room" {
		t.Errorf("it was told %q", s)
	}
	b.mu.Lock()
	b.refuse = nil
	b.mu.Unlock()
	await(t, "another attempt", func() bool { s := d.Status(); return s[len(s)-1].PluginRegistered })
}

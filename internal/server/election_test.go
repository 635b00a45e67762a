package server

import (
	"os"
	"strings"
	"testing"
)

// A data directory keeps its identity, another one has another.
func TestIdentity(t *testing.T) {
	of := func(dir, node string) string {
		t.Helper()
		s := &control{cfg: &Config{DataDir: dir, NodeName: node}}
		if err := os.MkdirAll(s.cfg.Dir("server"), 0o700); err != nil {
			t.Fatal(err)
		}
		id, err := s.identity()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	one, two := t.TempDir(), t.TempDir()
	a := of(one, "a")
	if !strings.HasPrefix(a, "a_") || len(a) < 20 {
		t.Errorf("identity %q", a)
	}
	if again := of(one, "a"); again != a {
		t.Errorf("identity %q after %q", again, a)
	}
	if b := of(two, "a"); b == a {
		t.Errorf("two data directories, one identity %q", b)
	}
	// One that was cut short while it was written is made anew.
	file := (&Config{DataDir: one}).Dir("server", "identity")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again := of(one, "a"); again == a || of(one, "a") != again {
		t.Errorf("identity %q after an empty file", again)
	}
}

package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// list runs go list over the module, with files replaced by an overlay.
func list(t *testing.T, overlay map[string]string) []Package {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"list", "-e", "-tags", "grpcnotrace", "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports"}
	if overlay != nil {
		replace := map[string]string{}
		for path, src := range overlay {
			f := filepath.Join(t.TempDir(), "planted.go")
			if err := os.WriteFile(f, []byte(src), 0o600); err != nil {
				t.Fatal(err)
			}
			replace[filepath.Join(root, path)] = f
		}
		data, err := json.Marshal(map[string]any{"Replace": replace})
		if err != nil {
			t.Fatal(err)
		}
		f := filepath.Join(t.TempDir(), "overlay.json")
		if err := os.WriteFile(f, data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-overlay", f)
	}
	cmd := exec.Command("go", append(args, "./...")...)
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestImports(t *testing.T) {
	pkgs := list(t, nil)
	if len(pkgs) < 20 {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	for _, b := range CheckImports(pkgs) {
		t.Error(b)
	}
}

// TestPlanted shows that the checks bite: a forbidden import planted in a real
// package by an overlay is found, and nothing else.
func TestPlanted(t *testing.T) {
	planted := map[string]string{
		"internal/plan/planted.go":                  "package plan\n\nimport _ \"k8s.io/client-go/rest\"\n",
		"internal/controller/replicaset/planted.go": "package replicaset\n\nimport _ \"knarr.dev/knarr/internal/controller/deployment\"\n",
		"internal/scheduler/planted.go":             "package scheduler\n\nimport _ \"knarr.dev/knarr/internal/store/etcd\"\n",
		"internal/apiserver/planted.go":             "package apiserver\n\nimport _ \"k8s.io/kubectl/pkg/cmd\"\n",
	}
	for path, src := range planted {
		want := strings.TrimPrefix(strings.Split(src, `"`)[1], Module+"/")
		bad := CheckImports(list(t, map[string]string{path: src}))
		if len(bad) == 0 || !slices.ContainsFunc(bad, func(b string) bool { return strings.Contains(b, want) }) {
			t.Errorf("%s importing %s went unnoticed: %v", path, want, bad)
		}
	}
}

func eachFile(t *testing.T, fn func(path string, test bool)) {
	t.Helper()
	for _, p := range list(t, nil) {
		for _, f := range p.GoFiles {
			fn(filepath.Join(p.Dir, f), false)
		}
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			fn(filepath.Join(p.Dir, f), true)
		}
	}
}

func TestPlansArePure(t *testing.T) {
	seen := 0
	eachFile(t, func(path string, _ bool) {
		if !strings.Contains(path, "/internal/controller/") || filepath.Base(path) != "plan.go" {
			return
		}
		seen++
		bad, err := CheckPlan(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range bad {
			t.Error(b)
		}
	})
	if seen < 5 {
		t.Errorf("found only %d controllers with a plan.go", seen)
	}
	for _, src := range []string{
		"package p\nimport \"os\"\nvar _ = os.Getpid",
		"package p\nimport \"net/http\"\nvar _ = http.Get",
		"package p\nimport \"time\"\nfunc f() time.Time { return time.Now() }",
		"package p\nfunc f() { go f() }",
	} {
		if bad, err := CheckPlan("plan.go", src); err != nil || len(bad) != 1 {
			t.Errorf("planted %q: %v %v", src, bad, err)
		}
	}
}

func TestStyle(t *testing.T) {
	eachFile(t, func(path string, _ bool) {
		bad, err := CheckStyle(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range bad {
			t.Error(b)
		}
	})
	for name, src := range map[string]string{
		"a.go":      "package p\nfunc init() {}",
		"a_test.go": "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }",
		"util/a.go": "package util",
	} {
		if bad, err := CheckStyle(name, src); err != nil || len(bad) != 1 {
			t.Errorf("planted %s: %v %v", name, bad, err)
		}
	}
}

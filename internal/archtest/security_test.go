package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// regressions is the page that names a test for each hole.
const regressions = "docs/security-regressions.md"

var (
	cveName  = regexp.MustCompile(`CVE-\d{4}-\d+`)
	quoted   = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile(`^(Test|Fuzz)\w+(/\S+)?$`)
)

// testsOf the package in dir: functions, and the strings in each; by no name
// those of its tables.
func testsOf(t *testing.T, dir string) map[string][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			name := ""
			if fn, ok := d.(*ast.FuncDecl); ok {
				if fn.Recv != nil {
					continue
				}
				name = fn.Name.Name
			}
			texts := []string{}
			ast.Inspect(d, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						texts = append(texts, s)
					}
				}
				return true
			})
			out[name] = append(out[name], texts...)
		}
	}
	return out
}

// checkRegressions returns what is wrong with the page.
func checkRegressions(t *testing.T, root, page string) (bad []string, lines int) {
	t.Helper()
	for line := range strings.Lines(page) {
		if !cveName.MatchString(line) {
			continue
		}
		lines++
		columns := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		last := columns[len(columns)-1]
		if strings.Contains(last, "not applicable") {
			continue
		}
		dir, found := "", 0
		for _, m := range quoted.FindAllStringSubmatch(last, -1) {
			name := m[1]
			if !testName.MatchString(name) {
				dir = name
				continue
			}
			found++
			fn, sub, _ := strings.Cut(name, "/")
			tests := testsOf(t, filepath.Join(root, dir))
			texts, ok := tests[fn]
			if !ok || sub != "" && !slices.Contains(texts, sub) && !slices.Contains(tests[""], sub) {
				bad = append(bad, dir+" has no test "+name)
			}
		}
		if found == 0 {
			bad = append(bad, "no test: "+strings.TrimSpace(line))
		}
	}
	return bad, lines
}

// TestRegressionsAreTested: the page promises no test that is not there.
func TestRegressionsAreTested(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, regressions))
	if err != nil {
		t.Fatal(err)
	}
	bad, lines := checkRegressions(t, root, string(page))
	for _, b := range bad {
		t.Error(b)
	}
	if lines < 35 {
		t.Errorf("%s has only %d lines", regressions, lines)
	}
	for _, planted := range []string{
		"| CVE-2000-1 | x | `internal/archtest` `TestCVE2000_1` |", "| CVE-2000-1 | x | `internal/archtest` `TestRegressionsAreTested/nope` |", "| CVE-2000-1 | x | |", "| CVE-2000-1 | x | `internal/nowhere` `TestRegressionsAreTested` |",
	} {
		if bad, _ := checkRegressions(t, root, planted); len(bad) != 1 {
			t.Errorf("planted %s: %v", planted, bad)
		}
	}
}

// TestCVE2020_8555, and CVE-2025-13281: nothing that decides dials anybody, so
// that no object makes the control plane fetch what its author names.
func TestCVE2020_8555(t *testing.T) {
	checked := 0
	for _, p := range list(t, nil) {
		rel := strings.TrimPrefix(p.ImportPath, Module+"/")
		if !strings.HasPrefix(rel, "internal/controller/") && rel != "internal/scheduler" && rel != "internal/kinds" && rel != "internal/plan" {
			continue
		}
		checked++
		for _, i := range p.Imports {
			if slices.Contains([]string{"net/http", "crypto/tls", "os/exec", Module + "/internal/webhook"}, i) || strings.HasPrefix(i, "k8s.io/client-go/") {
				t.Errorf("%s imports %s", rel, i)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d packages were looked at", checked)
	}
}

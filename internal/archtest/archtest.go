// Package archtest guards the shape of the tree: which package may import
// which, what a plan may not touch, and a few rules of style. The rules stand
// in tables; the test runs them over what `go list` and the parser see.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
)

// Module is the path that internal packages start with.
const Module = "knarr.dev/knarr"

// Package is what the rules look at, as `go list -json` prints it.
type Package struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
}

// ban forbids an import everywhere but in the packages of except. Paths match
// themselves and everything below.
type ban struct {
	path   string
	reason string
	except []string // import path prefixes without the module
	allow  []string // leaf libraries below path that are fine
}

var bans = []ban{
	{path: "k8s.io/kubernetes", reason: "knarr is an independent implementation"},
	{path: "k8s.io/apiserver/pkg/server", reason: "the generic server is never used", allow: []string{"k8s.io/apiserver/pkg/server/options/encryptionconfig"}},
	{path: "k8s.io/apiserver/pkg/registry", reason: "the generic server is never used"},
	{path: "k8s.io/apiserver/pkg/storage", reason: "the generic server is never used", allow: []string{"k8s.io/apiserver/pkg/storage/value"}},
	{path: "k8s.io/kube-aggregator", reason: "only its wire types are taken", allow: []string{"k8s.io/kube-aggregator/pkg/apis"}},
	{path: "k8s.io/client-go", reason: "components use client.Client and view.View; client-go is for the edges", allow: []string{"k8s.io/client-go/util/jsonpath"},
		except: []string{"cmd/kubectl", "internal/cli", "internal/client/remote", "internal/view/remote", "bench"}},
	{path: "k8s.io/kubectl", reason: "kubectl is a binary of its own", except: []string{"cmd/kubectl"}},
	{path: "go.etcd.io/etcd", reason: "etcd hides behind store.Store", except: []string{"internal/store/etcd"}},
	{path: "github.com/google/nftables", reason: "rules are planned first and applied in one place", except: []string{"internal/network"}},
	{path: "github.com/vishvananda/netlink", reason: "only the network touches links and routes", except: []string{"internal/network", "internal/cli", "internal/server", "test"}},
	{path: "github.com/containerd/containerd", reason: "only its way to unpack layers is taken", allow: []string{"github.com/containerd/containerd/v2/pkg/archive"}},
	{path: "github.com/sirupsen/logrus", reason: "log/slog; only what reads a library's log may", except: []string{"internal/runtime/imagestore"}},
	{path: "github.com/spf13/cobra", reason: "commands live in cli", except: []string{"internal/cli", "cmd"}},
	{path: "log", reason: "log/slog, passed in", allow: []string{"log/slog"}, except: []string{"internal/apiserver/openapi/gen", "internal/network/cni", "images", "bench", "sim", "internal/apiserver", "internal/kubelet", "cmd"}},
	{path: "math/rand", reason: "math/rand/v2 with a source that is passed in", allow: []string{"math/rand/v2"}},
	{path: "github.com/stretchr/testify", reason: "the standard library's testing is enough"},
}

// layers are the allowed imports between our own packages: a package may
// import those in its row, the packages of every row above that its row
// names, and what is below its own directory.
type layer struct {
	path string
	may  []string
}

var layers = []layer{
	{"internal/version", nil},
	{"internal/rmtree", nil},
	{"internal/kernel", nil},
	{"internal/filewatch", nil},
	{"internal/webhook", nil},
	{"internal/kinds", nil},
	{"internal/store/etcd", []string{"internal/store"}},
	{"internal/store/mem", []string{"internal/store"}},
	{"internal/store/cache", []string{"internal/store", "internal/kinds", "internal/codec", "internal/view"}},
	{"internal/store", []string{"internal/kinds", "internal/filewatch"}},
	{"internal/codec", []string{"internal/kinds"}},
	{"internal/view/remote", []string{"internal/view", "internal/kinds", "internal/codec", "internal/client"}},
	{"internal/view", []string{"internal/kinds"}},
	{"internal/client", []string{"internal/kinds", "internal/codec", "internal/version"}},
	{"internal/plan", []string{"internal/kinds"}},
	{"internal/event", []string{"internal/kinds", "internal/plan", "internal/client"}},
	{"internal/reconcile", []string{"internal/kinds", "internal/plan", "internal/view", "internal/client", "internal/event"}},
	{"internal/leader", []string{"internal/kinds", "internal/plan", "internal/view", "internal/client"}},
	{"internal/quota", []string{"internal/kinds", "internal/view"}},
	{"internal/history", []string{"internal/kinds", "internal/plan"}},
	{"internal/controller", []string{"internal/kinds", "internal/quota", "internal/history", "internal/plan", "internal/view", "internal/reconcile", "internal/security/pki"}},
	{"internal/scheduler", []string{"internal/kinds", "internal/plan", "internal/view", "internal/client", "internal/event"}},
	{"internal/auth", []string{"internal/kinds", "internal/plan", "internal/view", "internal/client", "internal/codec", "internal/reconcile", "internal/security", "internal/filewatch"}},
	{"internal/admission", []string{"internal/kinds", "internal/quota", "internal/view", "internal/auth", "internal/security", "internal/codec", "internal/webhook", "internal/version"}},
	{"internal/security", []string{"internal/filewatch"}},
	{"internal/why", []string{"internal/kinds", "internal/view", "internal/scheduler"}},
	{"internal/tracing", nil},
	{"internal/custom", []string{"internal/kinds", "internal/view", "internal/client", "internal/webhook"}},
	{"internal/apiserver", []string{"internal/kinds", "internal/store", "internal/codec", "internal/view", "internal/client", "internal/admission", "internal/auth", "internal/version", "internal/plan", "internal/webhook", "internal/security", "internal/tracing"}},
	{"internal/kubelet", []string{"internal/kinds", "internal/view", "internal/client", "internal/plan", "internal/event", "internal/security", "internal/codec", "internal/version", "internal/rmtree", "internal/filewatch", "internal/kernel"}},
	{"internal/hollow", []string{"internal/kubelet", "internal/kinds", "internal/view", "internal/client", "internal/event"}},
	{"internal/runtime/userns", nil},
	{"internal/runtime/imagestore", []string{"internal/runtime/userns", "internal/runtime/registry", "internal/runtime/ociarchive", "internal/rmtree"}},
	{"internal/runtime/registry", nil},
	{"internal/runtime/ociarchive", nil},
	{"internal/runtime/builtin", []string{"internal/runtime", "internal/kubelet/cgroup", "internal/kubelet/cadvisor", "internal/kubelet/cdi"}},
	{"internal/runtime", []string{"internal/version", "internal/rmtree"}},
	{"internal/network/cni", []string{"internal/network/nft", "internal/network/nettest"}},
	{"internal/network", []string{"internal/kinds", "internal/view", "internal/plan"}},
}

// planMayImport: what a controller's plan.go may use besides the API types.
// Nothing here does I/O, reads a clock or rolls dice.
var planMayImport = []string{
	"cmp", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt", "hash/fnv", "iter", "maps", "math", "math/big", "math/bits",
	"net/netip", "slices", "sort", "strconv", "strings", "time", "unicode", "bytes", "encoding/base32", "crypto/sha256",
	"k8s.io/api", "k8s.io/apimachinery", "k8s.io/component-helpers", "k8s.io/kube-aggregator/pkg/apis", "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1", "k8s.io/utils/ptr",
	"k8s.io/dynamic-resource-allocation/resourceclaim", "github.com/robfig/cron/v3", // whose schedules are arithmetic
	Module + "/internal/plan", Module + "/internal/kinds", Module + "/internal/reconcile", Module + "/internal/view", Module + "/internal/quota", Module + "/internal/history",
}

// impureCalls may not stand in a plan.go, whatever it imports.
var impureCalls = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"},
}

// CheckImports returns one line per forbidden import.
func CheckImports(pkgs []Package) []string {
	var bad []string
	for _, p := range pkgs {
		rel := strings.TrimPrefix(p.ImportPath, Module+"/")
		for _, imp := range p.Imports {
			for _, b := range bans {
				if below(imp, b.path) && !slices.ContainsFunc(b.allow, func(a string) bool { return below(imp, a) }) &&
					!slices.ContainsFunc(b.except, func(e string) bool { return below(rel, e) }) {
					bad = append(bad, fmt.Sprintf("%s imports %s: %s", rel, imp, b.reason))
				}
			}
			if own, ok := strings.CutPrefix(imp, Module+"/"); ok {
				if why := checkLayer(rel, own); why != "" {
					bad = append(bad, why)
				}
			}
		}
	}
	return bad
}

func checkLayer(rel, own string) string {
	for _, l := range layers {
		if !below(rel, l.path) {
			continue
		}
		if l.path == "internal/controller" && below(own, l.path) {
			if sibling(rel) != sibling(own) {
				return fmt.Sprintf("%s imports %s: controllers talk only through objects", rel, own)
			}
			return ""
		}
		if below(own, l.path) || below(l.path, own) || slices.ContainsFunc(l.may, func(m string) bool { return below(own, m) }) {
			return ""
		}
		return fmt.Sprintf("%s imports %s: not in its row of archtest's layers", rel, own)
	}
	return ""
}

// sibling is the first path element below internal/controller.
func sibling(rel string) string {
	parts := strings.SplitN(rel, "/", 4)
	if len(parts) < 3 {
		return rel
	}
	return parts[2]
}

func below(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

// CheckPlan returns what a plan.go does that a pure file may not.
func CheckPlan(name string, src any) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var bad []string
	for _, imp := range f.Imports {
		path := strings.Trim(imp.Path.Value, `"`)
		if !slices.ContainsFunc(planMayImport, func(a string) bool { return below(path, a) }) {
			bad = append(bad, fmt.Sprintf("%s imports %s: a plan is pure", name, path))
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			bad = append(bad, name+" starts a goroutine: a plan is pure")
		case *ast.SelectorExpr:
			if id, ok := n.X.(*ast.Ident); ok && slices.Contains(impureCalls[id.Name], n.Sel.Name) {
				bad = append(bad, fmt.Sprintf("%s uses %s.%s: a plan is pure", name, id.Name, n.Sel.Name))
			}
		}
		return true
	})
	return bad, nil
}

// CheckStyle returns what a file does that the house style forbids: init
// functions, and sleeping in tests.
func CheckStyle(name string, src any) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var bad []string
	test := strings.HasSuffix(name, "_test.go")
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil && !test {
				bad = append(bad, name+" has an init function: wire by hand")
			}
		case *ast.SelectorExpr:
			if id, ok := n.X.(*ast.Ident); ok && test && id.Name == "time" && n.Sel.Name == "Sleep" {
				bad = append(bad, name+" sleeps: wait for a condition, or use testing/synctest")
			}
		}
		return true
	})
	switch base := filepath.Base(filepath.Dir(name)); base {
	case "util", "utils", "common", "helpers", "helper", "misc":
		bad = append(bad, fmt.Sprintf("%s: a package named %s says nothing", name, base))
	}
	return bad, nil
}

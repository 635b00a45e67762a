package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestBadInput: what is broken, huge or stolen gets a Status that says so, and
// the server neither grows nor forgets.
func TestBadInput(t *testing.T) {
	l := newLAN(t)
	h := l.newHost(t)
	h.up(t)
	h.mustKubectl(t, "create", "configmap", "stays")
	before := rssMiB(t, h)
	post := func(body string) (string, error) {
		f := filepath.Join(t.TempDir(), "body.json")
		if err := os.WriteFile(f, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		return h.kubectl("create", "--raw", "/api/v1/namespaces/default/configmaps", "-f", f)
	}
	labels := make([]string, 6000)
	for i := range labels {
		labels[i] = fmt.Sprintf(`"key-%d":"%s"`, i, strings.Repeat("v", 60))
	}
	for _, tc := range []struct{ name, body, want string }{
		{"broken JSON", `{"kind":"ConfigMap",`, "BadRequest|cannot be handled"},
		{"wrong type", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":[1]}`, "BadRequest|cannot be handled"},
		{"wrong kind", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}`, "BadRequest|cannot be handled"},
		{"ten megabytes", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"k":"` + strings.Repeat("x", 10<<20) + `"}}`, "RequestEntityTooLarge|too large"},
		{"two megabytes", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"k":"` + strings.Repeat("x", 2<<20) + `"}}`, "Too long|Invalid|too large"},
		{"deep nesting", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","labels":` + strings.Repeat(`{"a":`, 200000) + "1" + strings.Repeat("}", 200000) + "}}", "BadRequest|cannot be handled|deep"},
		{"bad label", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","labels":{"a b":"c"}}}`, "Invalid|invalid"},
		{"no name", `{"kind":"ConfigMap","apiVersion":"v1"}`, "name or generateName is required"},
	} {
		for range 5 {
			out, err := post(tc.body)
			if err == nil || !regexp.MustCompile(tc.want).MatchString(out) {
				t.Errorf("%s: %v %s", tc.name, err, clipped(out))
			}
		}
	}
	if out, err := post(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"many","labels":{` + strings.Join(labels, ",") + `}}}`); err != nil {
		t.Errorf("6,000 valid labels: %s", clipped(out))
	}
	testUnknownFields(t, h)
	testCredentials(t, h)
	h.mustKubectl(t, "get", "configmap", "stays")
	if after := rssMiB(t, h); after > before+200 {
		t.Errorf("the server grew from %d to %d MiB", before, after)
	}
}

func clipped(s string) string { return s[:min(len(s), 500)] }

func testUnknownFields(t *testing.T, h *host) {
	t.Helper()
	f := filepath.Join(t.TempDir(), "cm.yaml")
	if err := os.WriteFile(f, []byte("kind: ConfigMap\napiVersion: v1\nmetadata: {name: fields}\ndatta: {a: b}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := h.kubectl("create", "-f", f, "--validate=strict"); err == nil || !strings.Contains(out, `unknown field "datta"`) {
		t.Errorf("strict: %v %s", err, out)
	}
	if out, err := h.kubectl("create", "-f", f, "--validate=warn"); err != nil || !strings.Contains(out, `Warning: unknown field "datta"`) {
		t.Errorf("warn: %v %s", err, out)
	}
	h.mustKubectl(t, "delete", "configmap", "fields")
	if out, err := h.kubectl("create", "-f", f, "--validate=ignore"); err != nil || strings.Contains(out, "Warning") {
		t.Errorf("ignore: %v %s", err, out)
	}
	if out, err := h.kubectl("create", "-f", filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Errorf("a file that is not there: %s", out)
	}
}

// testCredentials: tokens that are forged, of a deleted account, or of a node
// that asks for what is not its own.
func testCredentials(t *testing.T, h *host) {
	t.Helper()
	as := func(token string, args ...string) (string, error) {
		// A kubeconfig of its own: kubectl prefers client certificates.
		f := filepath.Join(t.TempDir(), "kubeconfig")
		conf := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: \"https://%s:6443\", insecure-skip-tls-verify: true}}]\nusers: [{name: u, user: {token: %q}}]\n", h.ip, token)
		if err := os.WriteFile(f, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		return h.kubectl(append([]string{"--kubeconfig", f}, args...)...)
	}
	h.mustKubectl(t, "create", "serviceaccount", "thief")
	token := strings.TrimSpace(h.mustKubectl(t, "create", "token", "thief"))
	if out, err := as(token, "auth", "whoami"); err != nil || !strings.Contains(out, "system:serviceaccount:default:thief") {
		t.Errorf("a good token: %v %s", err, out)
	}
	if out, err := as(token, "get", "secrets"); err == nil || !strings.Contains(out, "forbidden") {
		t.Errorf("without permission: %v %s", err, out)
	}
	forged := token[:len(token)-8] + "AAAAAAAA"
	h.mustKubectl(t, "delete", "serviceaccount", "thief")
	for name, bad := range map[string]string{"forged": forged, "of a deleted account": token, "nonsense": "nonsense", "bootstrap": "abcdef.0123456789abcdef"} {
		if out, err := as(bad, "get", "pods"); err == nil || !strings.Contains(out, "Unauthorized") && !strings.Contains(out, "must be logged in") {
			t.Errorf("%s token: %v %s", name, err, out)
		}
	}
	h.mustKubectl(t, "create", "secret", "generic", "private", "--from-literal=k=v")
	out, err := h.kubectl("--as=system:node:stranger", "--as-group=system:nodes", "get", "secret", "private")
	if err == nil || !strings.Contains(out, "no relationship found between node 'stranger' and this object") {
		t.Errorf("a node asks for a secret that none of its pods uses: %v %s", err, out)
	}
	out, err = h.kubectl("--as=system:node:stranger", "--as-group=system:nodes", "label", "node", h.netns, "a=b")
	if err == nil || !strings.Contains(out, "forbidden") {
		t.Errorf("a node changes another: %v %s", err, out)
	}
}

var rssLine = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

func rssMiB(t *testing.T, h *host) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pidOf(t, h)))
	if err != nil {
		t.Fatal(err)
	}
	m := rssLine.FindSubmatch(data)
	if m == nil {
		t.Fatalf("no VmRSS in %s", data)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n / 1024
}

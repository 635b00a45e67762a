package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEcosystem runs the tests of test/ecosystem, a module of its own, against
// a cluster: make ecosystem builds them.
func TestEcosystem(t *testing.T) {
	dir := os.Getenv("ECOSYSTEM")
	if dir == "" {
		t.Skip("make ecosystem builds what this runs")
	}
	h := newLAN(t).newHost(t)
	h.up(t)
	home, err := filepath.Abs("../ecosystem")
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.exec("env", "-C", home, "KUBECONFIG="+filepath.Join(h.dataDir, "kubeconfig"), "HELM="+filepath.Join(dir, "helm"), "KUBECTL="+filepath.Join(binDir(t), "kubectl"),
		filepath.Join(dir, "ecosystem.test"), "-test.v")
	for line := range strings.Lines(out) {
		if !strings.Contains(line, `{"level"`) {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if err != nil {
		t.Error(err)
	}
}

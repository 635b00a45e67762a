// Package ecosystem drives a knarr cluster with what its users bring: the Helm
// 4 program and managers of controller-runtime. It is a module of its own, so
// that none of it is linked into the product; the cluster is that of
// KUBECONFIG, which test/scenario starts: make ecosystem.
package ecosystem

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func needCluster(t *testing.T) {
	t.Helper()
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("needs a cluster: make ecosystem starts one")
	}
}

// program runs one command of the user.
func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// TestHelm: a chart with a custom resource definition, hooks and a subchart is
// installed, upgraded, rolled back and removed.
func TestHelm(t *testing.T) {
	needCluster(t)
	helm, kubectl := os.Getenv("HELM"), os.Getenv("KUBECTL")
	for _, dir := range []string{"HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"} {
		t.Setenv(dir, t.TempDir())
	}
	say := func(what, want string, args ...string) {
		t.Helper()
		if got := strings.TrimSpace(program(t, kubectl, args...)); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	const chart = "testdata/harbour"
	program(t, helm, "install", "one", chart, "--wait", "--timeout", "3m")
	say("value", "hello", "get", "configmap", "one-greeting", "-o", "jsonpath={.data.greeting}")
	say("subchart", "10", "get", "configmap", "one-crane", "-o", "jsonpath={.data.tons}")
	say("custom resource, with its default", "2 none", "get", "ship", "one-ship", "-o", "jsonpath={.spec.berths} {.spec.flag}")
	say("hook", "1", "get", "configmap", "one-before", "-o", "jsonpath={.data.revision}")
	say("hook that succeeded", "", "get", "pod", "one-check", "--ignore-not-found", "-o", "name")
	say("ready", "1", "get", "deployment", "one", "-o", "jsonpath={.status.readyReplicas}")

	program(t, helm, "upgrade", "one", chart, "--set", "greeting=ahoy,berths=3,crane.tons=20", "--wait", "--timeout", "3m")
	say("value after the upgrade", "ahoy", "get", "configmap", "one-greeting", "-o", "jsonpath={.data.greeting}")
	say("subchart after the upgrade", "20", "get", "configmap", "one-crane", "-o", "jsonpath={.data.tons}")
	say("custom resource after the upgrade", "3", "get", "ship", "one-ship", "-o", "jsonpath={.spec.berths}")
	say("hook after the upgrade", "2", "get", "configmap", "one-before", "-o", "jsonpath={.data.revision}")

	program(t, helm, "upgrade", "one", chart, "--set", "crane.enabled=false", "--wait", "--timeout", "3m")
	say("subchart that was switched off", "", "get", "configmap", "one-crane", "--ignore-not-found", "-o", "name")

	program(t, helm, "rollback", "one", "2", "--wait", "--timeout", "3m")
	say("value after the rollback", "ahoy", "get", "configmap", "one-greeting", "-o", "jsonpath={.data.greeting}")
	say("subchart after the rollback", "20", "get", "configmap", "one-crane", "-o", "jsonpath={.data.tons}")
	if history := program(t, helm, "history", "one"); !strings.Contains(history, "Rollback to 2") || strings.Count(history, "\n") != 5 {
		t.Errorf("history:\n%s", history)
	}

	program(t, helm, "uninstall", "one", "--wait", "--timeout", "3m")
	say("what is left", "", "get", "deployments,services,configmaps,ships", "--ignore-not-found", "-o", "name", "-l", "app.kubernetes.io/managed-by=Helm")
	say("the definition stays", "ships.harbour.example", "get", "crd", "ships.harbour.example", "-o", "jsonpath={.metadata.name}")
	program(t, kubectl, "delete", "crd", "ships.harbour.example", "--timeout=60s")
}

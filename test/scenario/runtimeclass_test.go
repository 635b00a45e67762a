package scenario

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Pods of a runtime class whose containers an executable runs, and others beside
// them; what they are after a restart of knarr.
func TestRuntimeClass(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip(err)
	}
	h := newLAN(t).newHost(t)
	up := []string{"up", "--detach", "--data-dir", h.dataDir, "--node-name", h.netns, "--images", binDir(t) + "/images",
		"--container-runtime-endpoint", "builtin", "--runtime-handler", "runc=" + runc}
	h.knarr(t, up...)
	handlers := h.mustKubectl(t, "get", "node", h.netns, "-o", "jsonpath={.status.runtimeHandlers[*].name}")
	if got := strings.Fields(handlers); len(got) != 1 || got[0] != "runc" { // the default has no name
		t.Errorf("handlers of the node: %q", handlers)
	}
	h.apply(t, classes)
	h.mustKubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=180s", "pod/ends")
	h.mustKubectl(t, "wait", "--for=jsonpath={.status.phase}=Failed", "--timeout=180s", "pod/fails")
	h.mustKubectl(t, "wait", "--for=condition=Ready", "--timeout=180s", "pod/stays", "pod/beside")
	if got := h.mustKubectl(t, "logs", "ends"); got != "hello\n" {
		t.Errorf("log: %q", got)
	}
	if got := h.mustKubectl(t, "get", "pod", "fails", "-o", "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"); got != "7" {
		t.Errorf("exit code %s, want 7", got)
	}
	if got := h.mustKubectl(t, "exec", "stays", "--", "sh", "-c", "echo inside; cat /proc/1/comm"); got != "inside\nsleep\n" {
		t.Errorf("exec: %q", got)
	}
	eventually(t, "a handler that nobody has is told of", func() (string, bool) {
		out, err := h.kubectl("describe", "pod", "strange")
		return out, err == nil && strings.Contains(out, `no runtime for "no-such-handler" is configured`)
	})

	kill(t, pidOf(t, h), syscall.SIGKILL)
	h.knarr(t, up...)
	if got := h.mustKubectl(t, "get", "pod", "stays", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); got != "0" {
		t.Errorf("%s restarts", got)
	}
	if got := h.mustKubectl(t, "exec", "stays", "--", "echo", "again"); got != "again\n" {
		t.Errorf("exec after a restart of knarr: %q", got)
	}
	h.mustKubectl(t, "delete", "pod", "--all", "--grace-period=1", "--timeout=180s")
}

const classes = `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: other}
handler: runc
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: strange}
handler: no-such-handler
---
apiVersion: v1
kind: Pod
metadata: {name: ends}
spec:
  runtimeClassName: other
  restartPolicy: Never
  containers: [{name: c, image: "registry.knarr.dev/busybox:1", command: [echo, hello]}]
---
apiVersion: v1
kind: Pod
metadata: {name: fails}
spec:
  runtimeClassName: other
  restartPolicy: Never
  containers: [{name: c, image: "registry.knarr.dev/busybox:1", command: [sh, -c, exit 7]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stays}
spec:
  runtimeClassName: other
  containers: [{name: c, image: "registry.knarr.dev/busybox:1", command: [sleep, "1000000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: beside}
spec:
  containers: [{name: c, image: "registry.knarr.dev/busybox:1", command: [sleep, "1000000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: strange}
spec:
  runtimeClassName: strange
  containers: [{name: c, image: "registry.knarr.dev/busybox:1", command: [sleep, "1000000"]}]
`

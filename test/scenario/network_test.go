package scenario

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const webManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: demo
        image: registry.knarr.dev/demo:1
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        ports: [{name: http, containerPort: 8080}]
        readinessProbe:
          httpGet: {path: /readyz, port: http}
          periodSeconds: 1
          failureThreshold: 1
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: http, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: tool}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: sh, image: "registry.knarr.dev/busybox:1", command: [sleep, "3600"]}
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: demo, image: "registry.knarr.dev/demo:1"}
`

// podsAnswering asks url n times from inside the asker pod and returns which
// pods answered.
func podsAnswering(h *host, url string, n int) (map[string]int, string) {
	out, _ := h.kubectl("exec", "asker", "--", "/demo", "get", fmt.Sprint(n), url)
	seen := map[string]int{}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Hello from pod "); ok {
			seen[name]++
		}
	}
	return seen, out
}

// TestNetwork: a pod reaches others by every name and address of a service.
func TestNetwork(t *testing.T) {
	l := newLAN(t)
	h := l.newHost(t)
	h.up(t)
	h.apply(t, fmt.Sprintf(webManifest, 3))
	h.mustKubectl(t, "rollout", "status", "deployment/web", "--timeout=180s")
	h.mustKubectl(t, "wait", "--for=condition=Ready", "pod/tool", "pod/asker", "--timeout=180s")
	clusterIP := h.mustKubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	podIP := h.mustKubectl(t, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}")
	podName := h.mustKubectl(t, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")

	for _, url := range []string{
		"http://web/", "http://web.default/", "http://web.default.svc.cluster.local/", "http://" + clusterIP + "/",
		"http://" + h.ip + ":30080/",
	} {
		eventually(t, url+" answers from all pods", func() (string, bool) {
			seen, out := podsAnswering(h, url, 30)
			return out, len(seen) == 3
		})
	}
	for _, url := range []string{"http://" + podIP + ":8080/", "http://" + strings.ReplaceAll(podIP, ".", "-") + ".default.pod.cluster.local:8080/"} {
		if seen, out := podsAnswering(h, url, 1); seen[podName] != 1 {
			t.Errorf("%s: %s", url, out)
		}
	}
	out := h.mustKubectl(t, "exec", "asker", "--", "/demo", "lookup", "headless.default.svc.cluster.local")
	for _, ip := range strings.Fields(h.mustKubectl(t, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}")) {
		if !strings.Contains(out, ip) {
			t.Errorf("the headless service does not list %s:\n%s", ip, out)
		}
	}
	if out, err := h.exec("wget", "-q", "-T", "20", "-O-", "http://"+h.ip+":30080/"); err != nil {
		t.Errorf("the node port from the node itself: %v %s", err, out)
	}
	testPortForward(t, h, podName)
	testReadiness(t, h, podName, podIP)
}

// testPortForward reaches a pod through the API server and its kubelet.
func testPortForward(t *testing.T, h *host, podName string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(h.bin, "kubectl"), "port-forward", "pod/"+podName, "18080:8080")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	eventually(t, "the pod answers through port-forward", func() (string, bool) {
		out, err := h.exec("wget", "-q", "-T", "20", "-O-", "http://127.0.0.1:18080/")
		return out, err == nil && strings.Contains(out, "Hello from pod "+podName)
	})
}

// testReadiness: a pod that is no longer ready is out of its service.
func testReadiness(t *testing.T, h *host, podName, podIP string) {
	t.Helper()
	h.mustKubectl(t, "exec", "tool", "--", "wget", "-q", "-O-", "--post-data=", "http://"+podIP+":8080/readyz?ready=false")
	began := time.Now()
	eventually(t, "the pod leaves the service", func() (string, bool) {
		out, _ := h.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o",
			`jsonpath={range .items[*].endpoints[*]}{.targetRef.name}={.conditions.ready} {end}`)
		return out, strings.Contains(out, podName+"=false") || !strings.Contains(out, podName)
	})
	t.Logf("readiness took effect after %s; its probe runs once a second", time.Since(began))
	eventually(t, "no answer from the unready pod", func() (string, bool) {
		seen, out := podsAnswering(h, "http://web/", 30)
		return out, seen[podName] == 0 && len(seen) == 2
	})
}

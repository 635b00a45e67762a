package kubelet_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet"
	"knarr.dev/knarr/internal/runtime/containerd"
	"knarr.dev/knarr/internal/runtime/images"
)

const busybox = "registry.knarr.dev/busybox:1"

type testLog struct{ t *testing.T }

func (w testLog) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// realNode is a kubelet on a containerd of its own.
type realNode struct {
	t    *testing.T
	api  *api
	cfg  kubelet.Config
	stop func()
}

func newRealNode(t *testing.T) *realNode {
	t.Helper()
	if os.Getuid() != 0 || testing.Short() {
		t.Skip("runs containers: needs root, and not -short")
	}
	dir, err := os.MkdirTemp("", "knarr-k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // also of a test that failed half way
		if err := errors.Join(kubelet.Clean(filepath.Join(dir, "kubelet"), filepath.Base(dir)), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	rt, err := containerd.New(containerd.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), CNIConfDir: filepath.Join(dir, "net.d"), CNIBinDir: filepath.Join(dir, "bin"),
		SandboxImage: "registry.knarr.dev/pause:1", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rt.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := rt.Clean(context.Background()); err != nil {
			t.Errorf("Clean: %v", err)
		}
	})
	select {
	case <-rt.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("containerd: %v", err)
	}
	archives := filepath.Join(dir, "images")
	build := exec.Command("go", "run", "-tags", "grpcnotrace", "knarr.dev/knarr/images/build", "-out", archives)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("images: %v: %s", err, out)
	}
	if _, err := images.ImportDir(ctx, strings.TrimPrefix(rt.Endpoint(), "unix://"), archives); err != nil {
		t.Fatal(err)
	}
	a := newAPI()
	n := &realNode{t: t, api: a, cfg: kubelet.Config{
		NodeName: "node", NodeIP: "127.0.0.1", Client: a, View: a.view, Objects: objects{a}, Events: a,
		RuntimeEndpoint: rt.Endpoint(), RootDir: filepath.Join(dir, "kubelet"), PodLogDir: filepath.Join(dir, "kubelet", "logs"),
		CgroupRoot: filepath.Base(dir), Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
	}}
	return n
}

func (n *realNode) start() {
	n.t.Helper()
	k, err := kubelet.New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	stopped := false
	n.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				n.t.Errorf("Run: %v", err)
			}
		}
	}
	n.t.Cleanup(n.stop)
}

func pod(name string, containers ...corev1.Container) *corev1.Pod {
	grace := int64(2)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			NodeName: "node", HostNetwork: true, TerminationGracePeriodSeconds: &grace, ServiceAccountName: "default", Containers: containers,
		},
	}
}

func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: busybox, Command: []string{"/bin/sh", "-c", script}}
}

func (n *realNode) await(what string, ok func() bool) {
	n.t.Helper()
	if !n.api.until(ok) {
		for _, name := range []string{"web", "job"} {
			if p := n.api.pod(name); p != nil {
				n.t.Logf("%s: %+v", name, p.Status)
			}
		}
		n.t.Fatalf("not within %s: %s\n%s", patience, what, n.api.told())
	}
}

func ready(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func TestRealPod(t *testing.T) {
	n := newRealNode(t)
	ask, ca := secure(t, &n.cfg)
	n.start()
	n.api.add(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "words"}, Data: map[string]string{"a": "one"}})
	n.api.add(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key"}, Data: map[string][]byte{"k": []byte("hidden")}})
	web := pod("web", shell("main", `cat /init/done /words/a /key/k /token/t; echo " $GREETING $(hostname)"; trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done`))
	web.Spec.InitContainers = []corev1.Container{shell("first", "echo -n init- > /init/done")}
	web.Spec.Volumes = []corev1.Volume{
		{Name: "init", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "words", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "words"}}}},
		{Name: "key", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t"}}}}}},
	}
	web.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "init", MountPath: "/init"}}
	web.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "init", MountPath: "/init"}, {Name: "words", MountPath: "/words"}, {Name: "key", MountPath: "/key"}, {Name: "init", MountPath: "/sub", SubPath: "a/b"}, {Name: "token", MountPath: "/token"}}
	web.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WHO", Value: "you"}, {Name: "GREETING", Value: "hello-$(WHO)"}}
	began := time.Now()
	n.api.add(kinds.Pod, web)
	n.await("web is ready", func() bool { return ready(n.api.pod("web")) })
	t.Logf("ready after %s", time.Since(began))
	p := n.api.pod("web")
	id := p.Status.ContainerStatuses[0].ContainerID
	log := filepath.Join(n.cfg.PodLogDir, "default_web_"+string(p.UID), "main", "0.log")
	n.await("its output", func() bool {
		data, _ := os.ReadFile(log)
		return bytes.Contains(data, []byte("init-onehiddentoken-1-of-default hello-you"))
	})

	server := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, ca)
	if code, body := ask(server, "", "/containerLogs/default/web/main?tailLines=1"); code != 200 || !strings.HasPrefix(body, "init-onehiddentoken-1-of-default hello-you") {
		t.Errorf("logs: %d %q", code, body)
	}
	if code, body := ask(server, "", "/stats/summary"); code != 200 || !strings.Contains(body, "workingSetBytes") || !strings.Contains(body, `"name":"main"`) {
		t.Errorf("stats: %d %q", code, body)
	}
	n.measured(func(path string) (int, string) { return ask(server, "", path) }, p)
	// It is no upgrade, so that the runtime's server refuses: the way is open.
	if code, body := ask(server, "", "/exec/default/web/main?output=1&command=ls"); code != http.StatusBadRequest && code != http.StatusForbidden {
		t.Errorf("exec: %d %q", code, body)
	}

	// A kubelet that starts anew restarts nothing.
	n.stop()
	n.cfg.Listen, n.cfg.TLS = nil, nil
	n.start()
	n.api.add(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "words"}, Data: map[string]string{"a": "two"}})
	job := pod("job", shell("main", "echo work; exit 3"))
	job.Spec.RestartPolicy = corev1.RestartPolicyNever
	n.api.add(kinds.Pod, job)
	n.await("job has failed", func() bool { q := n.api.pod("job"); return q != nil && q.Status.Phase == corev1.PodFailed })
	if st := n.api.pod("job").Status.ContainerStatuses[0].State.Terminated; st == nil || st.ExitCode != 3 || st.Reason != "Error" {
		t.Errorf("job's container: %+v", n.api.pod("job").Status.ContainerStatuses[0].State)
	}
	if q := n.api.pod("web"); q.Status.ContainerStatuses[0].ContainerID != id || !ready(q) || q.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("web was not left alone: %+v", q.Status)
	}
	shown := filepath.Join(n.cfg.RootDir, "pods", string(p.UID), "volumes", "kubernetes.io~configmap", "words", "a")
	n.await("the new words", func() bool { data, _ := os.ReadFile(shown); return string(data) == "two" })

	for _, name := range []string{"web", "job"} {
		if _, err := n.api.Delete(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: name}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n.await("both are gone", func() bool { return n.api.pod("web") == nil && n.api.pod("job") == nil })
	n.nothingLeft()
}

// measured checks that what the kernel counts for real containers is found.
func (n *realNode) measured(ask func(path string) (int, string), p *corev1.Pod) {
	n.t.Helper()
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	labels := fmt.Sprintf("id=/%s/besteffort/pod%s/%s,image=%s,name=%s,namespace=default,pod=web}", n.cfg.CgroupRoot, p.UID, id, busybox, id)
	for path, keys := range map[string][]string{
		"/metrics/cadvisor": {"container_cpu_usage_seconds_total{container=main,cpu=total," + labels, "container_memory_working_set_bytes{container=main," + labels,
			"container_memory_rss{container=main," + labels, "container_start_time_seconds{container=main," + labels, "container_threads{container=main," + labels,
			"container_cpu_usage_seconds_total{cpu=total,id=/}", "container_memory_working_set_bytes{id=/}"},
		"/metrics/resource": {"container_cpu_usage_seconds_total{container=main,namespace=default,pod=web}", "container_memory_working_set_bytes{container=main,namespace=default,pod=web}",
			"pod_cpu_usage_seconds_total{namespace=default,pod=web}", "pod_memory_working_set_bytes{namespace=default,pod=web}", "node_cpu_usage_seconds_total", "node_memory_working_set_bytes"},
		"/metrics": {"kubelet_pod_start_sli_duration_seconds", "kubelet_started_containers_total{container_type=init_container}"},
	} {
		code, text := ask(path)
		if code != http.StatusOK {
			n.t.Fatalf("%s: %d %s", path, code, text)
		}
		got := figures(n.t, text)
		for _, key := range keys {
			if got[key] <= 0 {
				n.t.Errorf("%s shows no %s", path, key)
			}
		}
		if got["resource_scrape_error"]+got["container_scrape_error"] != 0 {
			n.t.Errorf("%s could not be read", path)
		}
	}
}

func TestRealLiveness(t *testing.T) {
	n := newRealNode(t)
	n.start()
	web := pod("web", shell("main", "touch /tmp/ok; sleep 1000"))
	web.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5,
		ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "false"}}}}
	n.api.add(kinds.Pod, web)
	n.await("a restart", func() bool {
		p := n.api.pod("web")
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount >= 1
	})
	if !n.api.said("Unhealthy") || !n.api.said("Killing") {
		t.Errorf("events:\n%s", n.api.told())
	}
	if _, err := n.api.Delete(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: "web"}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.await("it is gone", func() bool { return n.api.pod("web") == nil })
	n.nothingLeft()
}

// nothingLeft compares with an empty machine: mounts, cgroups, directories.
func (n *realNode) nothingLeft() {
	n.t.Helper()
	n.stop()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.t.Fatal(err)
	}
	if strings.Contains(string(mounts), n.cfg.RootDir) {
		n.t.Errorf("mounts are left:\n%s", mounts)
	}
	for _, dir := range []string{filepath.Join(n.cfg.RootDir, "pods"), n.cfg.PodLogDir} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			n.t.Errorf("%s: %v", dir, left)
		}
	}
	left, _ := filepath.Glob("/sys/fs/cgroup/*/" + n.cfg.CgroupRoot + "/*/pod*")
	more, _ := filepath.Glob("/sys/fs/cgroup/*/" + n.cfg.CgroupRoot)
	if len(left)+len(more) > 0 {
		n.t.Errorf("cgroups are left: %s", fmt.Sprint(left, more))
	}
}

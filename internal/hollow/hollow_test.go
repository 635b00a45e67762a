package hollow_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/hollow"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/server"
	"knarr.dev/knarr/internal/view"
)

// grace is more than the ten seconds between two heartbeats.
const grace = 12 * time.Second

// run a control plane for a test, and end it with the test's function.
func run(t *testing.T, use func(ctx context.Context, p *server.Plane)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	err := server.RunPlane(t.Context(), server.PlaneConfig{Dir: dir, NodeGrace: grace}, func(ctx context.Context, p *server.Plane) error {
		use(ctx, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func clusterOf(p *server.Plane) hollow.Cluster {
	return hollow.Cluster{View: p.View, As: p.As, Objects: p.Objects}
}

type cluster struct {
	t     *testing.T
	ctx   context.Context
	view  *view.View
	admin client.Client
}

func (c *cluster) create(k *kinds.Kind, namespace string, o runtime.Object) {
	c.t.Helper()
	if _, err := c.admin.Create(c.ctx, kinds.Ref{Kind: k, Namespace: namespace}, o); err != nil {
		c.t.Error(err)
	}
}

// await a condition on the view.
func (c *cluster) await(what string, done func(*view.Snapshot) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Minute)
	defer cancel()
	for {
		moved := c.view.Moved()
		if done(c.view.Snapshot()) {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			c.t.Errorf("not in time: %s", what)
			return
		}
	}
}

func pods(s *view.Snapshot, ok func(*corev1.Pod) bool) (n int) {
	for p := range view.List[*corev1.Pod](s, kinds.Pod, "default") {
		if ok(p) {
			n++
		}
	}
	return n
}

func runs(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready
}

func deployment(replicas int32) *appsv1.Deployment {
	labels, second := map[string]string{"app": "a"}, int64(1)
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &second}},
			Containers: []corev1.Container{{Name: "c", Image: "example.com/a:1",
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}}}}}}}
}

func once(name string, command ...string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever,
		InitContainers: []corev1.Container{{Name: "i", Image: "example.com/i:1"}}, Containers: []corev1.Container{{Name: "c", Image: "example.com/a:1", Command: command}}}}
}

// TestCluster: five nodes and fifty pods with the agent's own code. The pods
// run, end, are started again, deleted, and evicted from a node that is lost.
func TestCluster(t *testing.T) {
	t.Parallel() // it mostly waits for a node to be given up
	run(t, func(ctx context.Context, p *server.Plane) {
		f, err := hollow.New(hollow.Config{Cluster: clusterOf(p), Nodes: 5, Start: time.Millisecond, Stop: time.Millisecond, Run: 10 * time.Millisecond})
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		live(ctx, t, p, f)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Stat("/hollow"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the nodes have left something on this machine: %v", err)
	}
}

func live(ctx context.Context, t *testing.T, p *server.Plane, f *hollow.Fleet) {
	c := &cluster{t: t, ctx: ctx, view: p.View, admin: p.As("admin", user.SystemPrivilegedGroup)}
	c.await("five nodes are ready", func(*view.Snapshot) bool {
		select {
		case <-f.Ready():
			return true
		default:
			return false
		}
	})
	c.await("the service account is there", func(s *view.Snapshot) bool {
		return view.Get[*corev1.ServiceAccount](s, kinds.ServiceAccount, "default", "default") != nil
	})
	c.create(kinds.Deployment, "default", deployment(50))
	c.create(kinds.Pod, "default", once("ends"))
	c.create(kinds.Pod, "default", once("fails", "false"))
	c.await("fifty pods run", func(s *view.Snapshot) bool { return pods(s, runs) == 50 })
	phase := func(name string) func(*view.Snapshot) bool {
		want := map[string]corev1.PodPhase{"ends": corev1.PodSucceeded, "fails": corev1.PodFailed}[name]
		return func(s *view.Snapshot) bool {
			p := view.Get[*corev1.Pod](s, kinds.Pod, "default", name)
			return p != nil && p.Status.Phase == want
		}
	}
	c.await("one pod has ended", phase("ends"))
	c.await("one pod has failed", phase("fails"))
	addresses(t, p.View.Snapshot())

	var victim *corev1.Pod
	for pod := range view.List[*corev1.Pod](p.View.Snapshot(), kinds.Pod, "default") {
		if runs(pod) {
			victim = pod
		}
	}
	if victim == nil {
		return
	}
	for i := range 5 {
		if hollow.Name(i) == victim.Spec.NodeName && f.Runtime(i).Kill(string(victim.UID), "c", 3) != 1 {
			t.Error("the runtime does not have a pod that runs")
		}
	}
	c.await("a container that ended is started again", func(s *view.Snapshot) bool {
		p := view.Get[*corev1.Pod](s, kinds.Pod, "default", victim.Name)
		return p != nil && runs(p) && p.Status.ContainerStatuses[0].RestartCount == 1 && p.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode == 3
	})
	f.Lose(0)
	away := func(p *corev1.Pod) bool { return runs(p) && p.Spec.NodeName != hollow.Name(0) }
	c.await("the pods of a lost node run elsewhere", func(s *view.Snapshot) bool { return pods(s, away) == 50 })
	if back, err := f.Return(ctx, 0); !back || err != nil {
		t.Errorf("the node does not come back: %v", err)
	}
	c.await("what ran there is gone", func(s *view.Snapshot) bool {
		return pods(s, func(p *corev1.Pod) bool { return p.Spec.NodeName == hollow.Name(0) && p.DeletionTimestamp != nil }) == 0
	})
	if _, err := c.admin.Delete(ctx, kinds.Ref{Kind: kinds.Deployment, Namespace: "default", Name: "a"}, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	c.await("the deployment's pods are gone", func(s *view.Snapshot) bool {
		return pods(s, func(p *corev1.Pod) bool { return p.Labels["app"] == "a" }) == 0
	})
}

// addresses of running pods are their own and their node's.
func addresses(t *testing.T, s *view.Snapshot) {
	seen := map[string]string{}
	for p := range view.List[*corev1.Pod](s, kinds.Pod, "default") {
		if !runs(p) {
			continue
		}
		if other := seen[p.Status.PodIP]; other != "" || !strings.HasPrefix(p.Status.PodIP, "10.") {
			t.Errorf("%s and %s have the address %q", p.Name, other, p.Status.PodIP)
		}
		seen[p.Status.PodIP] = p.Name
	}
}

// TestSim runs a whole simulation and reads its figures.
func TestSim(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	run(t, func(ctx context.Context, p *server.Plane) {
		s, err := hollow.NewSim(hollow.SimConfig{Fleet: hollow.Config{Cluster: clusterOf(p), Nodes: 5}, Pods: 50, Size: 30, Churn: 20, Duration: 2 * time.Second, Seed: 1,
			Until: 2 * time.Minute, Idle: 10 * time.Millisecond, Revision: p.Revision, Out: &out})
		if err == nil {
			err = s.Run(ctx)
		}
		if err != nil {
			t.Error(err)
		}
		if n := pods(p.View.Snapshot(), func(*corev1.Pod) bool { return true }); n != 0 {
			t.Errorf("%d pods are left", n)
		}
	})
	for _, name := range []string{"nodes.ready", "nodes.agent", "pods.bound", "pods.running", "writes", "create.running.p99", "pods.agent", "churn.actions", "idle.cpu", "namespaces.deleted"} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` +-?[0-9]`).MatchString(out.String()) {
			t.Errorf("there is no figure %s", name)
		}
	}
	if !regexp.MustCompile(`(?m)^churn.failed +0 `).MatchString(out.String()) {
		t.Error("the churn did not go as it should")
	}
	t.Log(out.String())
}

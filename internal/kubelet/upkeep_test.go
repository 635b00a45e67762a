package kubelet_test

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/cri"
)

// somebodysImage is in a registry of this process.
func somebodysImage(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://")+"/x:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

// TestRealUpkeep: what a node does as time passes. Logs are rotated, dead
// containers and unused images go, tokens are replaced.
func TestRealUpkeep(t *testing.T) {
	t.Parallel() // it mostly waits
	n := newRealNode(t)
	var ahead atomic.Int64
	n.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	n.cfg.LogMaxBytes, n.cfg.LogMaxFiles = 4096, 2
	n.cfg.ImageGCHigh, n.cfg.ImageGCLow = 1e-9, 1e-9 // any disk is too full
	n.start()
	client, err := cri.New(n.cfg.RuntimeEndpoint, n.cfg.NodeName, cri.NewOperations())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })

	image := somebodysImage(t)
	once := pod("once", corev1.Container{Name: "c", Image: image, Command: []string{"/nothing"}})
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	crash := pod("crash", shell("main", "echo down; exit 1"))
	web := pod("web", shell("main", "while :; do echo 0123456789012345678901234567890123456789; sleep 0.02; done"))
	web.Spec.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t"}}}}}}}
	for _, p := range []*corev1.Pod{once, crash, web} {
		n.api.add(kinds.Pod, p)
	}
	n.await("the foreign image's pod is over", func() bool { return n.api.pod("once").Status.Phase == corev1.PodFailed })
	present := func() bool {
		res, err := client.Image.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
		return err == nil && res.Image != nil
	}
	if !present() {
		t.Error("the image is not there")
	}
	if _, err := n.api.Delete(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: "once"}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	// Hours pass: each step lets a crashed container start again.
	token := filepath.Join(n.cfg.RootDir, "pods", string(n.api.pod("web").UID), "volumes", "kubernetes.io~projected", "token", "t")
	before, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	n.await("an hour passes, and the unused image goes", func() bool {
		ahead.Add(int64(6 * time.Second))
		return ahead.Load() > int64(time.Hour) && !present()
	})
	touched := n.api.pod("web").DeepCopy()
	touched.Labels = map[string]string{"a": "b"} // any news of the pod
	n.api.add(kinds.Pod, touched)
	n.await("a new token", func() bool {
		after, err := os.ReadFile(token)
		return err == nil && len(after) > 0 && string(after) != string(before)
	})
	res, err := client.Image.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil || !slices.ContainsFunc(res.Images, func(im *runtimeapi.Image) bool { return slices.Contains(im.RepoTags, "registry.knarr.dev/demo:1") }) {
		t.Errorf("an image that no registry could give back is gone: %v %v", res, err)
	}

	n.await("a crashing container was started often", func() bool {
		ahead.Add(int64(30 * time.Second))
		return n.api.pod("crash").Status.ContainerStatuses[0].RestartCount > 4
	})
	uid, moved := string(n.api.pod("crash").UID), time.Time{}
	n.await("two of the crashed containers are kept", func() bool {
		if time.Since(moved) > 11*time.Second { // it is looked every ten whether a minute has passed
			moved = time.Now()
			ahead.Add(int64(time.Minute))
		}
		p, err := client.Pod(t.Context(), uid)
		return err == nil && len(p.Containers) == 2
	})
	if files, _ := filepath.Glob(filepath.Join(n.cfg.PodLogDir, "default_crash_"+uid, "main", "*.log")); len(files) > 3 {
		t.Errorf("logs of containers that are gone: %v", files)
	}
	logs := filepath.Join(n.cfg.PodLogDir, "default_web_"+string(n.api.pod("web").UID), "main")
	n.await("the log was rotated often, and one old file is kept", func() bool {
		old, _ := filepath.Glob(filepath.Join(logs, "0.log.*"))
		now, err := os.Stat(filepath.Join(logs, "0.log"))
		return len(old) == 1 && err == nil && now.Size() > 0 && now.Size() < 64<<10
	})
	for _, name := range []string{"web", "crash"} {
		if _, err := n.api.Delete(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: name}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n.await("all are gone", func() bool { return n.api.pod("web") == nil && n.api.pod("crash") == nil })
	n.nothingLeft()
}

// TestRealPressure: a node that is short of memory ends one pod after the
// other, who took more than he asked for first, and takes no modest ones.
func TestRealPressure(t *testing.T) {
	t.Parallel()
	n := newRealNode(t)
	n.cfg.EvictMemory = 1 << 60 // more than any machine has
	n.start()
	asks := func(name, memory string) *corev1.Pod {
		p := pod(name, shell("main", "exec sleep 1000"))
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
		return p
	}
	n.api.add(kinds.Pod, asks("job", "1Gi"))
	n.api.add(kinds.Pod, asks("web", "1k"))
	n.api.add(kinds.Pod, pod("modest", shell("main", "exec sleep 1000")))
	evicted := func(name string) bool {
		p := n.api.pod(name)
		return p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted"
	}
	n.await("the modest pod is turned away", func() bool { return evicted("modest") })
	if m := n.api.pod("modest").Status.Message; m != "Pod was rejected: The node had condition: [MemoryPressure]. " {
		t.Error(m)
	}
	n.await("web is evicted", func() bool { return evicted("web") })
	if m := n.api.pod("web").Status.Message; !strings.HasPrefix(m, "The node was low on resource: memory. Threshold quantity: 1Ei, available: ") || !strings.Contains(m, "Container main was using") {
		t.Error(m)
	}
	if evicted("job") {
		t.Error("both pods were evicted at once")
	}
	n.await("job is evicted", func() bool { return evicted("job") })
	node, err := n.api.Get(t.Context(), kinds.Ref{Kind: kinds.Node, Name: "node"})
	if err != nil || !slices.ContainsFunc(node.(*corev1.Node).Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeMemoryPressure && c.Status == corev1.ConditionTrue
	}) {
		t.Errorf("no memory pressure is told: %v", err)
	}
	for _, name := range []string{"web", "job", "modest"} {
		if _, err := n.api.Delete(t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: name}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n.await("all are gone", func() bool { return n.api.pod("web") == nil && n.api.pod("job") == nil && n.api.pod("modest") == nil })
	n.nothingLeft()
}

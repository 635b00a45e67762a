package kubelet_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	drahealthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet"
	"knarr.dev/knarr/internal/kubelet/dra/dratest"
)

const gpus = "gpu.example.com"

// deviceNode is a kubelet on a runtime of paper, for pods with devices.
type deviceNode struct {
	*api
	t       *testing.T
	runtime *paperRuntime
	cfg     kubelet.Config
	stop    func()
}

func newDeviceNode(t *testing.T) *deviceNode {
	t.Helper()
	n := &deviceNode{api: newAPI(), t: t}
	var endpoint string
	n.runtime, endpoint = newPaperRuntime(t)
	dir := t.TempDir()
	n.cfg = kubelet.Config{NodeName: "node", NodeIP: "127.0.0.1", Client: n.api, View: n.view, Objects: objects{n.api}, Events: n.api,
		RuntimeEndpoint: endpoint, RootDir: filepath.Join(dir, "kubelet"), PodLogDir: filepath.Join(dir, "logs"), Below: kubelet.Below{NoCgroups: true}}
	n.start()
	return n
}

func (n *deviceNode) start() {
	n.t.Helper()
	k, err := kubelet.New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
		n.stop = func() {}
	}
	n.t.Cleanup(func() { n.stop() })
}

func (n *deviceNode) await(what string, ok func() bool) {
	n.t.Helper()
	if !n.until(ok) {
		n.t.Fatalf("not within %s: %s\n%s", patience, what, n.told())
	}
}

// claimed is a pod on claims, which are allocated devices of a driver and
// reserved for it. Its init container has request a of the first one, its main
// container all of all.
func (n *deviceNode) claimed(name string, claims ...string) *corev1.Pod {
	p := pod(name, corev1.Container{Name: "main", Image: busybox})
	p.UID = types.UID(name)
	p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: busybox}}
	p.Spec.InitContainers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "c-" + claims[0], Request: "a"}}
	for _, c := range claims {
		n.reserve(c, p)
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "c-" + c, ResourceClaimName: ptr.To(c)})
		p.Spec.Containers[0].Resources.Claims = append(p.Spec.Containers[0].Resources.Claims, corev1.ResourceClaim{Name: "c-" + c})
	}
	return p
}

// reserve a claim for one more pod.
func (n *deviceNode) reserve(name string, p *corev1.Pod) {
	rc := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if o, err := n.Get(n.t.Context(), kinds.RefTo(kinds.ResourceClaim, rc)); err == nil {
		rc = o.(*resourcev1.ResourceClaim).DeepCopy()
	}
	rc.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "a", Driver: gpus, Pool: "pool", Device: "a"}, {Request: "b", Driver: gpus, Pool: "pool", Device: "b"}}}}
	rc.Status.ReservedFor = append(rc.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
	n.add(kinds.ResourceClaim, rc)
}

func (n *deviceNode) running(name string) func() bool {
	return func() bool { n.runtime.end("first", 0, ""); return ready(n.pod(name)) }
}

func (n *deviceNode) remove(name string, grace *int64) {
	n.t.Helper()
	if _, err := n.Delete(n.t.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: name}, metav1.DeleteOptions{GracePeriodSeconds: grace}); err != nil {
		n.t.Fatal(err)
	}
}

// saidThat an event has this reason and text.
func (n *deviceNode) saidThat(reason, text string) func() bool {
	return func() bool {
		return slices.ContainsFunc(strings.Split(n.told(), "\n"), func(l string) bool { return strings.Contains(l, " "+reason+" ") && strings.Contains(l, text) })
	}
}

const prepares, unprepares = "NodePrepareResources", "NodeUnprepareResources"

func TestDevices(t *testing.T) {
	n := newDeviceNode(t)
	d := dratest.New(n.cfg.RootDir, gpus)
	d.Start(t)
	n.add(kinds.Pod, n.claimed("web", "one", "two"))
	n.await("web runs", n.running("web"))
	if got, want := n.runtime.devices("first"), []string{gpus + "/class=one-a"}; !slices.Equal(got, want) {
		t.Errorf("the init container has %q, want %q", got, want)
	}
	want := []string{gpus + "/class=one-a", gpus + "/class=one-b", gpus + "/class=two-a", gpus + "/class=two-b"}
	if got := n.runtime.devices("main"); !slices.Equal(got, want) {
		t.Errorf("the main container has %q, want %q", got, want)
	}
	if got, want := d.Calls(), []string{prepares + " default/one", prepares + " default/two"}; !slices.Equal(got, want) {
		t.Errorf("calls: %q, want %q", got, want)
	}

	// Its end is told when the driver has taken all back, not before.
	d.Answer(unprepares, dratest.Answer{Refusal: "still in use"})
	n.remove("web", nil)
	n.await("a refusal", func() bool { return d.Count(unprepares+" default/one") >= 2 })
	if p := n.pod("web"); p == nil || p.Status.Phase != corev1.PodRunning {
		t.Errorf("before it is unprepared: %+v", p)
	}
	if n.runtime.runs("main") {
		t.Error("it is unprepared before its containers have ended")
	}
	d.Answer(unprepares, dratest.Answer{})
	n.await("web is gone", func() bool { return n.pod("web") == nil })
	n.await("it is registered once", func() bool { return len(d.Status()) == 1 && d.Status()[0].PluginRegistered })
}

// A pod waits for its driver, and goes on when it comes.
func TestDeviceDriverAway(t *testing.T) {
	n := newDeviceNode(t)
	n.add(kinds.Pod, n.claimed("web", "one"))
	n.await("the reason", n.saidThat("FailedPrepareDynamicResources", "Failed to prepare dynamic resources: prepare dynamic resources: DRA driver "+gpus+" is not registered"))
	n.await("it waits", func() bool { return n.pod("web").Status.Phase == corev1.PodPending })
	if n.runtime.runs("first") {
		t.Error("it runs without its driver")
	}
	// Nothing of it was prepared, so that nothing keeps it.
	n.remove("web", nil)
	n.await("it is gone", func() bool { return n.pod("web") == nil })

	n.add(kinds.Pod, n.claimed("other", "two"))
	n.await("the reason again", func() bool { return strings.Count(n.told(), "other FailedPrepareDynamicResources") >= 2 })
	d := dratest.New(n.cfg.RootDir, gpus)
	d.Start(t)
	n.await("other runs", n.running("other"))
}

// What a driver says is told to users, and it is asked again.
func TestDeviceDriverFails(t *testing.T) {
	n := newDeviceNode(t)
	d := dratest.New(n.cfg.RootDir, gpus)
	d.Answer(prepares, dratest.Answer{Refusal: "the device has burnt"})
	d.Start(t)
	n.add(kinds.Pod, n.claimed("web", "one"))
	n.await("the reason", n.saidThat("FailedPrepareDynamicResources", "prepare dynamic resources: NodePrepareResources failed for ResourceClaim one: the device has burnt"))
	d.Answer(prepares, dratest.Answer{})
	n.await("web runs", n.running("web"))
	if got := len(n.runtime.devices("main")); got != 2 {
		t.Errorf("it has %d devices", got)
	}
}

// A claim is not used by who has not got it.
func TestDeviceClaimOfOthers(t *testing.T) {
	n := newDeviceNode(t)
	dratest.New(n.cfg.RootDir, gpus).Start(t)
	web := n.claimed("web", "one")
	for what, change := range map[string]func(*resourcev1.ResourceClaim){
		"is not allowed to use ResourceClaim one": func(rc *resourcev1.ResourceClaim) { rc.Status.ReservedFor = nil },
		"ResourceClaim one: not allocated":        func(rc *resourcev1.ResourceClaim) { rc.Status.Allocation = nil },
		"ResourceClaim one: DRAOptionalNodeOperations feature gate is disabled on kubelet": func(rc *resourcev1.ResourceClaim) {
			rc.Status.Allocation.Devices.Results[0].SkipNodeOperations = []resourcev1.SkipNodeOperation{resourcev1.SkipNodeOperationAll}
		},
	} {
		n.reserve("one", web)
		o, err := n.Get(t.Context(), kinds.Ref{Kind: kinds.ResourceClaim, Namespace: "default", Name: "one"})
		if err != nil {
			t.Fatal(err)
		}
		rc := o.(*resourcev1.ResourceClaim).DeepCopy()
		change(rc)
		n.add(kinds.ResourceClaim, rc)
		if n.pod("web") == nil {
			n.add(kinds.Pod, web)
		}
		n.await(what, n.saidThat("FailedPrepareDynamicResources", what))
	}
	n.reserve("one", web)
	n.await("web runs", n.running("web"))
}

// A kubelet that starts anew knows what is prepared.
func TestDevicesAcrossRestart(t *testing.T) {
	n := newDeviceNode(t)
	d := dratest.New(n.cfg.RootDir, gpus)
	d.Start(t)
	n.runtime.refusing("CreateContainer", context.DeadlineExceeded)
	n.add(kinds.Pod, n.claimed("web", "one"))
	n.await("a container is not made", func() bool { return n.said("Failed") })
	n.stop()
	n.runtime.refusing("CreateContainer", nil)
	d.Stop() // nor is the driver needed for what it has prepared
	n.start()
	n.await("web runs", n.running("web"))
	if got := n.runtime.devices("main"); len(got) != 2 {
		t.Errorf("it has %q", got)
	}
	if got := d.Count(prepares + " default/one"); got != 1 {
		t.Errorf("prepared %d times", got)
	}
}

// Pods that share a claim have it prepared once, and unprepared with the last.
func TestDevicesShared(t *testing.T) {
	n := newDeviceNode(t)
	d := dratest.New(n.cfg.RootDir, gpus)
	wait := make(chan struct{})
	d.Answer(prepares, dratest.Answer{Wait: wait})
	d.Start(t)
	a, b := n.claimed("a", "one"), n.claimed("b", "one")
	n.add(kinds.Pod, a)
	n.add(kinds.Pod, b)
	n.await("the driver is asked", func() bool { return d.Count(prepares+" default/one") == 1 })
	if n.runtime.runs("first") {
		t.Error("a pod does not wait for a slow driver")
	}
	close(wait)
	n.await("both run", func() bool { return n.running("a")() && n.running("b")() })
	n.remove("a", nil)
	n.await("a is gone", func() bool { return n.pod("a") == nil })
	if got := d.Calls(); len(got) != 1 {
		t.Errorf("calls: %q", got)
	}
	n.remove("b", nil)
	n.await("b is gone", func() bool { return n.pod("b") == nil })
	if got, want := d.Calls(), []string{prepares + " default/one", unprepares + " default/one"}; !slices.Equal(got, want) {
		t.Errorf("calls: %q, want %q", got, want)
	}
}

// A pod that is deleted does not wait for a driver that does not answer.
func TestDevicesOfDeletedPod(t *testing.T) {
	n := newDeviceNode(t)
	d := dratest.New(n.cfg.RootDir, gpus)
	never := make(chan struct{})
	d.Answer(prepares, dratest.Answer{Wait: never})
	d.Start(t)
	began := time.Now()
	for i, name := range []string{"deleted", "forced"} {
		n.add(kinds.Pod, n.claimed(name, name))
		n.await("the driver is asked", func() bool { return d.Count(prepares+" default/"+name) == 1 })
		n.remove(name, []*int64{nil, ptr.To(int64(0))}[i])
		n.await("what it may have done is taken back", func() bool { return d.Count(unprepares+" default/"+name) == 1 })
		n.await("it is gone", func() bool { return n.pod(name) == nil })
	}
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("it took %s", took)
	}
}

// What was prepared for a pod that vanished while no kubelet ran is taken back,
// whether the runtime still knows it or not.
func TestDevicesOfForgottenPods(t *testing.T) {
	n := newDeviceNode(t)
	d := dratest.New(n.cfg.RootDir, gpus)
	d.Start(t)
	n.add(kinds.Pod, n.claimed("known", "one"))
	n.add(kinds.Pod, n.claimed("unknown", "two"))
	n.await("both run", func() bool { return n.running("known")() && n.running("unknown")() })
	n.stop()
	n.remove("known", ptr.To(int64(0)))
	n.remove("unknown", ptr.To(int64(0)))
	n.runtime.forget("unknown")
	n.start()
	n.await("both are unprepared", func() bool {
		return d.Count(unprepares+" default/one") == 1 && d.Count(unprepares+" default/two") == 1
	})
	n.stop()
	n.start() // and that is remembered
	n.add(kinds.Pod, n.claimed("next", "three"))
	n.await("next runs", n.running("next"))
	if got := d.Count(unprepares + " default/one"); got != 1 {
		t.Errorf("unprepared %d times", got)
	}
}

// What a driver says of its devices is in the status of who has them.
func TestDeviceHealth(t *testing.T) {
	n := newDeviceNode(t)
	d := dratest.New(n.cfg.RootDir, gpus)
	d.Services = append(d.Services, "v1.DRAResourceHealth")
	d.Start(t)
	n.add(kinds.Pod, n.claimed("web", "one"))
	n.await("web runs", n.running("web"))
	is := func(want string) func() bool {
		return func() bool {
			var got []string
			for _, s := range n.pod("web").Status.ContainerStatuses[0].AllocatedResourcesStatus {
				for _, r := range s.Resources {
					got = append(got, strings.TrimSpace(string(s.Name)+" "+string(r.ResourceID)+" "+string(r.Health)+" "+ptr.Deref(r.Message, "")))
				}
			}
			return strings.Join(got, "\n") == want
		}
	}
	id := "claim:c-one " + gpus + "/class=one-"
	n.await("nothing is known", is(id+"a Unknown\n"+id+"b Unknown"))
	device := func(name string, h drahealthv1.HealthStatus, message string) *drahealthv1.DeviceHealth {
		return &drahealthv1.DeviceHealth{Device: &drahealthv1.DeviceIdentifier{PoolName: "pool", DeviceName: name}, Health: h, Message: message, HealthCheckTimeoutSeconds: 3600}
	}
	d.Health(device("a", drahealthv1.HealthStatus_HEALTHY, ""), device("b", drahealthv1.HealthStatus_UNHEALTHY, "too hot"))
	n.await("one is ill", is(id+"a Healthy\n"+id+"b Unhealthy too hot"))
	d.Health(device("b", drahealthv1.HealthStatus_HEALTHY, ""))
	n.await("both are well", is(id+"a Healthy\n"+id+"b Healthy"))
	d.Stop()
	n.await("nothing is known without the driver", is(id+"a Unknown\n"+id+"b Unknown"))
}

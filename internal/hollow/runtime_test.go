package hollow

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cri"
)

// paperPod starts a pod of one container and returns their IDs.
func paperPod(t *testing.T, r *Runtime, uid string, command ...string) (box, id string) {
	t.Helper()
	labels := map[string]string{cri.LabelPodUID: uid, cri.LabelNode: "n"}
	b, err := r.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: uid, Namespace: "default", Uid: uid}, Labels: labels}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: b.PodSandboxId, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "i"}, Labels: labels, Command: command}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return b.PodSandboxId, c.ContainerId
}

// TestRuntimeTells of every end, and of nothing else, when it happens.
func TestRuntimeTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRuntime(RuntimeConfig{PodCIDR: func() netip.Prefix { return netip.MustParsePrefix("10.1.0.0/24") },
			Ends: func(_ *runtimeapi.PodSandboxMetadata, c *runtimeapi.ContainerConfig) (End, bool) {
				return commanded(c.Command)
			}})
		ctx, cancel := context.WithCancel(t.Context())
		type end struct {
			uid string
			at  time.Duration
		}
		began := time.Now()
		var got []end
		ended := make(chan error, 1)
		go func() {
			ended <- cri.Direct(r.Services(), "n", cri.NewOperations()).Events(ctx, func(ev *runtimeapi.ContainerEventResponse) {
				if ev.ContainerEventType != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
					t.Errorf("told of %s", ev.ContainerEventType)
				}
				got = append(got, end{ev.PodSandboxStatus.Metadata.Uid, time.Since(began)})
			})
		}()
		synctest.Wait()
		_, slept := paperPod(t, r, "sleeps", "sleep", "7")
		paperPod(t, r, "killed")
		box, _ := paperPod(t, r, "stopped")
		<-time.After(time.Second) // of the bubble's clock
		if n := r.Kill("killed", "c", 2); n != 1 {
			t.Errorf("killed %d", n)
		}
		if _, err := r.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: box}); err != nil {
			t.Error(err)
		}
		<-time.After(time.Minute)
		want := []end{{"killed", time.Second}, {"stopped", time.Second}, {"sleeps", 7 * time.Second}}
		if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
			t.Errorf("told %v, want %v", got, want)
		}
		st, err := r.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: slept})
		if err != nil || st.Status.Reason != "Completed" || st.Status.ExitCode != 0 {
			t.Errorf("it ended as %v, %v", st, err)
		}
		cancel()
		if err := <-ended; status.Code(err) != codes.Canceled {
			t.Errorf("listening ended with %v", err)
		}
	})
}

// TestRuntimeForgets: what is removed leaves nothing, and addresses are given
// again only when none is left.
func TestRuntimeForgets(t *testing.T) {
	cidr := netip.Prefix{}
	r := NewRuntime(RuntimeConfig{PodCIDR: func() netip.Prefix { return cidr }})
	if st, err := r.Status(t.Context(), nil); err != nil || st.Status.Conditions[1].Status {
		t.Errorf("the network is ready without addresses: %v, %v", st, err)
	}
	if _, err := r.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{}}}); status.Code(err) != codes.Unavailable {
		t.Errorf("a sandbox without an address: %v", err)
	}
	cidr = netip.MustParsePrefix("10.1.0.0/29") // .2 to .6
	seen := map[string]bool{}
	for i := range 5 {
		box, id := paperPod(t, r, string(rune('a'+i)))
		st, err := r.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: box})
		if err != nil {
			t.Fatal(err)
		}
		if ip := st.Status.Network.Ip; seen[ip] || !cidr.Contains(netip.MustParseAddr(ip)) {
			t.Errorf("address %s", ip)
		} else {
			seen[ip] = true
		}
		if i > 0 {
			continue
		}
		if _, err := r.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
		if _, err := r.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
			t.Errorf("a removed container: %v", err)
		}
	}
	full := &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Uid: "x"}}}
	if _, err := r.RunPodSandbox(t.Context(), full); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a sixth of five addresses: %v", err)
	}
	list, err := r.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.Items) != 5 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, b := range list.Items {
		if _, err := r.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: b.Id}); err != nil {
			t.Error(err)
		}
	}
	if len(r.pods)+len(r.of) != 0 {
		t.Errorf("left: %v, %v", r.pods, r.of)
	}
}

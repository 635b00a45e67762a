package cri_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	ready    = runtimeapi.PodSandboxState_SANDBOX_READY
	notReady = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
)

var sandboxCases = []testCase{
	{"sandbox/run, status, list", func(t *T) {
		began := time.Now()
		p := t.pod(func(c *podConfig) {
			c.Metadata.Attempt = 3
			c.Labels = map[string]string{"app": "web", "pod": c.Metadata.Uid, "empty": ""}
			c.Annotations = map[string]string{"note": "line 1\nline 2 \"quoted\" \\ ü", "empty": "", "io.kubernetes.cri.sandbox-id": "not yours"}
		})
		st := p.status()
		t.equal("id", st.Id, p.id)
		t.equal("state", st.State, ready)
		t.equal("metadata", st.Metadata, p.config.Metadata)
		t.equal("labels", st.Labels, p.config.Labels)
		t.equal("annotations", st.Annotations, p.config.Annotations)
		t.equal("handler", st.RuntimeHandler, t.handler)
		t.since("creation", st.CreatedAt, began, time.Now())
		if st.Network.GetIp() == "" {
			t.errorf("no address: %v", st.Network)
		}
		list := t.sandboxes(&runtimeapi.PodSandboxFilter{Id: p.id})
		if len(list) != 1 {
			t.fatalf("listed %d times", len(list))
		}
		s := list[0]
		t.equal("listed metadata", s.Metadata, st.Metadata)
		t.equal("listed state", s.State, ready)
		t.equal("listed labels", s.Labels, st.Labels)
		t.equal("listed annotations", s.Annotations, st.Annotations)
		t.equal("listed creation", s.CreatedAt, st.CreatedAt)
		t.equal("listed handler", s.RuntimeHandler, t.handler)
	}},
	{"sandbox/namespaces in the status", func(t *T) {
		for _, want := range []*runtimeapi.NamespaceOption{
			{Network: runtimeapi.NamespaceMode_POD, Pid: runtimeapi.NamespaceMode_CONTAINER},
			{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE},
		} {
			p := t.pod(func(c *podConfig) {
				c.Linux.SecurityContext.NamespaceOptions = want
				if want.Network == runtimeapi.NamespaceMode_NODE {
					c.Hostname = ""
				}
			})
			got := p.status().GetLinux().GetNamespaces().GetOptions()
			t.equal("network, PID, IPC", []any{got.GetNetwork(), got.GetPid(), got.GetIpc()}, []any{want.Network, want.Pid, want.Ipc})
		}
	}},
	{"sandbox/verbose status", func(t *T) {
		p := t.pod()
		resp, err := t.runtime.PodSandboxStatus(t.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		t.must(err)
		if len(resp.Info) > 0 {
			t.errorf("information that nobody asked for: %v", resp.Info)
		}
		resp, err = t.runtime.PodSandboxStatus(t.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
		t.must(err)
		t.documents("verbose status", resp.Info)
	}},
	{"sandbox/status with the containers", func(t *T) {
		began := time.Now()
		p := t.pod()
		a, b := p.start(), p.create()
		resp, err := t.runtime.PodSandboxStatus(t.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		t.must(err)
		got := map[string]runtimeapi.ContainerState{}
		for _, c := range resp.ContainersStatuses {
			got[c.Id] = c.State
		}
		want := map[string]runtimeapi.ContainerState{a.id: runtimeapi.ContainerState_CONTAINER_RUNNING, b.id: runtimeapi.ContainerState_CONTAINER_CREATED}
		t.equal("containers", got, want)
		t.since("timestamp", resp.Timestamp, began, time.Now())
	}},
	{"sandbox/stop is idempotent", func(t *T) {
		p := t.pod()
		for range 3 {
			t.must(p.stop())
			t.equal("state", p.status().State, notReady)
		}
	}},
	{"sandbox/stop of what is gone", func(t *T) {
		p := t.pod()
		t.must(p.remove())
		t.must(p.stop())
		_, err := t.runtime.StopPodSandbox(t.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: "nosuchsandbox"})
		t.must(err)
	}},
	{"sandbox/remove is idempotent", func(t *T) {
		p := t.pod()
		t.must(p.stop())
		for range 3 {
			t.must(p.remove())
		}
		_, err := t.runtime.PodSandboxStatus(t.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		t.refused("status of a removed sandbox", err, codes.NotFound)
		t.equal("list", len(t.sandboxes(&runtimeapi.PodSandboxFilter{Id: p.id})), 0)
		_, err = t.runtime.RemovePodSandbox(t.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "nosuchsandbox"})
		t.must(err)
	}},
	{"sandbox/remove of a running one", func(t *T) {
		p := t.pod()
		c := p.start(shell("trap '' TERM; while :; do sleep 0.1; done"))
		t.must(p.remove())
		_, err := t.runtime.ContainerStatus(t.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
		t.refused("status of a container of a removed sandbox", err, codes.NotFound)
		t.equal("list", len(t.sandboxes(&runtimeapi.PodSandboxFilter{Id: p.id})), 0)
	}},
	{"sandbox/stop ends containers at once", func(t *T) {
		p := t.pod()
		a, b, c := p.start(shell("trap '' TERM; while :; do sleep 0.1; done")), p.start(), p.create()
		a.sh("true")
		began := time.Now()
		t.must(p.stop())
		if took := time.Since(began); took > 20*time.Second {
			t.errorf("it took %s", took)
		}
		for _, c := range []*container{a, b} {
			st := c.status()
			t.equal("state", st.State, runtimeapi.ContainerState_CONTAINER_EXITED)
			t.equal("exit code", st.ExitCode, 137)
		}
		if s := c.status().State; s == runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.errorf("the container that was never started is %s", s)
		}
		_, err := p.tryCreate()
		t.refused("a container in a stopped sandbox", err)
		t.refused("start in a stopped sandbox", c.start())
	}},
	{"sandbox/names", func(t *T) {
		p := t.pod()
		// The same pod again is an error of whoever asks; another attempt is not.
		_, err := t.tryPodOf(p.config, "")
		t.refused("the same name and attempt", err)
		again := p.config.Metadata
		t.pod(func(c *podConfig) {
			c.Metadata = &runtimeapi.PodSandboxMetadata{Name: again.Name, Uid: again.Uid, Namespace: again.Namespace, Attempt: again.Attempt + 1}
		})
		t.must(p.stop())
		_, err = t.tryPodOf(p.config, "")
		t.refused("the name of a stopped sandbox", err)
		t.must(p.remove())
		next, err := t.tryPodOf(p.config, "")
		t.must(err)
		if next.id == p.id {
			t.errorf("an identifier was used twice")
		}
	}},
	{"sandbox/names are free after a failure", func(t *T) {
		c := t.podConfig()
		c.Linux.Sysctls = map[string]string{"kernel.no_such_thing": "1"}
		for range 2 {
			if _, err := t.tryPodOf(c, ""); err == nil {
				t.fatalf("an unknown sysctl was accepted")
			}
		}
		c.Linux.Sysctls = nil
		_, err := t.tryPodOf(c, "")
		t.must(err)
	}},
	{"sandbox/list filters", func(t *T) {
		mark := t.unique("mark")
		label := func(more string) func(*podConfig) {
			return func(c *podConfig) { c.Labels = map[string]string{"mark": mark, "more": more} }
		}
		a, b, c := t.pod(label("x")), t.pod(label("x")), t.pod(label("y"))
		t.must(b.stop())
		for name, f := range map[string]struct {
			filter *runtimeapi.PodSandboxFilter
			want   []*pod
		}{
			"label":               {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"mark": mark}}, []*pod{a, b, c}},
			"two labels":          {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"mark": mark, "more": "x"}}, []*pod{a, b}},
			"another value":       {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"mark": mark, "more": "z"}}, nil},
			"a label nobody has":  {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"mark": mark, "none": ""}}, nil},
			"label and ready":     {&runtimeapi.PodSandboxFilter{State: sandboxState(ready), LabelSelector: map[string]string{"mark": mark}}, []*pod{a, c}},
			"label and not ready": {&runtimeapi.PodSandboxFilter{State: sandboxState(notReady), LabelSelector: map[string]string{"mark": mark}}, []*pod{b}},
			"id":                  {&runtimeapi.PodSandboxFilter{Id: a.id}, []*pod{a}},
			"id and state":        {&runtimeapi.PodSandboxFilter{Id: a.id, State: sandboxState(notReady)}, nil},
			"id and label":        {&runtimeapi.PodSandboxFilter{Id: a.id, LabelSelector: map[string]string{"more": "y"}}, nil},
			"an id nobody has":    {&runtimeapi.PodSandboxFilter{Id: "nosuchsandbox"}, nil},
		} {
			var got, want []string
			for _, s := range t.sandboxes(f.filter) {
				got = append(got, s.Id)
			}
			for _, p := range f.want {
				want = append(want, p.id)
			}
			slices.Sort(got)
			slices.Sort(want)
			t.equal("list by "+name, got, want)
		}
		for _, f := range []*runtimeapi.PodSandboxFilter{nil, {}} {
			var got []string
			for _, s := range t.sandboxes(f) {
				got = append(got, s.Id)
			}
			for _, p := range []*pod{a, b, c} {
				if !slices.Contains(got, p.id) {
					t.errorf("a list of all lacks %s", p.id)
				}
			}
		}
	}},
	{"sandbox/beginning of an id", func(t *T) {
		p := t.pod()
		t.equal("list by the beginning of an id", len(t.sandboxes(&runtimeapi.PodSandboxFilter{Id: p.id[:13]})), 1)
		resp, err := t.runtime.PodSandboxStatus(t.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id[:13]})
		t.must(err)
		t.equal("id", resp.Status.Id, p.id)
	}},
	{"sandbox/stream of the list", func(t *T) {
		mark := t.unique("mark")
		want := map[string]int{}
		for range 3 {
			want[t.pod(func(c *podConfig) { c.Labels = map[string]string{"mark": mark} }).id] = 1
		}
		s, err := t.runtime.StreamPodSandboxes(t.ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"mark": mark}}})
		t.must(err)
		got := map[string]int{}
		for {
			m, err := s.Recv()
			if ended(err) {
				break
			}
			t.must(err)
			if len(m.PodSandboxes) == 0 {
				t.errorf("an empty part of a stream")
			}
			for _, p := range m.PodSandboxes {
				got[p.Id]++
			}
		}
		if !maps.Equal(got, want) {
			t.errorf("streamed %v, not %v", got, want)
		}
	}},
	{"sandbox/runtime handlers", func(t *T) {
		c := t.podConfig()
		_, err := t.tryPodOf(c, "nosuchhandler")
		t.refused("an unknown handler", err)
		t.equal("list after the refusal", len(t.sandboxes(&runtimeapi.PodSandboxFilter{LabelSelector: c.Labels})), 0)
		st, err := t.runtime.Status(t.ctx, &runtimeapi.StatusRequest{})
		t.must(err)
		for _, h := range st.RuntimeHandlers {
			if h.Name == "runc" {
				p, err := t.tryPodOf(t.podConfig(), h.Name)
				t.must(err)
				t.equal("handler", p.status().RuntimeHandler, h.Name)
			}
		}
	}},
	{"sandbox/cgroup parent", func(t *T) {
		p := t.pod()
		c := p.start()
		for _, dir := range []string{c.cgroupDir("memory"), c.cgroupDir("cpu"), c.cgroupDir("pids")} {
			t.contains("cgroup", dir, p.config.Linux.CgroupParent+"/")
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.pid()))
		t.must(err)
		t.contains("cgroups of the process", string(data), p.config.Linux.CgroupParent+"/"+filepath.Base(c.cgroupDir("memory")))
		t.must(p.stop())
		t.must(p.remove())
		for _, l := range traces(p.id, c.id) {
			t.errorf("after its removal the pod leaves %s", l)
		}
	}},
	{"sandbox/nothing of it stays", func(t *T) {
		p := t.pod()
		c := p.start()
		if len(traces(c.id)) == 0 {
			t.errorf("this test sees no trace of a running container")
		}
		t.must(p.stop())
		t.must(p.remove())
		t.within("all traces are gone", func() bool { return len(traces(p.id, c.id)) == 0 })
	}},
	{"sandbox/end from outside", func(t *T) {
		// Somebody kills all processes of the pod: it is not ready, or it holds
		// its namespaces without a process. It can be removed in any case.
		p := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Pid = runtimeapi.NamespaceMode_POD }))
		c := p.start()
		for _, pid := range processesBelow(p.config.Linux.CgroupParent) {
			kill(t, pid)
		}
		t.equal("exit code", c.wait().ExitCode, 137)
		t.within("the sandbox with its shared processes is not ready", func() bool { return p.status().State == notReady })
		t.must(p.stop())
		t.must(p.remove())
	}},
	{"sandbox/resources and overhead", func(t *T) {
		p := t.pod(func(c *podConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 256 << 20}
			c.Linux.Overhead = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
		})
		t.equal("state", p.status().State, ready)
		// The kubelet owns the pod's cgroup: a runtime that sets it is wrong.
		p.start()
	}},
	{"sandbox/update of its resources", func(t *T) {
		p := t.pod()
		p.start()
		_, err := t.runtime.UpdatePodSandboxResources(t.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
			PodSandboxId: p.id, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 256, MemoryLimitInBytes: 128 << 20}, Overhead: &runtimeapi.LinuxContainerResources{},
		})
		t.must(err)
		_, err = t.runtime.UpdatePodSandboxResources(t.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "nosuchsandbox"})
		t.refused("update of a sandbox that is not there", err, codes.NotFound)
	}},
	{"sandbox/log directory", func(t *T) {
		p := t.pod(func(c *podConfig) { c.LogDirectory = filepath.Join(t.dir, "logs", "deep", t.unique("dir")) })
		c := p.start(shell("echo here"), func(c *containerConfig) { c.LogPath = "sub/dir/0.log" })
		c.wait()
		t.equal("log path", c.status().LogPath, filepath.Join(p.config.LogDirectory, "sub/dir/0.log"))
		out, _ := c.output()
		t.equal("output", out, "here\n")
	}},
	{"sandbox/without logs", func(t *T) {
		p := t.pod(func(c *podConfig) { c.LogDirectory = "" })
		c := p.start(shell("echo nowhere"))
		t.equal("exit code", c.wait().ExitCode, 0)
		t.equal("log path", c.status().LogPath, "")
		q := t.pod()
		c = q.start(shell("echo nowhere"), func(c *containerConfig) { c.LogPath = "" })
		t.equal("exit code", c.wait().ExitCode, 0)
	}},
}

func sandboxState(s runtimeapi.PodSandboxState) *runtimeapi.PodSandboxStateValue {
	return &runtimeapi.PodSandboxStateValue{State: s}
}

func (t *T) sandboxes(f *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	list, err := t.runtime.ListPodSandbox(t.ctx, &runtimeapi.ListPodSandboxRequest{Filter: f})
	if err != nil {
		t.fatalf("ListPodSandbox: %v", err)
	}
	return list.Items
}

// receive reads a stream to its end.
func receive[M any](t *T, s interface{ Recv() (M, error) }, fn func(M)) {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.fatalf("stream: %v", err)
		}
		fn(m)
	}
}

// firstLine of a text.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

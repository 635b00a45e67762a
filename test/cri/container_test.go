package cri_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	created = runtimeapi.ContainerState_CONTAINER_CREATED
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
)

// stubborn is a container that SIGTERM does not end.
var stubborn = shell("trap 'echo TERM came' TERM; echo ready; while :; do sleep 0.05; done")

var containerCases = []testCase{
	{"container/its life", func(t *T) {
		p := t.pod()
		began := time.Now()
		c := p.create()
		st := c.status()
		t.equal("state", st.State, created)
		t.since("creation", st.CreatedAt, began, time.Now())
		t.equal("start and end before it starts", []int64{st.StartedAt, st.FinishedAt}, []int64{0, 0})
		t.must(c.start())
		st = c.status()
		t.equal("state", st.State, running)
		t.since("start", st.StartedAt, began, time.Now())
		t.equal("end while it runs", st.FinishedAt, 0)
		t.equal("reason while it runs", st.Reason, "")
		t.must(c.stop(0))
		st = c.status()
		t.equal("state", st.State, exited)
		t.equal("exit code", st.ExitCode, 137)
		t.since("end", st.FinishedAt, began, time.Now())
		if st.FinishedAt < st.StartedAt || st.StartedAt < st.CreatedAt {
			t.errorf("created %d, started %d, finished %d", st.CreatedAt, st.StartedAt, st.FinishedAt)
		}
		t.must(c.remove())
		_, err := t.runtime.ContainerStatus(t.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
		t.refused("status of a removed container", err, codes.NotFound)
	}},
	{"container/what it was made with", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		c := p.start(func(c *containerConfig) {
			c.Metadata.Attempt = 7
			c.Labels = map[string]string{"io.kubernetes.container.name": "x", "empty": ""}
			c.Annotations = map[string]string{"note": "line 1\nline 2 \"quoted\" \\ ü", "io.kubernetes.cri.container-name": "not yours"}
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/mnt", Readonly: true}}
		})
		st := c.status()
		t.equal("id", st.Id, c.id)
		t.equal("metadata", st.Metadata, c.config.Metadata)
		t.equal("labels", st.Labels, c.config.Labels)
		t.equal("annotations", st.Annotations, c.config.Annotations)
		t.equal("log path", st.LogPath, c.logFile())
		if len(st.Mounts) != 1 || st.Mounts[0].HostPath != dir || st.Mounts[0].ContainerPath != "/mnt" || !st.Mounts[0].Readonly {
			t.errorf("mounts: %v", st.Mounts)
		}
		list := t.containers(&runtimeapi.ContainerFilter{Id: c.id})
		if len(list) != 1 {
			t.fatalf("listed %d times", len(list))
		}
		l := list[0]
		t.equal("listed metadata", l.Metadata, st.Metadata)
		t.equal("listed labels", l.Labels, st.Labels)
		t.equal("listed annotations", l.Annotations, st.Annotations)
		t.equal("listed state", l.State, running)
		t.equal("listed sandbox", l.PodSandboxId, p.id)
		t.equal("listed creation", l.CreatedAt, st.CreatedAt)
		for _, ref := range []string{st.ImageRef, l.ImageRef} {
			t.equal("image of the reference "+ref, t.image(ref).GetId(), c.config.Image.Image)
		}
	}},
	{"container/its image in the status", func(t *T) {
		c := t.pod().start()
		st := c.status()
		if st.Image.GetImage() == "" {
			t.errorf("no image: %v", st)
		}
		// The kubelet looks by this whether an image is in use.
		img, err := t.images.ImageStatus(t.ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: st.ImageRef}})
		t.must(err)
		t.equal("image of its reference", img.GetImage().GetId(), c.config.Image.Image)
	}},
	{"container/its image's identifier in the status", func(t *T) {
		c := t.pod().start()
		t.equal("image ID", c.status().ImageId, c.config.Image.Image)
		t.equal("listed image ID", t.containers(&runtimeapi.ContainerFilter{Id: c.id})[0].ImageId, c.config.Image.Image)
	}},
	{"container/by the name of its image", func(t *T) {
		p := t.pod()
		spec := t.base()
		for _, name := range []string{spec.UserSpecifiedImage, spec.Image} {
			c := p.start(func(c *containerConfig) { c.Image = &runtimeapi.ImageSpec{Image: name} })
			t.equal("state", c.status().State, running)
		}
	}},
	{"container/verbose status", func(t *T) {
		c := t.pod().start()
		resp, err := t.runtime.ContainerStatus(t.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
		t.must(err)
		if len(resp.Info) > 0 {
			t.errorf("information that nobody asked for: %v", resp.Info)
		}
		resp, err = t.runtime.ContainerStatus(t.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
		t.must(err)
		t.documents("verbose status", resp.Info)
	}},
	{"container/reasons and exit codes", func(t *T) {
		p := t.pod()
		for script, want := range map[string]struct {
			code   int32
			reason string
		}{
			"exit 0": {0, "Completed"}, "exit 1": {1, "Error"}, "exit 42": {42, "Error"}, "exit 255": {255, "Error"},
			"kill -TERM $$; sleep 1; exit 3": {3, "Error"}, // process 1 has no default for SIGTERM
		} {
			st := p.run(script)
			t.equal(script+": exit code", st.ExitCode, want.code)
			t.equal(script+": reason", st.Reason, want.reason)
			t.equal(script+": state", st.State, exited)
		}
	}},
	{"container/killed from outside", func(t *T) {
		c := t.pod().start()
		began := time.Now()
		kill(t, c.pid())
		st := c.wait()
		t.equal("exit code", st.ExitCode, 137)
		t.equal("reason", st.Reason, "Error")
		t.since("end", st.FinishedAt, began, time.Now())
		t.must(c.stop(10))
		t.must(c.remove())
	}},
	{"container/killed by another signal", func(t *T) {
		c := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Pid = runtimeapi.NamespaceMode_POD })).start(shell("echo up; sleep 1000000"))
		c.says("up") // before, it may be the runtime's own that is killed
		t.must(unix.Kill(c.pid(), unix.SIGABRT))
		t.equal("exit code", c.wait().ExitCode, 134)
	}},
	{"container/program that is not there", func(t *T) {
		p := t.pod()
		for _, args := range [][]string{{"/no/such/program"}, {"nosuchprogram"}, {"/etc/passwd"}, {"/etc"}, {""}} {
			c, err := p.tryCreate(command(args...))
			if err != nil {
				continue // as good as a failure to start
			}
			err = c.start()
			t.refused(fmt.Sprintf("start of %q", args), err)
			if args[0] != "" {
				t.contains("message", fmt.Sprint(err), args[0])
			}
			st := c.status()
			t.equal("state", st.State, exited)
			t.equal("reason", st.Reason, "StartError")
			if st.ExitCode == 0 || st.Message == "" || st.FinishedAt == 0 {
				t.errorf("%q: %v", args, st)
			}
			t.refused("a second start", c.start())
			t.must(c.remove())
		}
	}},
	{"container/started twice", func(t *T) {
		p := t.pod()
		c := p.start()
		t.refused("start of a running container", c.start())
		t.equal("state", c.status().State, running)
		t.must(c.stop(0))
		t.refused("start of an exited container", c.start())
		t.equal("state", c.status().State, exited)
	}},
	{"container/stop with grace", func(t *T) {
		p := t.pod()
		c := p.start(shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"))
		c.says("ready")
		began := time.Now()
		t.must(c.stop(30))
		if took := time.Since(began); took > 25*time.Second {
			t.errorf("it took %s", took)
		}
		st := c.status()
		t.equal("exit code", st.ExitCode, 5)
		out, _ := c.output()
		t.equal("output", out, "ready\nbye\n")
	}},
	{"container/stop of a stubborn one", func(t *T) {
		c := t.pod().start(stubborn)
		c.says("ready")
		began := time.Now()
		t.must(c.stop(2))
		if took := time.Since(began); took < 2*time.Second || took > 30*time.Second {
			t.errorf("with 2 s of grace it took %s", took)
		}
		st := c.status()
		t.equal("state", st.State, exited)
		t.equal("exit code", st.ExitCode, 137)
		out, _ := c.output()
		t.equal("output", out, "ready\nTERM came\n")
	}},
	{"container/stop without grace", func(t *T) {
		c := t.pod().start(stubborn)
		c.says("ready")
		began := time.Now()
		t.must(c.stop(0))
		if took := time.Since(began); took > 10*time.Second {
			t.errorf("it took %s", took)
		}
		t.equal("exit code", c.status().ExitCode, 137)
		out, _ := c.output()
		t.equal("output: no SIGTERM came", out, "ready\n")
	}},
	{"container/stop is idempotent", func(t *T) {
		p := t.pod()
		c := p.start()
		for range 3 {
			t.must(c.stop(0))
			t.equal("exit code", c.status().ExitCode, 137)
		}
		// One that never started has nothing to stop.
		d := p.create()
		t.must(d.stop(0))
		if d.status().State == running {
			t.errorf("it runs")
		}
	}},
	{"container/stop of what is gone", func(t *T) {
		c := t.pod().start()
		t.must(c.remove())
		t.must(c.stop(0))
		_, err := t.runtime.StopContainer(t.ctx, &runtimeapi.StopContainerRequest{ContainerId: "nosuchcontainer"})
		t.must(err)
	}},
	{"container/two stops at once", func(t *T) {
		c := t.pod().start(stubborn)
		c.says("ready")
		slow := make(chan error, 1)
		go func() { slow <- c.stop(100) }()
		c.says("TERM came")
		// A second one with less grace does not wait for the first.
		began := time.Now()
		t.must(c.stop(0))
		if took := time.Since(began); took > 20*time.Second {
			t.errorf("it took %s", took)
		}
		t.must(<-slow)
		t.equal("exit code", c.status().ExitCode, 137)
	}},
	{"container/stop signal of the image", func(t *T) {
		p := t.pod()
		spec := t.imageOf("stopsignal", func(c *v1Config) { c.StopSignal = "SIGUSR1" })
		c := p.start(command("probe", "signals"), func(c *containerConfig) { c.Image = spec })
		c.says("waiting")
		t.must(c.stop(30))
		out, _ := c.output()
		t.equal("output", out, "waiting\ngot 10\n")
		t.equal("exit code", c.status().ExitCode, 0)
	}},
	{"container/stop signal of the config", func(t *T) {
		p := t.pod()
		for signal, number := range map[runtimeapi.Signal]int{runtimeapi.Signal_SIGNAL_SIGUSR2: 12, runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3: 37, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT: 15} {
			c := p.start(command("probe", "signals"), func(c *containerConfig) { c.StopSignal = signal })
			c.says("waiting")
			if signal != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
				t.equal("stop signal in the status", c.status().StopSignal, signal)
			}
			t.must(c.stop(30))
			out, _ := c.output()
			t.equal("output", out, fmt.Sprintf("waiting\ngot %d\n", number))
		}
	}},
	{"container/remove", func(t *T) {
		p := t.pod()
		c, r, e := p.create(), p.start(stubborn), p.start()
		t.must(e.stop(0))
		for what, c := range map[string]*container{"created": c, "running": r, "exited": e} {
			for range 3 {
				t.must(c.remove())
			}
			_, err := t.runtime.ContainerStatus(t.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
			t.refused("status of a removed container that was "+what, err, codes.NotFound)
			t.equal("list", len(t.containers(&runtimeapi.ContainerFilter{Id: c.id})), 0)
			t.within("all traces of it are gone: "+what, func() bool { return len(traces(c.id)) == 0 })
		}
		_, err := t.runtime.RemoveContainer(t.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: "nosuchcontainer"})
		t.must(err)
		t.equal("the sandbox", p.status().State, ready)
	}},
	{"container/names", func(t *T) {
		p := t.pod()
		c := p.create()
		again := func(attempt uint32) func(*containerConfig) {
			return func(d *containerConfig) {
				d.Metadata = &runtimeapi.ContainerMetadata{Name: c.config.Metadata.Name, Attempt: attempt}
			}
		}
		_, err := p.tryCreate(again(0))
		t.refused("the same name and attempt", err)
		p.create(again(1))
		t.pod().create(again(0)) // in another pod it is another container
		t.must(c.remove())
		p.create(again(0))
	}},
	{"container/names are free after a failure", func(t *T) {
		p := t.pod()
		config := p.containerConfig(func(c *containerConfig) { c.Image = &runtimeapi.ImageSpec{Image: "nosuchimage"} })
		use := func(c *containerConfig) { c.Metadata = config.Metadata }
		for range 2 {
			_, err := p.tryCreate(use, func(c *containerConfig) { c.Image = config.Image })
			t.refused("an image that is not there", err, codes.NotFound)
		}
		p.create(use)
	}},
	{"container/list filters", func(t *T) {
		mark := t.unique("mark")
		label := func(more string) func(*containerConfig) {
			return func(c *containerConfig) { c.Labels = map[string]string{"mark": mark, "more": more} }
		}
		p, q := t.pod(), t.pod()
		a, b, c := p.start(label("x")), p.create(label("x")), q.start(label("y"))
		d := q.start(label("y"))
		t.must(d.stop(0))
		all := map[string]string{"mark": mark}
		for name, f := range map[string]struct {
			filter *runtimeapi.ContainerFilter
			want   []*container
		}{
			"label":             {&runtimeapi.ContainerFilter{LabelSelector: all}, []*container{a, b, c, d}},
			"two labels":        {&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"mark": mark, "more": "y"}}, []*container{c, d}},
			"running":           {&runtimeapi.ContainerFilter{LabelSelector: all, State: containerState(running)}, []*container{a, c}},
			"created":           {&runtimeapi.ContainerFilter{LabelSelector: all, State: containerState(created)}, []*container{b}},
			"exited":            {&runtimeapi.ContainerFilter{LabelSelector: all, State: containerState(exited)}, []*container{d}},
			"unknown":           {&runtimeapi.ContainerFilter{LabelSelector: all, State: containerState(runtimeapi.ContainerState_CONTAINER_UNKNOWN)}, nil},
			"sandbox":           {&runtimeapi.ContainerFilter{PodSandboxId: p.id}, []*container{a, b}},
			"sandbox and state": {&runtimeapi.ContainerFilter{PodSandboxId: p.id, State: containerState(running)}, []*container{a}},
			"id":                {&runtimeapi.ContainerFilter{Id: a.id}, []*container{a}},
			"beginning of id":   {&runtimeapi.ContainerFilter{Id: a.id[:13]}, []*container{a}},
			"id and sandbox":    {&runtimeapi.ContainerFilter{Id: a.id, PodSandboxId: q.id}, nil},
			"nobody":            {&runtimeapi.ContainerFilter{Id: "nosuchcontainer"}, nil},
			"no sandbox":        {&runtimeapi.ContainerFilter{PodSandboxId: "nosuchsandbox"}, nil},
		} {
			var got, want []string
			for _, c := range t.containers(f.filter) {
				got = append(got, c.Id)
			}
			for _, c := range f.want {
				want = append(want, c.id)
			}
			slices.Sort(got)
			slices.Sort(want)
			t.equal("list by "+name, got, want)
		}
		for _, f := range []*runtimeapi.ContainerFilter{nil, {}} {
			text := fmt.Sprint(t.containers(f))
			t.contains("list of all", text, a.id, b.id, c.id, d.id)
		}
	}},
	{"container/stream of the list", func(t *T) {
		p := t.pod()
		want := map[string]int{p.start().id: 1, p.create().id: 1, p.create().id: 1}
		s, err := t.runtime.StreamContainers(t.ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
		t.must(err)
		got := map[string]int{}
		receive(t, s, func(m *runtimeapi.StreamContainersResponse) {
			if len(m.Containers) == 0 {
				t.errorf("an empty part of a stream")
			}
			for _, c := range m.Containers {
				got[c.Id]++
			}
		})
		t.equal("streamed", got, want)
	}},
	{"container/orphans go to process 1", func(t *T) {
		c := t.pod().start(shell("(sleep 0.2; echo late) & exec sleep 1000000"))
		c.says("late")
		t.equal("process 1", c.sh("cat /proc/1/comm"), "sleep")
	}},
	{"container/ends with its first process", func(t *T) {
		p := t.pod()
		c := p.start(shell("sleep 1000000 & sleep 1000001 & exit 4"))
		t.equal("exit code", c.wait().ExitCode, 4)
		t.within("the other processes are gone", func() bool {
			return len(traces(c.id)) == 0 || !strings.Contains(fmt.Sprint(traces(c.id)), "sleep 100000")
		})
	}},
	{"container/background processes keep no log open", func(t *T) {
		// With the pod's processes shared, a child outlives the first process
		// and holds its output: the container has ended all the same.
		p := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Pid = runtimeapi.NamespaceMode_POD }))
		c := p.start(shell("sleep 1000000 & echo gone; exit 6"))
		t.equal("exit code", c.wait().ExitCode, 6)
		t.must(c.remove())
	}},
}

func containerState(s runtimeapi.ContainerState) *runtimeapi.ContainerStateValue {
	return &runtimeapi.ContainerStateValue{State: s}
}

func (t *T) containers(f *runtimeapi.ContainerFilter) []*runtimeapi.Container {
	list, err := t.runtime.ListContainers(t.ctx, &runtimeapi.ListContainersRequest{Filter: f})
	if err != nil {
		t.fatalf("ListContainers: %v", err)
	}
	return list.Containers
}

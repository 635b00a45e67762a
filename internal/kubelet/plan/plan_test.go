package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func container(name string) corev1.Container { return corev1.Container{Name: name, Image: "i"} }

func newPod(change func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{container("a")}}}
	if change != nil {
		change(p)
	}
	return p
}

// base is a pod with volumes, sandbox and image in place.
func base(p *corev1.Pod) Input {
	in := Input{Pod: p, Now: now, NodeIP: "10.0.0.1", Volumes: Volumes{Ready: true}, Images: map[string]Image{}, Probes: map[string]Probes{},
		Sandboxes: []Sandbox{{ID: "s", Ready: true, IPs: []string{"10.1.0.2"}, Created: now.Add(-time.Hour)}}}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			in.Images[c.Name] = Image{Spec: c.Image, Ready: true, ID: "sha"}
		}
	}
	return in
}

func running(name string) Container {
	c := container(name)
	return Container{ID: "id-" + name, SandboxID: "s", Name: name, Hash: Hash(&c), State: Running, Created: now.Add(-time.Minute), Started: now.Add(-time.Minute)}
}

func exited(name string, code int32) Container {
	c := running(name)
	c.State, c.ExitCode, c.Finished = Exited, code, now.Add(-time.Second)
	return c
}

func always2(c *corev1.Container) {
	p := corev1.ContainerRestartPolicyAlways
	c.RestartPolicy = &p
}

func short(r Result) []string {
	var out []string
	for _, a := range r.Actions {
		s := string(a.Op)
		if a.Container != "" {
			s += " " + a.Container
		}
		if a.Op == StartContainer {
			s += fmt.Sprintf(" %d", a.Attempt)
		}
		if a.Op == KillContainer {
			s += " " + a.Grace.String()
		}
		out = append(out, s)
	}
	return out
}

func TestActions(t *testing.T) {
	never := func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }
	withInit := func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{container("i1"), container("i2")} }
	withSide := func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{container("side")}
		always2(&p.Spec.InitContainers[0])
	}
	deleted := func(p *corev1.Pod) {
		at, g := metav1.NewTime(now.Add(10*time.Second)), int64(10)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &g
	}
	probed := func(p *corev1.Pod) {
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{}
		p.Spec.Containers[0].StartupProbe = &corev1.Probe{}
	}
	for _, tt := range []struct {
		name  string
		pod   func(*corev1.Pod)
		in    func(*Input)
		want  []string
		phase corev1.PodPhase
	}{
		{"fresh", nil, func(in *Input) { in.Volumes, in.Sandboxes = Volumes{}, nil }, []string{"prepare volumes"}, "Pending"},
		{"no sandbox", nil, func(in *Input) { in.Sandboxes = nil }, []string{"create sandbox"}, "Pending"},
		{"no image", nil, func(in *Input) { in.Images = nil }, []string{"ensure image a"}, "Pending"},
		{"pulling", nil, func(in *Input) { in.Images["a"] = Image{Spec: "i", Pulling: true} }, nil, "Pending"},
		{"start", nil, nil, []string{"start container a 0"}, "Pending"},
		{"devices are taken back first", never, func(in *Input) {
			in.Containers, in.Devices.Held, in.Pod.Status.Phase = []Container{exited("a", 0)}, true, corev1.PodRunning
		}, []string{"stop sandbox", "clean up"}, "Running"},
		{"devices that are not taken back", never, func(in *Input) {
			in.Containers, in.Devices.Held, in.Pod.Status.Phase = []Container{exited("a", 0)}, true, corev1.PodRunning
			in.Sandboxes[0].Ready, in.Volumes.Unclean = false, Failed{At: now, Count: 3}
		}, nil, "Running"},
		{"then again", never, func(in *Input) {
			in.Containers, in.Devices.Held, in.Pod.Status.Phase = []Container{exited("a", 0)}, true, corev1.PodRunning
			in.Sandboxes[0].Ready, in.Volumes.Unclean = false, Failed{At: now.Add(-5 * time.Second), Count: 3}
		}, []string{"clean up"}, "Running"},
		{"devices were taken back", never, func(in *Input) {
			in.Containers, in.Sandboxes[0].Ready, in.Volumes = []Container{exited("a", 0)}, false, Volumes{Cleaned: true}
		}, nil, "Succeeded"},
		{"running", nil, func(in *Input) { in.Containers = []Container{running("a")} }, nil, "Running"},
		{"first init", withInit, nil, []string{"start container i1 0"}, "Pending"},
		{"second init", withInit, func(in *Input) { in.Containers = []Container{exited("i1", 0)} }, []string{"start container i2 0"}, "Pending"},
		{"init runs", withInit, func(in *Input) { in.Containers = []Container{running("i1")} }, nil, "Pending"},
		{"init done", withInit, func(in *Input) { in.Containers = []Container{exited("i1", 0), exited("i2", 0)} }, []string{"start container a 0"}, "Pending"},
		{"init fails for good", func(p *corev1.Pod) { withInit(p); never(p) }, func(in *Input) { in.Containers = []Container{exited("i1", 1)} }, []string{"stop sandbox", "clean up"}, "Failed"},
		{"sidecar first", withSide, nil, []string{"start container side 0"}, "Pending"},
		{"then main", withSide, func(in *Input) { in.Containers = []Container{running("side")} }, []string{"start container a 0"}, "Pending"},
		{"sidecar outlives main", func(p *corev1.Pod) { withSide(p); never(p) }, func(in *Input) { in.Containers = []Container{running("side"), exited("a", 0)} },
			[]string{"kill container side 30s"}, "Running"},
		{"first crash", nil, func(in *Input) {
			in.Containers = []Container{exited("a", 1)}
			in.Images["a"] = Image{Spec: "i", Ready: true, Attempt: 1}
		}, []string{"start container a 1"}, "Running"},
		{"second crash", nil, func(in *Input) {
			in.Containers = []Container{exited("a", 1)}
			in.Containers[0].Backoff = 10 * time.Second
		}, nil, "Running"},
		{"its own policy", func(p *corev1.Pod) { never(p); always2(&p.Spec.Containers[0]) }, func(in *Input) {
			in.Containers = []Container{exited("a", 0)}
			in.Images["a"] = Image{Spec: "i", Ready: true, Attempt: 1}
		}, []string{"start container a 1"}, "Running"},
		{"its own never", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, container("b"))
			policy := corev1.ContainerRestartPolicyNever
			p.Spec.Containers[0].RestartPolicy = &policy
		}, func(in *Input) { in.Containers = []Container{exited("a", 1), running("b")} }, nil, "Running"},
		{"an init container that may not fail", func(p *corev1.Pod) {
			withInit(p)
			policy := corev1.ContainerRestartPolicyNever
			p.Spec.InitContainers[0].RestartPolicy = &policy
		}, func(in *Input) { in.Containers = []Container{exited("i1", 1)} }, []string{"stop sandbox", "clean up"}, "Failed"},
		{"never restarts", never, func(in *Input) { in.Containers = []Container{exited("a", 1)} }, []string{"stop sandbox", "clean up"}, "Failed"},
		{"succeeded", never, func(in *Input) { in.Containers = []Container{exited("a", 0)} }, []string{"stop sandbox", "clean up"}, "Succeeded"},
		{"liveness", probed, func(in *Input) {
			in.Containers = []Container{running("a")}
			in.Probes["id-a"] = Probes{Startup: Success, Liveness: Failure}
		}, []string{"kill container a 30s"}, "Running"},
		{"startup", probed, func(in *Input) {
			in.Containers = []Container{running("a")}
			in.Probes["id-a"] = Probes{Startup: Failure}
		}, []string{"kill container a 30s"}, "Running"},
		{"changed image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "j" }, func(in *Input) { in.Containers = []Container{running("a")} },
			[]string{"kill container a 30s"}, "Running"},
		{"deleted", deleted, func(in *Input) { in.Containers = []Container{running("a")} }, []string{"kill container a 10s"}, "Running"},
		{"being killed", deleted, func(in *Input) {
			c := running("a")
			c.Killing, c.KillBefore = true, now.Add(12*time.Second)
			in.Containers = []Container{c}
		}, nil, "Running"},
		{"killed more quickly", deleted, func(in *Input) {
			c := running("a")
			c.Killing, c.KillBefore = true, now.Add(time.Minute)
			in.Containers = []Container{c}
		}, []string{"kill container a 10s"}, "Running"},
		{"deleted, main first", func(p *corev1.Pod) { withSide(p); deleted(p) }, func(in *Input) { in.Containers = []Container{running("side"), running("a")} },
			[]string{"kill container a 10s"}, "Running"},
		{"deleted, all ended", deleted, func(in *Input) { in.Containers = []Container{exited("a", 0)} }, []string{"stop sandbox", "clean up"}, "Succeeded"},
		{"deleted, cleaned", deleted, func(in *Input) {
			in.Containers, in.Volumes = []Container{exited("a", 0)}, Volumes{Cleaned: true}
			in.Sandboxes[0].Ready = false
		}, []string{"remove"}, "Succeeded"},
		{"deleted, removed", deleted, func(in *Input) { in.Sandboxes, in.Volumes = nil, Volumes{Cleaned: true} }, []string{"delete the pod"}, "Failed"},
		{"overdue", func(p *corev1.Pod) {
			five, at := int64(5), metav1.NewTime(now.Add(-6*time.Second))
			p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = &five, &at
		}, func(in *Input) { in.Containers = []Container{running("a")} }, []string{"kill container a 30s"}, "Running"},
		{"outgrown", nil, func(in *Input) { in.Containers, in.Evicted = []Container{running("a")}, "too much" }, []string{"kill container a 1s"}, "Running"},
		{"evicted", nil, func(in *Input) { in.Containers, in.Evicted = []Container{exited("a", 0)}, "too much" }, []string{"stop sandbox", "clean up"}, "Failed"},
		{"sandbox died", nil, func(in *Input) {
			in.Containers, in.Sandboxes[0].Ready = []Container{exited("a", 137)}, false
		}, []string{"stop sandbox", "create sandbox"}, "Running"},
		{"done before, in a lost sandbox", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			p.Spec.Containers = append(p.Spec.Containers, container("b"))
		}, func(in *Input) {
			a, b := exited("a", 0), exited("b", 1)
			a.SandboxID, b.SandboxID = "old", "old"
			in.Containers = []Container{a, b}
			in.Images["b"] = Image{Spec: "i", Ready: true, Attempt: 1}
		}, []string{"start container b 1"}, "Running"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := base(newPod(tt.pod))
			if tt.in != nil {
				tt.in(&in)
			}
			got := Pod(in)
			if s := short(got); !reflect.DeepEqual(s, tt.want) {
				t.Errorf("actions %q, want %q", s, tt.want)
			}
			if got.Status.Phase != tt.phase {
				t.Errorf("phase %s, want %s", got.Status.Phase, tt.phase)
			}
		})
	}
}

func condition(st *corev1.PodStatus, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range st.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func TestReadinessAndAdoption(t *testing.T) {
	p := newPod(func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{} })
	in := base(p)
	in.Containers = []Container{running("a")}
	for _, tt := range []struct {
		name string
		old  bool
		seen Outcome
		want corev1.ConditionStatus
	}{
		{"never asked", false, NoOutcome, "False"}, {"success", false, Success, "True"}, {"failure", true, Failure, "False"},
		{"adopted", true, NoOutcome, "True"},
	} {
		in.Pod = p.DeepCopy()
		in.Pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", ContainerID: "containerd://id-a", Ready: tt.old}}
		in.Probes["id-a"] = Probes{Readiness: tt.seen}
		st := Pod(in).Status
		if got := condition(&st, corev1.PodReady); got != tt.want {
			t.Errorf("%s: ready %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	in := base(newPod(nil))
	in.Containers = []Container{exited("a", 1)}
	in.Images["a"] = Image{Spec: "i", Ready: true, Attempt: 1}
	want := []time.Duration{10, 20, 40, 80, 160, 300, 300}
	for i, w := range want {
		c := &in.Containers[0]
		c.Finished = in.Now
		if i > 0 {
			r := Pod(in)
			st := r.Status.ContainerStatuses[0]
			if len(r.Actions) != 0 || st.State.Waiting == nil || st.State.Waiting.Reason != "CrashLoopBackOff" || st.LastTerminationState.Terminated == nil {
				t.Fatalf("crash %d: %v %+v", i, short(r), st)
			}
			if r.Wake != in.Now.Add(want[i-1]*time.Second) {
				t.Fatalf("crash %d: wakes at %s", i, r.Wake)
			}
			in.Now = r.Wake
		}
		r := Pod(in)
		if len(r.Actions) != 1 || r.Actions[0].Backoff != w*time.Second {
			t.Fatalf("crash %d: %v %+v, want %ds", i, short(r), r.Actions, w)
		}
		c.Backoff, c.Created = r.Actions[0].Backoff, in.Now
	}
	in.Now = in.Now.Add(11 * time.Minute)
	in.Containers[0].Finished = in.Now
	if r := Pod(in); len(r.Actions) != 1 || r.Actions[0].Backoff != 10*time.Second {
		t.Errorf("after ten quiet minutes: %v", r.Actions)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	p := newPod(func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, container("b"), container("c"), container("d"))
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	})
	in := base(p)
	total := 0
	for _, c := range p.Spec.Containers {
		e := exited(c.Name, 1)
		e.Message = strings.Repeat("ä", 2048)
		in.Containers = append(in.Containers, e)
	}
	for _, st := range Pod(in).Status.ContainerStatuses {
		m := st.State.Terminated.Message
		if !utf8.ValidString(m) || m == "" {
			t.Errorf("%q", m)
		}
		total += len(m)
	}
	if total > 12<<10 {
		t.Errorf("%d bytes", total)
	}
}

// A restart of the kubelet must not write what the API has already.
func TestTimesAreSeconds(t *testing.T) {
	in := base(newPod(nil))
	in.Now = now.Add(123456789)
	in.Containers = []Container{exited("a", 1), running("a")}
	for i := range in.Containers {
		c := &in.Containers[i]
		c.Started, c.Finished = c.Started.Add(987654321), c.Finished.Add(1)
	}
	st := Pod(in).Status
	data, err := json.Marshal(&st)
	if err != nil {
		t.Fatal(err)
	}
	var back corev1.PodStatus
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(st, back) {
		t.Errorf("%+v\nis read back as\n%+v", st, back)
	}
}

func TestOtherRuntime(t *testing.T) {
	in := base(newPod(nil))
	in.Runtime = "cri-o"
	in.Containers = []Container{running("a")}
	if st := Pod(in).Status; st.ContainerStatuses[0].ContainerID != "cri-o://id-a" {
		t.Errorf("%+v", st.ContainerStatuses)
	}
}

// TestVolumeImages: a container waits for the images that it mounts, one that
// mounts none of them does not, and a new attempt asks for each anew.
func TestVolumeImages(t *testing.T) {
	in := base(newPod(func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "data", PullPolicy: corev1.PullNever}}}}
		mounts := container("m")
		mounts.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}, {Name: "v", MountPath: "/again", SubPath: "x"}}
		p.Spec.Containers = append(p.Spec.Containers, mounts)
	}))
	asked := func(r Result) (out []string) {
		for _, a := range r.Actions {
			out = append(out, strings.TrimSpace(string(a.Op)+" "+cmp.Or(a.Image, a.Container)))
		}
		return out
	}
	check := func(when string, want ...string) Result {
		t.Helper()
		r := Pod(in)
		if got := asked(r); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
		return r
	}
	in.Sandboxes, in.Volumes = nil, Volumes{}
	in.Images = map[string]Image{}
	check("at first", "ensure image a", "ensure image m", "ensure image m/v", "prepare volumes")

	in = base(in.Pod)
	in.Containers = []Container{running("a")}
	check("a runs", "ensure image m/v")
	in.Images["m/v"] = Image{Spec: "data", Reason: "ErrImageNeverPull", Message: "no", At: now, Delay: time.Minute}
	if w := check("it is not there").Status.ContainerStatuses[1].State.Waiting; w == nil || w.Reason != "ErrImageNeverPull" || w.Message != "no" {
		t.Errorf("%+v", w)
	}
	in.Images["m/v"] = Image{Spec: "data", Ready: true, ID: "sha"}
	check("it is there", "start container m")
	end := exited("m", 1)
	in.Containers = append(in.Containers, end)
	in.Images["m"] = Image{Spec: "i", Ready: true, Attempt: 1}
	check("again", "ensure image m/v")
}

func TestImageErrors(t *testing.T) {
	in := base(newPod(nil))
	in.Images["a"] = Image{Spec: "i", Reason: "ErrImagePull", Message: "no", At: now, Delay: 10 * time.Second}
	for _, tt := range []struct {
		after   time.Duration
		reason  string
		actions int
	}{{time.Second, "ErrImagePull", 0}, {3 * time.Second, "ImagePullBackOff", 0}, {10 * time.Second, "ImagePullBackOff", 1}} {
		in.Now = now.Add(tt.after)
		r := Pod(in)
		if got := r.Status.ContainerStatuses[0].State.Waiting.Reason; got != tt.reason || len(r.Actions) != tt.actions {
			t.Errorf("after %s: %s, %v", tt.after, got, short(r))
		}
	}
}

func TestForeignConditionsStay(t *testing.T) {
	p := newPod(nil)
	p.Status.Conditions = []corev1.PodCondition{{Type: "DisruptionTarget", Status: "True", Reason: "r"}}
	st := Pod(base(p)).Status
	if condition(&st, "DisruptionTarget") != "True" || len(st.Conditions) != 6 {
		t.Errorf("%v", st.Conditions)
	}
}

// world is a runtime that does at once what it is told.
type world struct {
	in   Input
	next int
}

func (w *world) apply(a Action) {
	switch a.Op {
	case PrepareVolumes:
		w.in.Volumes = Volumes{Ready: true}
	case CreateSandbox:
		w.next++
		w.in.Sandboxes = append([]Sandbox{{ID: fmt.Sprint("s", w.next), Ready: true, Attempt: a.Attempt}}, w.in.Sandboxes...)
	case EnsureImage:
		c := w.in.Images[a.Image]
		c.Spec, c.Attempt, c.Ready = "i", a.Attempt, true
		w.in.Images[a.Image] = c
	case StartContainer:
		w.next++
		c := container(a.Container)
		w.in.Containers = append(w.in.Containers, Container{ID: fmt.Sprint("c", w.next), SandboxID: w.in.Sandboxes[0].ID, Name: a.Container, Attempt: a.Attempt,
			Hash: Hash(&c), Backoff: a.Backoff, State: Running, Created: w.in.Now.Add(time.Duration(w.next)), Started: w.in.Now})
	case KillContainer:
		w.end(a.ID, 137)
	case StopSandbox:
		for i := range w.in.Sandboxes {
			if w.in.Sandboxes[i].ID == a.ID {
				w.in.Sandboxes[i].Ready = false
			}
		}
	case CleanUp:
		w.in.Volumes = Volumes{Cleaned: true}
	case RemoveSandboxes:
		w.in.Sandboxes, w.in.Containers = nil, nil
	case Delete:
		w.in.Gone = true
	}
}

func (w *world) end(id string, code int32) {
	for i := range w.in.Containers {
		if c := &w.in.Containers[i]; c.ID == id && c.State == Running {
			c.State, c.ExitCode, c.Finished = Exited, code, w.in.Now
		}
	}
}

// settle until nothing is planned; few passes must do.
func (w *world) settle(t *rapid.T) Result {
	for range 40 {
		r := Pod(w.in)
		w.in.Since = r.Since
		w.in.Pod = w.in.Pod.DeepCopy()
		w.in.Pod.Status = r.Status
		if len(r.Actions) > 2*len(w.in.Containers)+len(w.in.Pod.Spec.Containers)+4 {
			t.Fatalf("%d actions in one pass", len(r.Actions))
		}
		if len(r.Actions) == 0 {
			return r
		}
		for _, a := range r.Actions {
			w.apply(a)
		}
	}
	t.Fatalf("does not settle: %v", short(Pod(w.in)))
	return Result{}
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}).Draw(t, "policy")
		p := newPod(func(p *corev1.Pod) { p.Spec.RestartPolicy = policy })
		for i := range rapid.IntRange(0, 2).Draw(t, "more") {
			p.Spec.Containers = append(p.Spec.Containers, container(fmt.Sprint("m", i)))
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "init") {
			c := container(fmt.Sprint("i", i))
			if rapid.Bool().Draw(t, "sidecar") {
				always2(&c)
			}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
		w := &world{in: base(p)}
		w.in.Volumes, w.in.Sandboxes, w.in.Images = Volumes{}, nil, map[string]Image{}
		for range rapid.IntRange(0, 12).Draw(t, "steps") {
			w.settle(t)
			if rapid.IntRange(0, 5).Draw(t, "box") == 0 && len(w.in.Sandboxes) > 0 {
				w.in.Sandboxes[0].Ready = false
			}
			for _, c := range w.in.Containers {
				if c.State == Running && rapid.Bool().Draw(t, "ends") {
					w.end(c.ID, int32(rapid.IntRange(0, 1).Draw(t, "code")))
				}
			}
			phase := w.in.Pod.Status.Phase
			w.in.Now = w.in.Now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "pause")) * time.Second)
			r := w.settle(t)
			if (phase == corev1.PodSucceeded || phase == corev1.PodFailed) && r.Status.Phase != phase {
				t.Fatalf("phase went from %s to %s", phase, r.Status.Phase)
			}
			// Mains run only in a sandbox whose init containers have succeeded.
			w.checkOrder(t)
		}
		at, g := metav1.NewTime(w.in.Now), int64(0)
		w.in.Pod.DeletionTimestamp, w.in.Pod.DeletionGracePeriodSeconds = &at, &g
		if r := w.settle(t); !r.Done || len(w.in.Sandboxes)+len(w.in.Containers) > 0 || !w.in.Volumes.Cleaned {
			t.Fatalf("something is left: %+v", w.in)
		}
	})
}

func (w *world) checkOrder(t *rapid.T) {
	if len(w.in.Sandboxes) == 0 {
		return
	}
	box := w.in.Sandboxes[0].ID
	has := func(name string, ok func(Container) bool) bool {
		for _, c := range w.in.Containers {
			if c.Name == name && c.SandboxID == box && ok(c) {
				return true
			}
		}
		return false
	}
	any := func(Container) bool { return true }
	main := false
	for _, c := range w.in.Pod.Spec.Containers {
		main = main || has(c.Name, any)
	}
	for i := range w.in.Pod.Spec.InitContainers {
		c := &w.in.Pod.Spec.InitContainers[i]
		if main && !sidecar(c) && !has(c.Name, func(c Container) bool { return c.State == Exited && c.ExitCode == 0 }) {
			t.Fatalf("main containers run although %s has not succeeded", c.Name)
		}
	}
	live := map[string]int{}
	for _, c := range w.in.Containers {
		if c.State == Running {
			if live[c.Name]++; live[c.Name] > 1 {
				t.Fatalf("%s runs twice", c.Name)
			}
		}
	}
}

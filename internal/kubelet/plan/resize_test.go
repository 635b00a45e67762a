package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

// asks is a container with requests and limits that are the same.
func asks(name, cpu, memory string) corev1.Container {
	c := container(name)
	c.Resources = corev1.ResourceRequirements{Requests: list(cpu, memory), Limits: list(cpu, memory)}
	return c
}

func guaranteed(milli, bytes int64) Amounts { return Amounts{milli, milli, bytes, bytes} }

func steps(r Result) []string {
	var out []string
	for _, a := range r.Actions {
		switch a.Op {
		case UpdateContainer:
			out = append(out, fmt.Sprintf("%s %d/%d %d/%d", a.Container, a.Amounts.CPURequest, a.Amounts.CPULimit, a.Amounts.MemoryRequest, a.Amounts.MemoryLimit))
		case SetCgroup:
			out = append(out, fmt.Sprintf("%s of %d/%d %d", a.Part, a.Amounts.CPURequest, a.Amounts.CPULimit, a.Amounts.MemoryLimit))
		default:
			out = append(out, string(a.Op)+" "+a.Container)
		}
	}
	return out
}

// given is a running container that was told these amounts.
func given(name string, a Amounts) Container {
	c := running(name)
	c.Given, c.Told = a, true
	return c
}

func TestResize(t *testing.T) {
	restart := func(r corev1.ResourceName) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: r, RestartPolicy: corev1.RestartContainer}}
		}
	}
	for _, tt := range []struct {
		name       string
		containers []corev1.Container
		pod        func(*corev1.Pod)
		have       []Amounts
		cgroup     Amounts
		usage      map[string]int64
		want       []string
		why        string
		still      bool
	}{
		{"nothing", []corev1.Container{asks("a", "1", "100")}, nil, []Amounts{guaranteed(1000, 100)}, guaranteed(1000, 100), nil, nil, "", false},
		{"more", []corev1.Container{asks("a", "2", "200")}, nil, []Amounts{guaranteed(1000, 100)}, guaranteed(1000, 100), nil,
			[]string{"memory limit of 2000/2000 200", "a 1000/1000 200/200", "cpu limit of 2000/2000 200", "cpu shares of 2000/2000 200", "a 2000/2000 200/200"}, "", true},
		{"less", []corev1.Container{asks("a", "1", "100")}, nil, []Amounts{guaranteed(2000, 200)}, guaranteed(2000, 200), map[string]int64{"": 50, "id-a": 50},
			[]string{"a 2000/2000 100/100", "memory limit of 1000/1000 100", "a 1000/1000 100/100", "cpu shares of 1000/1000 100", "cpu limit of 1000/1000 100"}, "", true},
		{"who gives goes first", []corev1.Container{asks("a", "2", "200"), asks("b", "1", "100")}, nil,
			[]Amounts{guaranteed(1000, 100), guaranteed(2000, 200)}, guaranteed(3000, 300), map[string]int64{"id-b": 50, "": 60},
			[]string{"b 2000/2000 100/100", "a 1000/1000 200/200", "b 1000/1000 100/100", "a 2000/2000 200/200"}, "", true},
		{"below what is in use", []corev1.Container{asks("a", "1", "100")}, nil, []Amounts{guaranteed(1000, 200)}, guaranteed(1000, 200), map[string]int64{"": 150, "id-a": 140},
			nil, `cannot decrease memory limits: [attempting to set pod memory limit (100) below current usage (150), attempting to set container "a" memory limit (100) below current usage (140)]`, true},
		{"usage unknown", []corev1.Container{asks("a", "1", "100")}, nil, []Amounts{guaranteed(1000, 200)}, Amounts{1000, 1000, 0, 100}, nil,
			nil, `cannot decrease memory limits: missing container "a" memory usage`, true},
		{"a first limit", []corev1.Container{asks("a", "1", "100")}, nil, []Amounts{{CPURequest: 1000, MemoryRequest: 100}}, Amounts{CPURequest: 1000}, map[string]int64{"": 1, "id-a": 1},
			[]string{"a 1000/0 100/100", "memory limit of 1000/1000 100", "a 1000/1000 100/100", "cpu limit of 1000/1000 100"}, "", true},
		{"cpu with a restart", []corev1.Container{asks("a", "2", "100")}, restart(corev1.ResourceCPU), []Amounts{guaranteed(1000, 100)}, guaranteed(1000, 100), nil,
			[]string{"kill container a", "cpu limit of 2000/2000 100", "cpu shares of 2000/2000 100"}, "", true},
		{"less cpu with a restart", []corev1.Container{asks("a", "1", "100")}, restart(corev1.ResourceCPU), []Amounts{guaranteed(2000, 100)}, guaranteed(2000, 100), nil,
			[]string{"kill container a"}, "", true},
		{"memory restarts, cpu changes", []corev1.Container{asks("a", "2", "100")}, restart(corev1.ResourceMemory), []Amounts{guaranteed(1000, 100)}, guaranteed(1000, 100), nil,
			[]string{"cpu limit of 2000/2000 100", "cpu shares of 2000/2000 100", "a 2000/2000 100/100"}, "", true},
		{"the pod's limit is the container's", []corev1.Container{container("a")}, func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("1", ""), Limits: list("2", "")}
		}, []Amounts{{CPULimit: 1000}}, Amounts{CPURequest: 1000, CPULimit: 1000}, nil,
			[]string{"cpu limit of 1000/2000 0", "a 0/2000 0/0"}, "", true},
		{"only the cgroup is left", []corev1.Container{asks("a", "1", "100")}, nil, []Amounts{guaranteed(1000, 100)}, guaranteed(2000, 100), nil,
			[]string{"cpu shares of 1000/1000 100", "cpu limit of 1000/1000 100"}, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPod(func(p *corev1.Pod) {
				p.Generation, p.Spec.Containers = 7, tt.containers
				if tt.pod != nil {
					tt.pod(p)
				}
			})
			in := base(p)
			in.Cgroup, in.Usage, in.Resizing = tt.cgroup, tt.usage, 5
			for i, c := range tt.containers {
				in.Containers = append(in.Containers, given(c.Name, tt.have[i]))
			}
			out := Pod(in)
			if got := steps(out); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if out.ResizeError != tt.why || out.Resizing != tt.still {
				t.Errorf("error %q, resizing %v", out.ResizeError, out.Resizing)
			}
			cond := find(out.Status.Conditions, corev1.PodResizeInProgress)
			if (cond != nil) != tt.still || cond != nil && (cond.ObservedGeneration != 5 || cond.Message != tt.why || (cond.Reason == corev1.PodReasonError) != (tt.why != "")) {
				t.Errorf("condition %+v", cond)
			}
			for _, e := range out.Events {
				if tt.why != "" && e.Reason == "ResizeError" && !strings.HasPrefix(e.Message, `Pod resize error: {"containers":[{"name":"a"`) {
					t.Errorf("event %+v", e)
				}
			}
			done(t, in)
		})
	}
}

// done plays the actions until nothing is left, whatever their number is.
func done(t *testing.T, in Input) {
	t.Helper()
	for range 10 {
		out := Pod(in)
		if out.ResizeError != "" || len(out.Actions) == 0 {
			if out.ResizeError == "" && out.Resizing {
				t.Errorf("it never ends: %+v", in.Cgroup)
			}
			return
		}
		for _, a := range out.Actions {
			i := slices.IndexFunc(in.Containers, func(c Container) bool { return c.ID == a.ID })
			switch {
			case a.Op == UpdateContainer:
				in.Containers[i].Given = a.Amounts
			case a.Op == KillContainer:
				in.Containers[i].State, in.Containers[i].Killed, in.Containers[i].Finished = Exited, true, now
			case a.Op == StartContainer:
				c := given(a.Container, GivenOf(in.Pod, a.Container))
				c.ID, c.Attempt, c.Created = c.ID+"-2", a.Attempt, now
				in.Containers = append(in.Containers, c)
			case a.Part == MemoryLimit:
				in.Cgroup.MemoryLimit = a.Amounts.MemoryLimit
			case a.Part == CPULimit:
				in.Cgroup.CPULimit = a.Amounts.CPULimit
			case a.Part == CPUShares:
				in.Cgroup.CPURequest = a.Amounts.CPURequest
			case a.Op == EnsureImage:
				in.Images[a.Container] = Image{Spec: "i", Ready: true, Attempt: a.Attempt}
			}
		}
	}
	t.Error("there is always something to do")
}

func find(list []corev1.PodCondition, of corev1.PodConditionType) *corev1.PodCondition {
	i := slices.IndexFunc(list, func(c corev1.PodCondition) bool { return c.Type == of })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// TestResizeRestartsWhatEndedWell: a container that is to start anew does so
// although its end looks like success, and the API never sees that end.
func TestResizeRestartsWhatEndedWell(t *testing.T) {
	p := newPod(func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure })
	in := base(p)
	c := exited("a", 0)
	c.Killed = true
	in.Containers = []Container{c}
	in.Images["a"] = Image{Spec: "i", Ready: true, Attempt: 1}
	out := Pod(in)
	if got := short(out); !slices.Equal(got, []string{"start container a 1"}) {
		t.Errorf("got %q", got)
	}
	if st := out.Status.ContainerStatuses[0]; st.State.Waiting == nil || out.Status.Phase != corev1.PodRunning {
		t.Errorf("%s %+v", out.Status.Phase, st.State)
	}
	in.Containers[0].Killed = false
	if out := Pod(in); out.Status.Phase != corev1.PodSucceeded {
		t.Errorf("one that ended by itself: %s %q", out.Status.Phase, short(out))
	}
}

func TestStatusResources(t *testing.T) {
	p := newPod(func(p *corev1.Pod) { p.Spec.Containers = []corev1.Container{asks("a", "500m", "100Mi")} })
	in := base(p)
	c := given("a", guaranteed(250, 50<<20))
	c.Actual = Amounts{CPURequest: 200, CPULimit: 300}
	in.Containers, in.Cgroup = []Container{c}, guaranteed(250, 50<<20)
	in.Usage = map[string]int64{}
	st := Pod(in).Status
	got := st.ContainerStatuses[0]
	want := corev1.ResourceRequirements{Requests: list("200m", "50Mi"), Limits: list("300m", "50Mi")}
	for name, q := range want.Limits {
		if l, r := got.Resources.Limits[name], got.Resources.Requests[name]; l.Cmp(q) != 0 || r.Cmp(want.Requests[name]) != 0 {
			t.Errorf("%s: %v", name, got.Resources)
		}
	}
	if q := got.AllocatedResources[corev1.ResourceCPU]; q.String() != "500m" {
		t.Errorf("allocated: %v", got.AllocatedResources)
	}
	if q, r := st.AllocatedResources[corev1.ResourceMemory], st.Resources.Limits[corev1.ResourceMemory]; q.String() != "100Mi" || r.String() != "50Mi" {
		t.Errorf("pod: %v %v", st.AllocatedResources, st.Resources)
	}
	in.Containers[0].State = Exited
	if got := Pod(in).Status.ContainerStatuses[0].Resources; got.Limits.Cpu().String() != "500m" {
		t.Errorf("of one that does not run: %v", got)
	}
}

func TestPendingResize(t *testing.T) {
	p := newPod(func(p *corev1.Pod) { p.Generation = 3 })
	in := base(p)
	in.Containers = []Container{given("a", Amounts{})}
	in.Pending = &Pending{Message: "Node didn't have enough resource: cpu", Generation: 2}
	out := Pod(in)
	c := find(out.Status.Conditions, corev1.PodResizePending)
	if c == nil || c.Reason != corev1.PodReasonDeferred || c.ObservedGeneration != 2 || c.Message != in.Pending.Message {
		t.Fatalf("%+v", c)
	}
	p.Status, in.Pending = out.Status, nil
	if c := find(Pod(in).Status.Conditions, corev1.PodResizePending); c != nil {
		t.Errorf("it stays: %+v", c)
	}
}

func TestAllocation(t *testing.T) {
	p := newPod(func(p *corev1.Pod) { p.Spec.Containers = []corev1.Container{asks("a", "1", "100")} })
	a := AllocationOf(p)
	if a.Apply(p) != p {
		t.Error("a copy of what is the same")
	}
	more := p.DeepCopy()
	more.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
	got := a.Apply(more)
	if got == more || got.Spec.Containers[0].Resources.Requests.Cpu().String() != "1" {
		t.Errorf("%v", got.Spec.Containers[0].Resources)
	}
	if more.Spec.Containers[0].Resources.Requests.Cpu().String() != "2" {
		t.Error("the pod was changed")
	}
}

func TestCompareWishes(t *testing.T) {
	wish := func(name, from, to string, priority int32, limits bool, since int) Wish {
		pod := func(cpu string) *corev1.Pod {
			c := asks("a", cpu, "100")
			if !limits {
				c.Resources.Limits = nil
			}
			return newPod(func(p *corev1.Pod) {
				p.ObjectMeta = metav1.ObjectMeta{Name: name}
				p.Spec.Containers, p.Spec.Priority = []corev1.Container{c}, &priority
			})
		}
		w := Wish{Pod: pod(to), Allocated: pod(from)}
		if since > 0 {
			w.Since = now.Add(time.Duration(since) * time.Second)
		}
		return w
	}
	list := []Wish{
		wish("new", "1", "2", 0, false, 0),
		wish("young", "1", "2", 0, false, 9),
		wish("old", "1", "2", 0, false, 1),
		wish("guaranteed", "1", "2", 0, true, 9),
		wish("important", "1", "2", 5, false, 9),
		wish("shrinks", "2", "1", 0, false, 9),
	}
	slices.SortFunc(list, CompareWishes)
	var got []string
	for _, w := range list {
		got = append(got, w.Pod.Name)
	}
	if want := []string{"shrinks", "important", "guaranteed", "old", "young", "new"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

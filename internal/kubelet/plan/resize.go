package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	resourcehelper "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/internal/kinds/qos"
)

// Amounts are what a container or pod asks for and may use: cpu in thousandths
// of a core, memory in bytes. 0: nothing, or no limit.
type Amounts struct {
	CPURequest    int64 `json:"cpuRequest,omitempty"`
	CPULimit      int64 `json:"cpuLimit,omitempty"`
	MemoryRequest int64 `json:"memoryRequest,omitempty"`
	MemoryLimit   int64 `json:"memoryLimit,omitempty"`
}

// AmountsOf a container. The pod's own limit is that of a container without.
func AmountsOf(pod *corev1.Pod, c *corev1.Container) Amounts {
	a := amounts(c.Resources.Requests, c.Resources.Limits)
	if r := pod.Spec.Resources; r != nil {
		if a.CPULimit == 0 {
			a.CPULimit = r.Limits.Cpu().MilliValue()
		}
		if a.MemoryLimit == 0 {
			a.MemoryLimit = r.Limits.Memory().Value()
		}
	}
	return a
}

func amounts(requests, limits corev1.ResourceList) Amounts {
	return Amounts{requests.Cpu().MilliValue(), limits.Cpu().MilliValue(), requests.Memory().Value(), limits.Memory().Value()}
}

// PodAmounts are those of a pod's cgroup. It is limited only in what the pod
// itself or every one of its containers is.
func PodAmounts(pod *corev1.Pod) Amounts {
	o := resourcehelper.PodResourcesOptions{}
	a := amounts(resourcehelper.PodRequests(pod, o), resourcehelper.PodLimits(pod, o))
	cpu, memory := true, true
	for _, list := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			l := list[i].Resources.Limits
			cpu, memory = cpu && !l.Cpu().IsZero(), memory && !l.Memory().IsZero()
		}
	}
	if r := pod.Spec.Resources; r != nil {
		cpu, memory = cpu || !r.Limits.Cpu().IsZero(), memory || !r.Limits.Memory().IsZero()
	}
	if !cpu {
		a.CPULimit = 0
	}
	if !memory {
		a.MemoryLimit = 0
	}
	return a
}

// Allocation is what a node has promised a pod. It follows the pod's spec when
// the node has room for that.
type Allocation struct {
	Containers map[string]corev1.ResourceRequirements `json:"containers"`
	Pod        *corev1.ResourceRequirements           `json:"pod,omitempty"`
}

// AllocationOf is what the spec asks for.
func AllocationOf(pod *corev1.Pod) Allocation {
	a := Allocation{Containers: map[string]corev1.ResourceRequirements{}, Pod: pod.Spec.Resources.DeepCopy()}
	for _, list := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			a.Containers[list[i].Name] = *list[i].Resources.DeepCopy()
		}
	}
	return a
}

// Apply shows the pod as the node has promised it: the pod itself, if that is
// what its spec asks for.
func (a Allocation) Apply(pod *corev1.Pod) *corev1.Pod {
	if a.Containers == nil || a.covers(pod) {
		return pod
	}
	out := pod.DeepCopy()
	out.Spec.Resources = a.Pod.DeepCopy()
	for _, list := range [...][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			if r, ok := a.Containers[list[i].Name]; ok {
				list[i].Resources = *r.DeepCopy()
			}
		}
	}
	return out
}

func (a Allocation) covers(pod *corev1.Pod) bool {
	for _, list := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if r, ok := a.Containers[list[i].Name]; ok && !equality.Semantic.DeepEqual(r, list[i].Resources) {
				return false
			}
		}
	}
	return equality.Semantic.DeepEqual(a.Pod, pod.Spec.Resources)
}

// Pending is a resize that the node has no room for now.
type Pending struct {
	Message    string
	Generation int64 // of the pod, when it was last judged
}

// Wish is a resize that waits for its turn.
type Wish struct {
	Pod, Allocated *corev1.Pod
	Since          time.Time // zero: it is new
}

// CompareWishes orders resizes: those that ask for no more, then by priority,
// guaranteed pods before others, and who waits for longer (upstream's order).
func CompareWishes(a, b Wish) int {
	if c := boolean(a.grows(), b.grows()); c != 0 {
		return c
	}
	if c := cmp.Compare(priority(b.Pod), priority(a.Pod)); c != 0 {
		return c
	}
	if c := boolean(qos.Of(a.Pod) != corev1.PodQOSGuaranteed, qos.Of(b.Pod) != corev1.PodQOSGuaranteed); c != 0 {
		return c
	}
	if c := boolean(a.Since.IsZero(), b.Since.IsZero()); c != 0 {
		return c
	}
	if c := a.Since.Compare(b.Since); c != 0 {
		return c
	}
	return strings.Compare(string(a.Pod.UID), string(b.Pod.UID))
}

func boolean(a, b bool) int { // false first
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

func (w Wish) grows() bool {
	o := resourcehelper.PodResourcesOptions{}
	now, then := resourcehelper.PodRequests(w.Allocated, o), resourcehelper.PodRequests(w.Pod, o)
	return then.Cpu().Cmp(*now.Cpu()) > 0 || then.Memory().Cmp(*now.Memory()) > 0
}

// ResizeMessage is an event's text: what is wanted, for tools to read
// (upstream's form).
func ResizeMessage(prefix string, pod *corev1.Pod, generation int64, why string) string {
	type one struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	}
	var sum struct {
		InitContainers []one  `json:"initContainers,omitempty"`
		Containers     []one  `json:"containers,omitempty"`
		Generation     int64  `json:"generation"`
		Error          string `json:"error,omitempty"`
	}
	sum.Generation, sum.Error = generation, why
	for i := range pod.Spec.InitContainers {
		sum.InitContainers = append(sum.InitContainers, one{pod.Spec.InitContainers[i].Name, pod.Spec.InitContainers[i].Resources})
	}
	for i := range pod.Spec.Containers {
		sum.Containers = append(sum.Containers, one{pod.Spec.Containers[i].Name, pod.Spec.Containers[i].Resources})
	}
	data, err := json.Marshal(sum)
	if err != nil {
		return prefix
	}
	return prefix + ": " + string(data)
}

// ResizeFailure is the name under which a failed resize stands in
// Input.Failures.
const ResizeFailure = "\x00resize"

// Part of a pod's cgroup.
type Part string

// The parts, which are written one by one.
const (
	MemoryLimit Part = "memory limit"
	CPULimit    Part = "cpu limit"
	CPUShares   Part = "cpu shares"
)

// change of a running container without a restart.
type change struct {
	c          *Container
	have, want Amounts
}

// resize brings the runtime to what is allocated: memory, then cpu; what the
// pod's cgroup gains comes first, what it loses last, and so it never holds
// less than its containers.
func (p *pass) resize() {
	changes, restarting := p.changes()
	cg, want := p.in.Cgroup, PodAmounts(p.pod)
	want.MemoryRequest, cg.MemoryRequest = 0, 0 // no cgroup shows it
	if want.MemoryLimit == 0 {
		want.MemoryLimit = cg.MemoryLimit // a limit is not taken away
	}
	if want.CPULimit == 0 {
		want.CPULimit = cg.CPULimit
	}
	p.out.Resizing = len(changes) > 0 || restarting || cg != want
	if !p.out.Resizing {
		return
	}
	if f, ok := p.in.Failures[ResizeFailure]; ok {
		p.out.ResizeError = f.Message
		if !p.retry(f) {
			return
		}
	}
	if why := p.tooSmall(changes, restarting, cg, want); why != "" {
		p.out.ResizeError = why
		p.wakeAt(p.in.Now.Add(retryShrink))
		return
	}
	set := func(part Part, yes bool) {
		if yes {
			p.act(Action{Op: SetCgroup, Part: part, Amounts: want})
		}
	}
	set(MemoryLimit, raises(want.MemoryLimit, cg.MemoryLimit))
	p.update(changes, true)
	set(MemoryLimit, lowers(want.MemoryLimit, cg.MemoryLimit) && !restarting)
	set(CPULimit, raises(want.CPULimit, cg.CPULimit))
	set(CPUShares, want.CPURequest > cg.CPURequest)
	p.update(changes, false)
	set(CPUShares, want.CPURequest < cg.CPURequest && !restarting)
	set(CPULimit, lowers(want.CPULimit, cg.CPULimit) && !restarting)
}

// retryShrink is when usage is looked at again that is above a new limit.
const retryShrink = 10 * time.Second

// resizables are the containers that the runtime can change.
func (p *pass) resizables(fn func(*corev1.Container, *Container)) {
	for _, list := range [...][]corev1.Container{p.pod.Spec.InitContainers, p.pod.Spec.Containers} {
		for i := range list {
			if c := p.current(list[i].Name); c != nil && c.State == Running {
				fn(&list[i], c)
			}
		}
	}
}

func (p *pass) changes() (list []change, restarting bool) {
	p.resizables(func(spec *corev1.Container, c *Container) {
		want := AmountsOf(p.pod, spec)
		switch {
		case want == c.Given:
		case p.resizeRestarts(spec, c):
			restarting = true
		default:
			list = append(list, change{c, c.Given, want})
		}
	})
	return list, restarting
}

// resizeRestarts reports whether the container has to be made anew for what
// changed.
func (p *pass) resizeRestarts(spec *corev1.Container, c *Container) bool {
	want := AmountsOf(p.pod, spec)
	return slices.ContainsFunc(spec.ResizePolicy, func(r corev1.ContainerResizePolicy) bool {
		if r.RestartPolicy != corev1.RestartContainer {
			return false
		}
		switch r.ResourceName {
		case corev1.ResourceCPU:
			return want.CPULimit != c.Given.CPULimit || want.CPURequest != c.Given.CPURequest
		case corev1.ResourceMemory:
			return want.MemoryLimit != c.Given.MemoryLimit || want.MemoryRequest != c.Given.MemoryRequest
		}
		return false
	})
}

// update the containers in one resource: who gives before who takes.
func (p *pass) update(changes []change, memory bool) {
	var give, take []Action
	for i := range changes {
		have, want := changes[i].have, changes[i].want
		next, gives := have, false
		if memory {
			next.MemoryLimit, next.MemoryRequest = want.MemoryLimit, want.MemoryRequest
			gives = gave(have.MemoryLimit, next.MemoryLimit, have.MemoryRequest, next.MemoryRequest)
		} else {
			next.CPULimit, next.CPURequest = want.CPULimit, want.CPURequest
			gives = gave(have.CPULimit, next.CPULimit, have.CPURequest, next.CPURequest)
		}
		if next == have {
			continue
		}
		changes[i].have = next
		a := Action{Op: UpdateContainer, Container: changes[i].c.Name, ID: changes[i].c.ID, Amounts: next}
		if gives {
			give = append(give, a)
		} else {
			take = append(take, a)
		}
	}
	for _, a := range append(give, take...) {
		p.act(a)
	}
}

// gave: a limit was lowered or made, or there is the same and a lower request.
func gave(limit, newLimit, request, newRequest int64) bool {
	if limit == newLimit {
		return newRequest < request
	}
	return lowers(newLimit, limit)
}

// lowers and raises compare limits, of which 0 is none.
func lowers(to, from int64) bool { return to > 0 && (from == 0 || to < from) }
func raises(to, from int64) bool { return from > 0 && to > from }

// tooSmall says which new limits of memory are below what is in use: the
// kernel would refuse them, or kill.
func (p *pass) tooSmall(changes []change, restarting bool, cg, want Amounts) string {
	var errs []string
	judge := func(id, who string, limit, old int64) {
		if !lowers(limit, old) {
			return
		}
		switch used, known := p.in.Usage[id]; {
		case !known:
			errs = append(errs, "missing "+who+" memory usage")
		case used >= limit:
			errs = append(errs, fmt.Sprintf("attempting to set %s memory limit (%d) below current usage (%d)", who, limit, used))
		}
	}
	if !restarting {
		judge("", "pod", want.MemoryLimit, cg.MemoryLimit)
	}
	for _, c := range changes {
		judge(c.c.ID, fmt.Sprintf("container %q", c.c.Name), c.want.MemoryLimit, c.have.MemoryLimit)
	}
	switch len(errs) {
	case 0:
		return ""
	case 1:
		return "cannot decrease memory limits: " + errs[0]
	}
	return "cannot decrease memory limits: [" + strings.Join(errs, ", ") + "]"
}

// GivenOf is what a container of that name was made with, if the pod was never
// resized.
func GivenOf(pod *corev1.Pod, name string) Amounts {
	for _, list := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return AmountsOf(pod, &list[i])
			}
		}
	}
	return Amounts{}
}

// Unsized reports whether something that runs has not got what is allocated;
// then the driver looks at usage before the next plan.
func Unsized(pod *corev1.Pod, containers []Container) bool {
	for _, list := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for j := range containers {
				if c := &containers[j]; c.Name == list[i].Name && c.State == Running && c.Given != AmountsOf(pod, &list[i]) {
					return true
				}
			}
		}
	}
	return false
}

// Package plan decides what happens to one pod on its node: from its spec,
// what the runtime shows, what probes found and what failed before, to ordered
// actions, the status to report and when to look again. It is pure: time and
// memory are fields of the input, and the driver does what is said.
package plan

import (
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Back-off of restarts and of image pulls: 10 s doubling to 5 minutes, and
// forgotten when twice the maximum has passed (upstream's figures).
const (
	backoffFirst  = 10 * time.Second
	backoffMax    = 5 * time.Minute
	backoffForget = 2 * backoffMax
	// errorShown is how long ErrImagePull is shown before ImagePullBackOff.
	errorShown = 2 * time.Second
	// retryFirst and retryMax bound the attempts to create what failed for a
	// reason other than the container's own end.
	retryFirst = time.Second
	retryMax   = time.Minute
	// evictionGrace of a pod that has outgrown a limit of its own (upstream's
	// figure).
	evictionGrace = time.Second
	// MinGrace is left to a container although its grace has passed in a
	// preStop hook (upstream's figure).
	MinGrace = 2 * time.Second
)

// State of a container or sandbox in the runtime.
type State int

// The states.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Sandbox as the runtime shows it.
type Sandbox struct {
	ID      string
	Ready   bool
	Attempt uint32
	Created time.Time
	IPs     []string
}

// Container as the runtime shows it, with what the driver knows of it.
type Container struct {
	ID        string
	SandboxID string
	Name      string
	Attempt   uint32 // restart count
	Hash      string // of the spec that it was made of
	Image     string // as asked for
	ImageID   string
	State     State
	Created   time.Time
	Started   time.Time
	Finished  time.Time
	ExitCode  int32
	Reason    string                     // the runtime's: OOMKilled, Error, Completed
	Message   string                     // termination message
	User      *corev1.LinuxContainerUser // of its first process, if the runtime tells

	// Backoff is how long its next start waits after its end. The runtime keeps
	// it with the container, so that a kubelet that starts anew knows it too.
	Backoff time.Duration

	// Given are the amounts that the runtime was told last, Actual those that
	// hold, as far as the runtime or the kernel tell them.
	Given, Actual Amounts
	Told          bool // Given is known

	Killing    bool      // the driver is ending it
	Killed     bool      // the driver ended it, or is about to
	KillBefore time.Time // when that will be over at the latest
	Hook       Hook      // postStart
}

// Hook is the state of a postStart hook.
type Hook int

// The states; an adopted container's hook counts as done.
const (
	HookDone Hook = iota
	HookRunning
	HookFailed
)

// Outcome of a probe, after its thresholds.
type Outcome int

// The outcomes.
const (
	NoOutcome Outcome = iota
	Success
	Failure
)

// Probes are one container's outcomes.
type Probes struct {
	Startup, Liveness, Readiness Outcome
}

// Image is what the driver knows of the image for one attempt of a container.
type Image struct {
	Attempt uint32
	Spec    string // the reference it was looked up for
	Ready   bool
	ID      string
	Pulling bool
	Reason  string // ErrImagePull, ErrImageNeverPull, InvalidImageName, ...
	Message string
	At      time.Time // of the failure
	Delay   time.Duration
}

// Failed is what prevented the last attempt to start something.
type Failed struct {
	Reason, Message string
	At              time.Time
	Count           int
}

// Volumes is the state of the pod's directories and mounts.
type Volumes struct {
	Ready   bool
	Working bool
	Failed  Failed
	Cleaned bool   // nothing of the pod is left on the node but its logs
	Unclean Failed // what keeps it from being so
}

// Devices that the pod claims.
type Devices struct {
	// Held: drivers have prepared some for the pod. Before they have taken that
	// back, nobody may be told that the pod has ended, or its claims would be
	// given to another one too early.
	Held   bool
	Health map[string][]corev1.ResourceStatus // by container name
}

// Input is everything that a decision depends on.
type Input struct {
	Pod  *corev1.Pod
	Gone bool // the API has no such pod any more: end it and tell nobody
	Now  time.Time

	NodeIP  string
	Runtime string // the runtime's name, as in "containerd"

	RecursiveReadOnly bool // the runtime can mount so

	Sandboxes  []Sandbox // newest first
	Containers []Container
	Probes     map[string]Probes // by container ID
	Images     map[string]Image  // by Need.Key
	Failures   map[string]Failed // by container name; "" is the sandbox
	Volumes    Volumes
	Devices    Devices

	Rejected *Rejection // the node refuses the pod
	Evicted  string     // why the node ends the pod for good; "": it does not

	// Pod shows what is allocated to it. Its spec in the API may ask for
	// something else: then Pending says why the node does not give that.
	Pending  *Pending
	Resizing int64            // generation of the pod whose resize is under way; 0: none is
	Cgroup   Amounts          // what the pod's cgroup was told last
	Usage    map[string]int64 // of memory, by container ID; "" is the pod
	// Since is when the pod's ending began, as an earlier result said.
	Since time.Time
}

// Rejection of a pod by the node.
type Rejection struct {
	Reason, Message string
}

// Op is what the driver is to do.
type Op string

// The operations, in the order in which a pod's life meets them.
const (
	PrepareVolumes  Op = "prepare volumes"
	CreateSandbox   Op = "create sandbox"
	EnsureImage     Op = "ensure image"
	StartContainer  Op = "start container"
	KillContainer   Op = "kill container"
	UpdateContainer Op = "resize container" // to Action.Amounts, while it runs
	SetCgroup       Op = "resize the pod"   // one Action.Part of its cgroup
	RemoveContainer Op = "remove container" // created, never started
	StopSandbox     Op = "stop sandbox"
	CleanUp         Op = "clean up"       // volumes, cgroups; probes have stopped
	RemoveSandboxes Op = "remove"         // sandboxes and containers, with their logs
	Delete          Op = "delete the pod" // from the API, with grace 0
)

// Action is one step; the driver does them in order and plans again.
type Action struct {
	Op        Op
	Container string // name
	Image     string // EnsureImage: Need.Key
	ID        string // container or sandbox
	Attempt   uint32
	Backoff   time.Duration // StartContainer: to be kept with the container
	Grace     time.Duration // KillContainer
	Reason    string        // KillContainer: why, for the event
	Message   string
	NoHook    bool // KillContainer: without preStop
	Amounts   Amounts
	Part      Part
}

// Kind of a probe.
type Kind string

// The kinds.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Probing is a probe that should be running.
type Probing struct {
	Kind      Kind
	Container string
	ID        string
}

// Event to emit when it is first said.
type Event struct {
	Container       string
	Warning         bool
	Reason, Message string
}

// Result of one decision.
type Result struct {
	Actions []Action
	Status  corev1.PodStatus
	Probing []Probing
	Events  []Event
	Since   time.Time
	Wake    time.Time // look again then; zero: only when something changes
	Done    bool      // nothing is left to do for this pod, ever

	Resizing    bool   // something that runs has not got what is allocated
	ResizeError string // what prevents it
}

// Need is an image that a container cannot start without.
type Need struct {
	Key    string // of the container and what the image is for
	Image  string // reference
	Policy corev1.PullPolicy
}

// Needs of a container: its own image, and those that it mounts as volumes.
func Needs(pod *corev1.Pod, c *corev1.Container) []Need {
	out := []Need{{c.Name, c.Image, c.ImagePullPolicy}}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		mounts := func(m corev1.VolumeMount) bool { return m.Name == v.Name }
		if v.Image != nil && slices.ContainsFunc(c.VolumeMounts, mounts) {
			out = append(out, Need{VolumeImage(c.Name, v.Name), v.Image.Reference, v.Image.PullPolicy})
		}
	}
	return out
}

// VolumeImage is the key of the image that a container mounts as a volume.
func VolumeImage(container, volume string) string { return container + "/" + volume }

// Hash identifies what a container was made of. Only the image may change in
// the life of a pod.
func Hash(c *corev1.Container) string {
	h := fnv.New64a()
	h.Write([]byte(c.Name + "\x00" + c.Image))
	return strconv.FormatUint(h.Sum64(), 16)
}

// pass is one decision in the making.
type pass struct {
	in  Input
	pod *corev1.Pod
	out Result

	box    *Sandbox                // the newest, if ready
	byName map[string][]*Container // newest first
	wait   map[string]waiting      // why a container does not run
	old    map[string]*corev1.ContainerStatus

	ending   bool // the pod must end
	terminal bool // it has ended by itself, or ended for good before
}

type waiting struct{ reason, message string }

// Pod decides. Same input, same output; the input is not changed.
func Pod(in Input) Result {
	p := newPass(in)
	switch {
	case in.Rejected != nil && len(p.byName) == 0:
		p.rejected()
	case p.ending:
		p.end()
	default:
		p.live()
	}
	if in.Rejected == nil || len(p.byName) > 0 {
		p.status()
	}
	p.probing()
	return p.out
}

func newPass(in Input) *pass {
	p := &pass{in: in, pod: in.Pod, byName: map[string][]*Container{}, wait: map[string]waiting{}, old: map[string]*corev1.ContainerStatus{}}
	p.out.Since = in.Since
	if len(in.Sandboxes) > 0 && in.Sandboxes[0].Ready {
		p.box = &in.Sandboxes[0]
	}
	for i := range in.Containers {
		c := &in.Containers[i]
		p.byName[c.Name] = append(p.byName[c.Name], c)
	}
	for _, list := range p.byName {
		newestFirst(list)
	}
	st := &in.Pod.Status
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			p.old[list[i].Name] = &list[i]
		}
	}
	p.terminal = st.Phase == corev1.PodSucceeded || st.Phase == corev1.PodFailed
	p.ending = in.Gone || in.Pod.DeletionTimestamp != nil || p.terminal || p.overdue() || in.Evicted != "" || in.Rejected != nil
	return p
}

func newestFirst(list []*Container) {
	for i := 1; i < len(list); i++ { // a handful, mostly sorted
		for j := i; j > 0 && newer(list[j], list[j-1]); j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
}

func newer(a, b *Container) bool {
	if !a.Created.Equal(b.Created) {
		return a.Created.After(b.Created)
	}
	return a.Attempt > b.Attempt
}

// overdue reports whether activeDeadlineSeconds have passed, and sets the
// alarm for when they will have.
func (p *pass) overdue() bool {
	limit, start := p.pod.Spec.ActiveDeadlineSeconds, p.pod.Status.StartTime
	if limit == nil || start == nil {
		return false
	}
	at := start.Add(time.Duration(*limit) * time.Second)
	if !p.in.Now.Before(at) {
		return true
	}
	p.wakeAt(at)
	return false
}

func (p *pass) wakeAt(t time.Time) {
	if p.out.Wake.IsZero() || t.Before(p.out.Wake) {
		p.out.Wake = t
	}
}

func (p *pass) act(a Action) { p.out.Actions = append(p.out.Actions, a) }

// newest container of that name, or nil.
func (p *pass) newest(name string) *Container {
	if list := p.byName[name]; len(list) > 0 {
		return list[0]
	}
	return nil
}

// current is the newest of that name if it belongs to the present sandbox.
func (p *pass) current(name string) *Container {
	c := p.newest(name)
	if c == nil || p.box == nil || c.SandboxID != p.box.ID {
		return nil
	}
	return c
}

// sidecar reports whether an init container goes on running.
func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (p *pass) rejected() {
	r := p.in.Rejected
	st := p.pod.Status.DeepCopy()
	st.Phase, st.Reason, st.Message = corev1.PodFailed, r.Reason, "Pod was rejected: "+r.Message
	st.ObservedGeneration = p.pod.Generation
	p.out.Status = *st
	if p.pod.DeletionTimestamp != nil && !p.in.Gone {
		p.act(Action{Op: Delete})
		return
	}
	p.out.Done = p.in.Gone
}

package kubelet

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/volume"
	kplan "knarr.dev/knarr/internal/plan"
)

// refreshEvery is how long a volume may show an old token; changes of secrets,
// config maps and labels are told at once.
const refreshEvery = time.Minute

// worker runs one pod: it looks, plans, acts and looks again.
type worker struct {
	k        *Kubelet
	uid      types.UID
	log      *slog.Logger
	observer *cri.Observer
	status   *statusWriter
	wake     chan struct{} // capacity 1
	eager    atomic.Bool   // an end is waited for
	placed   atomic.Bool   // the node has taken the pod
	over     atomic.Bool   // nothing of it runs or will run again
	mounted  atomic.Bool   // its volumes are there
	startup  *startup

	mu      sync.Mutex
	pod     *corev1.Pod
	absent  bool // from the API
	print   string
	images  map[string]plan.Image // by plan.Need.Key
	kills   map[string]*killing   // by container ID
	hooks   map[string]plan.Hook
	watched map[string]func() // secrets and config maps: how to stop
	evicted string            // why the pod must end for good
	dirty   bool              // what volumes show has changed
	newer   bool              // the pod has changed since the last pass began
	looked  bool              // at the runtime
	alloc   allocation
	pending *plan.Pending // a resize that waits for room
	// pendingSince is when it began to wait, deferred the generation for which
	// an event said so.
	pendingSince time.Time
	deferred     int64
	interrupt    context.CancelFunc // of what a pod that must end does not wait for; may be nil

	containers []plan.Container // as last seen, for the server
	sandboxes  []plan.Sandbox

	// Only the worker's own goroutine uses these.
	failures map[string]plan.Failed
	volumes  plan.Volumes
	rejected *plan.Rejection
	admitted bool
	since    time.Time
	said     map[string]time.Time // events of the plan, when last said
	fresh    time.Time            // when volumes were last refreshed
	actuals  map[string]plan.Amounts
	resizing int64 // what the last pass found under way
}

func newWorker(k *Kubelet, pod *corev1.Pod) *worker {
	w := &worker{
		k: k, uid: pod.UID, pod: pod, observer: cri.NewObserver(k.cri), wake: make(chan struct{}, 1),
		log:    k.cfg.Log.With("pod", pod.Namespace+"/"+pod.Name, "uid", string(pod.UID)),
		images: map[string]plan.Image{}, kills: map[string]*killing{}, hooks: map[string]plan.Hook{}, watched: map[string]func(){},
		failures: map[string]plan.Failed{}, said: map[string]time.Time{}, actuals: map[string]plan.Amounts{},
		startup: newStartup(pod, k.cfg.Now()),
	}
	w.status = &statusWriter{w: w}
	kick(w.wake)
	return w
}

// orphan stands for a pod that only the runtime knows.
func orphan(p *cri.Pod) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID)}}
	for _, b := range p.Sandboxes {
		if g := seconds(b.Annotations[cri.AnnotationGrace]); g != nil {
			pod.Spec.TerminationGracePeriodSeconds = g
		}
	}
	return pod
}

func (w *worker) update(pod *corev1.Pod) {
	w.mu.Lock()
	same := w.pod == pod
	// What the pod's downwardAPI volumes show.
	w.dirty = w.dirty || !maps.Equal(w.pod.Labels, pod.Labels) || !maps.Equal(w.pod.Annotations, pod.Annotations)
	w.pod, w.newer = pod, w.newer || !same
	if pod.DeletionTimestamp != nil && w.interrupt != nil {
		w.interrupt()
	}
	w.mu.Unlock()
	if same {
		return
	}
	kick(w.wake)
	if total, net, ok := w.startup.observed(pod, w.k.cfg.Now()); ok {
		w.k.metrics.startedAll.Observe(total.Seconds())
		if !stateful(pod) {
			w.k.metrics.startedSLI.Observe(net.Seconds())
		}
	}
}

func (w *worker) gone() {
	w.mu.Lock()
	same := w.absent
	w.absent = true
	if w.interrupt != nil {
		w.interrupt()
	}
	w.mu.Unlock()
	if !same {
		kick(w.wake)
	}
}

// observed wakes the worker if the runtime shows something else than before.
func (w *worker) observed(p *cri.Pod) {
	print := ""
	if p != nil {
		print = p.Print
	}
	w.mu.Lock()
	same := w.print == print
	w.mu.Unlock()
	if !same {
		kick(w.wake)
	}
}

func (w *worker) current() (*corev1.Pod, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod, w.absent
}

// run until the pod is done or ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.release()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for op := opCreate; ; op = opSync {
		op, began := w.operation(op), time.Now()
		wait, done := w.pass(ctx)
		w.k.metrics.passes[op].Observe(since(began))
		if done || ctx.Err() != nil {
			return
		}
		if wait == 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// operation that the next pass is.
func (w *worker) operation(op operation) operation {
	w.mu.Lock()
	defer w.mu.Unlock()
	newer := w.newer
	w.newer = false
	switch {
	case w.absent || w.evicted != "" || w.pod.DeletionTimestamp != nil:
		return opKill
	case op == opSync && newer:
		return opUpdate
	}
	return op
}

// release what the worker holds besides the pod itself.
func (w *worker) release() {
	w.k.prober.Remove(string(w.uid))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, stop := range w.watched {
		stop()
	}
	for _, kl := range w.kills {
		kl.cancel()
	}
}

// pass looks, plans and acts once. It returns how long to wait; 0: not at all.
func (w *worker) pass(ctx context.Context) (time.Duration, bool) {
	pod, absent := w.current()
	if !w.admitted {
		w.admit(pod, absent)
	}
	if w.undecided() {
		w.k.settleResizes()
	}
	pod, absent = w.allocated()
	seen, err := w.k.cri.Pod(ctx, string(w.uid))
	var boxes []plan.Sandbox
	var containers []plan.Container
	if err == nil {
		boxes, containers, err = w.observer.Observe(ctx, seen)
	}
	if err != nil {
		if ctx.Err() == nil {
			w.log.Warn("cannot look at the pod", "error", err)
		}
		return time.Second, false
	}
	now := w.k.cfg.Now()
	w.refresh(ctx, pod, now)
	in := w.input(pod, absent, seen.Print, boxes, containers, now)
	w.size(pod, &in)
	out := plan.Pod(in)
	w.since = out.Since
	if took, runs := w.startup.looked(pod, out.Status.Phase, containers, now); runs {
		w.k.metrics.started.Observe(took.Seconds())
	}
	w.mounted.Store(w.volumes.Ready)
	if over := out.Status.Phase == corev1.PodFailed || out.Status.Phase == corev1.PodSucceeded; w.over.Swap(over) != over {
		kick(w.k.resizeNow)
	}
	w.hurry(out.Status.Phase, containers, now)
	w.say(pod, out.Events, now)
	w.k.prober.Want(string(w.uid), w.probes(pod, boxes, out.Probing))
	if !absent {
		w.status.set(ctx, out.Status)
	}
	w.resized(pod, out)
	if out.Done {
		return 0, true
	}
	for _, a := range out.Actions {
		again := w.act(ctx, pod, a, in)
		if !again {
			return time.Second, false
		}
	}
	if len(out.Actions) > 0 && worth(out.Actions) {
		return 0, false
	}
	wait := w.k.cfg.LookEvery
	if w.eager.Load() && !w.k.told.Load() {
		wait = eagerFor
	}
	if !out.Wake.IsZero() {
		wait = max(time.Millisecond, min(wait, out.Wake.Sub(now)))
	}
	return wait, false
}

// eagerFor is how long the end of an init container is waited for eagerly.
const eagerFor = 10 * time.Second

// hurry has the runtime looked at more often while the pod is held up.
func (w *worker) hurry(phase corev1.PodPhase, containers []plan.Container, now time.Time) {
	young := slices.ContainsFunc(containers, func(c plan.Container) bool {
		return c.State == plan.Running && now.Sub(c.Started) < eagerFor
	})
	eager := phase == corev1.PodPending && young
	if w.eager.Swap(eager) != eager && eager {
		w.k.askSoon()
	}
}

// worth tells whether actions may have changed what the next look shows at
// once: ending a container and deleting the pod take their time and wake.
func worth(actions []plan.Action) bool {
	for _, a := range actions {
		if a.Op != plan.KillContainer && a.Op != plan.Delete {
			return true
		}
	}
	return false
}

func (w *worker) input(pod *corev1.Pod, absent bool, print string, boxes []plan.Sandbox, containers []plan.Container, now time.Time) plan.Input {
	in := plan.Input{
		Pod: pod, Gone: absent, Now: now, NodeIP: w.k.cfg.NodeIP, Runtime: w.k.runtimeName(), Sandboxes: boxes, Containers: containers,
		Probes: map[string]plan.Probes{}, Images: map[string]plan.Image{}, Failures: w.failures,
		Volumes: w.volumes, Rejected: w.rejected, Since: w.since, RecursiveReadOnly: w.k.able().recursiveReadOnly,
		Devices: plan.Devices{Held: w.k.devices.Holds(w.uid), Health: w.health(pod)},
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.print = print
	for i := range containers {
		c := &containers[i]
		if kl := w.kills[c.ID]; kl != nil {
			c.Killing, c.KillBefore, c.Killed = c.State != plan.Exited, kl.before, true
		}
		c.Hook = w.hooks[c.ID]
		in.Probes[c.ID] = w.k.prober.Outcomes(c.ID)
		if c.State == plan.Exited && w.looked && !slices.ContainsFunc(w.containers, func(o plan.Container) bool { return o.ID == c.ID && o.State == plan.Exited }) {
			w.k.metrics.end(pod, c)
		}
	}
	for key, im := range w.images {
		in.Images[key] = im
	}
	in.Evicted = w.evicted
	w.containers, w.sandboxes, w.looked = containers, boxes, true
	return in
}

// say emits the plan's events, each when it becomes true and again when it has
// been so for a while.
func (w *worker) say(pod *corev1.Pod, events []plan.Event, now time.Time) {
	present := map[string]bool{}
	for _, e := range events {
		key := e.Container + "\x00" + e.Reason + "\x00" + e.Message
		present[key] = true
		if last, ok := w.said[key]; ok && now.Sub(last) < refreshEvery {
			continue
		}
		w.said[key] = now
		w.emit(pod, e.Container, e.Warning, e.Reason, e.Message)
	}
	for key := range w.said {
		if !present[key] {
			delete(w.said, key)
		}
	}
}

func (w *worker) emit(pod *corev1.Pod, container string, warning bool, reason, message string) {
	e := kplan.Event{Regarding: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, Type: corev1.EventTypeNormal, Reason: reason, Message: message}
	if warning {
		e.Type = corev1.EventTypeWarning
	}
	if container != "" {
		e.FieldPath = fieldPath(pod, container)
	}
	w.k.cfg.Events.Emit(e)
}

func fieldPath(pod *corev1.Pod, container string) string {
	for _, c := range pod.Spec.InitContainers {
		if c.Name == container {
			return "spec.initContainers{" + container + "}"
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if c.Name == container {
			return "spec.ephemeralContainers{" + container + "}"
		}
	}
	return "spec.containers{" + container + "}"
}

// refresh volumes that show API objects, when one changed or time passed. A
// failed start because of such an object is tried again.
func (w *worker) refresh(ctx context.Context, pod *corev1.Pod, now time.Time) {
	w.mu.Lock()
	dirty := w.dirty
	w.dirty = false
	w.mu.Unlock()
	if dirty {
		for name, f := range w.failures {
			f.At = time.Time{}
			w.failures[name] = f
		}
		w.volumes.Failed.At, w.volumes.Unclean.At = time.Time{}, time.Time{}
	}
	if !w.volumes.Ready || !volume.Refreshes(pod) || !dirty && now.Sub(w.fresh) < w.k.cfg.LookEvery {
		return
	}
	w.fresh = now
	if err := w.k.volumes.Refresh(ctx, pod); err != nil && ctx.Err() == nil {
		w.log.Warn("cannot refresh volumes", "error", err)
		w.emit(pod, "", true, "FailedMount", err.Error())
	}
}

// find a container for the server: the newest of that name.
func (w *worker) find(name string) *plan.Container {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.containers {
		if w.containers[i].Name == name {
			return &w.containers[i]
		}
	}
	return nil
}

// previous finds the container that the status calls the last one that ended:
// while a crashed one waits to be started again, that is the newest.
func (w *worker) previous(name string) *plan.Container {
	id := w.status.lastEnded(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.containers {
		if id != "" && strings.HasSuffix(id, "://"+w.containers[i].ID) {
			return &w.containers[i]
		}
	}
	return nil
}

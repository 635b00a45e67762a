package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/kubelet/dra"
	"knarr.dev/knarr/internal/view"
)

// relistEvery is how late the kubelet learns that a container ended by itself.
const relistEvery = time.Second

// relistEager is the same while an init container is young: others wait for
// its end.
const relistEager = 100 * time.Millisecond

const (
	// relistIdle is how often a node without pods asks whether its runtime lives.
	relistIdle = 10 * time.Second
	// relistTold is the same of a runtime that tells by itself (upstream's figure).
	relistTold = 5 * time.Minute
)

// Kubelet is one node's agent.
type Kubelet struct {
	cfg     Config
	ready   chan struct{}
	cri     *cri.Client
	source  *source
	volumes Volumes
	devices Devices
	claims  *dra.Claims // devices of real drivers; nil: there are none
	cgroups *cgroup.Tree
	prober  Prober
	files   Files
	pulls   *puller
	machine machine
	metrics *metrics

	proc, sys string // where the kernel tells of itself

	mu      sync.Mutex
	workers map[types.UID]*worker
	group   sync.WaitGroup // workers and what they started

	admitting sync.Mutex // held while a pod is judged; before mu
	ids       sync.Mutex // held while a pod gets IDs of its own; after all others

	relistNow  chan struct{}          // capacity 1
	told       atomic.Bool            // the runtime says by itself what happens
	runtime    atomic.Pointer[string] // its name
	oldCDI     atomic.Bool            // it is too old to know devices by their names
	features   atomic.Pointer[features]
	runtimeErr error         // of the last relist; guarded by mu
	changed    chan struct{} // capacity 1: a pod in the view changed
	changedAt  atomic.Int64  // when the first one since the last dispatch did; 0: none
	nodeNow    chan struct{} // capacity 1: the node's status should be looked at
	nodeTold   toldNode      // of runNode
	resizeNow  chan struct{} // capacity 1: a resize that waits may fit now
	news       news
	short      shortage // guarded by mu

	collecting sync.Mutex
	imagesUsed map[string]time.Time // guarded by collecting
}

// New checks the configuration; it does no I/O.
func New(c Config) (*Kubelet, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	k := &Kubelet{
		cfg: c, proc: "/proc", sys: "/sys", ready: make(chan struct{}), workers: map[types.UID]*worker{}, imagesUsed: map[string]time.Time{},
		relistNow: make(chan struct{}, 1), changed: make(chan struct{}, 1), nodeNow: make(chan struct{}, 1), resizeNow: make(chan struct{}, 1),
	}
	counters := c.Counters
	if counters == nil {
		if counters, err = NewCounters(c.Metrics); err != nil {
			return nil, err
		}
		c.Metrics.MustRegister(gauges{k})
	}
	k.metrics = counters.metrics
	if c.Runtime.Runtime != nil {
		k.cri = cri.Direct(c.Runtime, c.NodeName, counters.ops)
	} else if k.cri, err = cri.New(c.RuntimeEndpoint, c.NodeName, counters.ops); err != nil {
		return nil, err
	}
	k.source = newSource(c)
	k.pulls = newPuller(k.cri, c.Now)
	k.below()
	return k, nil
}

// Ready is closed once the node is registered and has been Ready once.
func (k *Kubelet) Ready() <-chan struct{} { return k.ready }

// Run works until ctx ends. Containers go on running without it.
func (k *Kubelet) Run(ctx context.Context) error {
	defer k.cri.Close()
	if err := k.prepare(); err != nil {
		return err
	}
	if err := k.cfg.View.WaitSynced(ctx); err != nil {
		return nil // ended before it began
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	listener, err := k.listen(ctx)
	if err != nil {
		return err
	}
	stop := k.cfg.Subscribe(k.onChange)
	defer stop()
	var loops sync.WaitGroup
	run := func(name string, fn func(context.Context) error) {
		loops.Add(1)
		go func() {
			defer loops.Done()
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("kubelet: %s: %w", name, err))
			}
		}()
	}
	if listener != nil {
		run("server", func(ctx context.Context) error { return k.serve(ctx, listener) })
	}
	run("node", k.runNode)
	run("lease", k.runLease)
	run("runtime", k.relistLoop)
	run("pods", k.podLoop)
	run("resizes", k.resizeLoop)
	run("garbage", k.collectLoop)
	if k.claims != nil {
		run("devices", k.claims.Run)
		run("plugins", k.registry().Run)
	}
	if k.measured() {
		run("evictions", k.evictLoop)
	}
	if k.cri.Tells() {
		run("events", k.eventLoop)
	}
	<-ctx.Done()
	loops.Wait()
	k.prober.Stop()
	k.group.Wait()
	if len(k.list()) == 0 && ctx.Err() != nil && len(k.cgroups.Pods()) == 0 {
		k.cgroups.RemoveIdle()
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// prepare makes directories and reads what does not change.
func (k *Kubelet) prepare() error {
	dirs := map[string]os.FileMode{k.cfg.RootDir: 0o750, k.podsDir(): 0o750, k.cfg.PodLogDir: 0o755}
	if k.claims != nil {
		dirs[filepath.Join(k.cfg.RootDir, pluginsDir)] = 0o750
	}
	for dir, mode := range dirs {
		if err := k.files.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("kubelet: %w", err)
		}
	}
	if err := k.readBelow(); err != nil {
		return err
	}
	if k.cfg.Below.NoCgroups {
		k.cgroups = cgroup.None(k.cfg.CgroupRoot)
		return nil
	}
	var err error
	if k.cgroups, err = cgroup.Open(k.cfg.CgroupRoot); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	return nil
}

// kick wakes the reader of a channel of capacity 1.
func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// onChange runs under the view's lock: it only wakes.
func (k *Kubelet) onChange(c view.Change) {
	switch c.Kind {
	case kinds.Pod:
		if c.Object().(*corev1.Pod).Spec.NodeName == k.cfg.NodeName {
			k.changedAt.CompareAndSwap(0, time.Now().UnixNano())
			kick(k.changed)
		}
	case kinds.Node:
		if c.Object().GetName() == k.cfg.NodeName {
			kick(k.nodeNow)
		}
	case kinds.PodCertificateRequest, kinds.ClusterTrustBundle:
		k.news.add(c.Object())
		kick(k.changed)
	}
}

// podLoop gives every pod of the node a worker and tells workers of changes.
func (k *Kubelet) podLoop(ctx context.Context) error {
	if err := k.adopt(ctx); err != nil {
		return nil // only when ctx ended
	}
	for {
		k.dispatch(ctx)
		k.tellNews()
		select {
		case <-ctx.Done():
			return nil
		case <-k.changed:
		}
	}
}

// dispatch compares the view with the workers.
func (k *Kubelet) dispatch(ctx context.Context) {
	changed := k.changedAt.Swap(0)
	snap := k.cfg.View.Snapshot()
	seen := map[types.UID]*corev1.Pod{}
	for pod := range view.By[*corev1.Pod](snap, view.PodsByNode, k.cfg.NodeName) {
		seen[pod.UID] = pod
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for uid, pod := range seen {
		w := k.workers[uid]
		if w == nil {
			k.startWorker(ctx, pod)
			k.metrics.containersPerPod.Observe(float64(len(pod.Spec.Containers)))
			if changed != 0 { // else they were there before this kubelet
				k.metrics.seenToWorker.Observe(since(time.Unix(0, changed)))
			}
			continue
		}
		w.update(pod)
	}
	for uid, w := range k.workers {
		if seen[uid] == nil {
			w.gone()
		}
	}
}

// startWorker runs one; the caller holds the lock.
func (k *Kubelet) startWorker(ctx context.Context, pod *corev1.Pod) *worker {
	w := newWorker(k, pod)
	k.workers[pod.UID] = w
	k.group.Add(1)
	go func() {
		defer k.group.Done()
		w.run(ctx)
		k.mu.Lock()
		if k.workers[pod.UID] == w {
			delete(k.workers, pod.UID)
		}
		k.mu.Unlock()
		kick(k.changed) // the name may be in use again
		kick(k.resizeNow)
	}()
	k.askSoon()
	return w
}

// list of the present workers.
func (k *Kubelet) list() []*worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*worker, 0, len(k.workers))
	for _, w := range k.workers {
		out = append(out, w)
	}
	return out
}

// eventLoop hears from the runtime itself what happens to containers.
func (k *Kubelet) eventLoop(ctx context.Context) error {
	for {
		k.told.Store(true)
		err := k.cri.Events(ctx, k.heard)
		k.told.Store(false)
		kick(k.relistNow)
		if ctx.Err() != nil || status.Code(err) == codes.Unimplemented {
			return nil
		}
		k.cfg.Log.Warn("the runtime has stopped to tell what happens; it is asked until it does again", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// heard wakes the worker of a pod in which something ended. What else happens
// is the kubelet's own doing.
func (k *Kubelet) heard(ev *runtimeapi.ContainerEventResponse) {
	if ev.ContainerEventType != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
		return
	}
	k.mu.Lock()
	w := k.workers[types.UID(ev.GetPodSandboxStatus().GetMetadata().GetUid())]
	k.mu.Unlock()
	if w != nil {
		kick(w.wake)
	}
}

// askSoon has the runtime asked now, unless it tells.
func (k *Kubelet) askSoon() {
	if !k.told.Load() {
		kick(k.relistNow)
	}
}

// relistPause is how long to wait before the runtime is asked again: one that
// tells is asked more and more rarely, so that what happened before it did so
// is not missed for long.
func (k *Kubelet) relistPause(last time.Duration) time.Duration {
	if k.told.Load() {
		return min(relistTold, max(relistEvery, 2*last))
	}
	pause := relistIdle
	for _, w := range k.list() {
		pause = min(pause, relistEvery)
		if w.eager.Load() {
			pause = relistEager
		}
	}
	return pause
}

// relistLoop asks the runtime for what changed by itself: every second while
// pods exist, every ten to see that it lives.
func (k *Kubelet) relistLoop(ctx context.Context) error {
	var last time.Time
	var pause time.Duration
	for {
		began := time.Now()
		if !last.IsZero() {
			k.metrics.relistPauses.Observe(began.Sub(last).Seconds())
		}
		last = began
		k.metrics.relistAt.Set(float64(began.UnixNano()) / 1e9)
		k.relist(ctx)
		k.metrics.relists.Observe(since(began))
		pause = k.relistPause(pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		case <-k.relistNow:
		}
	}
}

func (k *Kubelet) relist(ctx context.Context) {
	pods, err := k.cri.Pods(ctx)
	if ctx.Err() != nil {
		return
	}
	k.mu.Lock()
	before := k.runtimeErr
	k.runtimeErr = err
	k.mu.Unlock()
	if (before == nil) != (err == nil) {
		kick(k.nodeNow)
		if err != nil {
			k.cfg.Log.Error("the container runtime does not answer", "error", err)
		}
	}
	if err != nil {
		return
	}
	for _, w := range k.list() {
		w.observed(pods[string(w.uid)])
	}
}

// adopt finds what an earlier run left: pods that are no longer in the API are
// ended, directories and cgroups that belong to none are removed.
func (k *Kubelet) adopt(ctx context.Context) error {
	var pods map[string]*cri.Pod
	for {
		var err error
		if pods, err = k.cri.Pods(ctx); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	k.runtimeVersion(ctx) // its name is part of every status
	k.readyCondition(ctx) // what it can do decides on pods
	known := map[string]bool{}
	for pod := range view.By[*corev1.Pod](k.cfg.View.Snapshot(), view.PodsByNode, k.cfg.NodeName) {
		known[string(pod.UID)] = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for uid, p := range pods {
		if uid != "" && !known[uid] {
			known[uid] = true
			k.startWorker(ctx, orphan(p)).gone()
			k.metrics.orphans.Inc()
		}
	}
	for _, p := range k.forgotten(known) {
		known[p.UID] = true
		k.startWorker(ctx, orphan(p)).gone()
	}
	k.removeOrphans(func(uid string) bool { return known[uid] })
	return nil
}

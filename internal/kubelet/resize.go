package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/spec"
)

// resizeEvery is how often waiting resizes are judged again although nothing
// was seen to change (upstream's figure).
const resizeEvery = 3 * time.Minute

// allocation is what the node has promised a pod and what it has told the
// runtime so far. It lies in the pod's directory, so that a kubelet that
// starts anew keeps its promises although the spec asks for more by then.
type allocation struct {
	plan.Allocation
	Resizing int64                   `json:"resizing,omitempty"` // generation of the pod whose resize is under way
	Cgroup   plan.Amounts            `json:"cgroup"`
	Given    map[string]plan.Amounts `json:"given,omitempty"` // by ID: containers that were resized
}

func (k *Kubelet) allocationFile(uid string) string {
	return filepath.Join(k.volumes.Dir(uid), "allocation.json")
}

// promise the pod what it asks for; the caller holds the lock, or is alone.
func (w *worker) promise(pod *corev1.Pod) error {
	w.alloc.Allocation = plan.AllocationOf(pod)
	if err := w.k.files.MkdirAll(w.k.volumes.Dir(string(w.uid)), 0o750); err != nil {
		return err
	}
	return w.saveAllocation()
}

// saveAllocation writes the file all at once. It need not outlive the machine:
// neither do containers. The caller holds the lock, or is alone.
func (w *worker) saveAllocation() error {
	data, err := json.Marshal(&w.alloc)
	if err != nil {
		return err
	}
	return w.k.files.Replace(w.k.allocationFile(string(w.uid)), data, 0o600)
}

// recall what an earlier kubelet promised. Before that was written down, pods
// could not be resized: they have what they ask for.
func (w *worker) recall(pod *corev1.Pod) {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodResizePending {
			w.pendingSince, w.deferred = c.LastTransitionTime.Time, c.ObservedGeneration
		}
	}
	data, err := w.k.files.Read(w.k.allocationFile(string(w.uid)))
	if err == nil {
		err = json.Unmarshal(data, &w.alloc)
	}
	if err == nil && w.alloc.Containers != nil {
		return
	}
	if !errors.Is(err, os.ErrNotExist) {
		w.log.Warn("cannot read what was allocated to the pod", "error", err)
	}
	w.alloc = allocation{Allocation: plan.AllocationOf(pod), Cgroup: plan.PodAmounts(pod)}
}

// allocated is the pod as the node has promised it.
func (w *worker) allocated() (pod *corev1.Pod, absent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.alloc.Apply(w.pod), w.absent
}

// wish is the pod's resize that the node has not agreed to, if there is one.
func (w *worker) wish() (plan.Wish, bool) {
	if !w.placed.Load() || w.over.Load() {
		return plan.Wish{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.alloc.Apply(w.pod)
	if have == w.pod || w.absent || w.pod.DeletionTimestamp != nil {
		w.pending, w.pendingSince = nil, time.Time{}
		return plan.Wish{}, false
	}
	return plan.Wish{Pod: w.pod, Allocated: have, Since: w.pendingSince}, true
}

// undecided reports whether the pod asks for something that was not judged yet.
func (w *worker) undecided() bool {
	wish, ok := w.wish()
	w.mu.Lock()
	defer w.mu.Unlock()
	return ok && (w.pending == nil || w.pending.Generation != wish.Pod.Generation)
}

// settleResizes judges all resizes that wait, in their order.
func (k *Kubelet) settleResizes() {
	k.admitting.Lock()
	defer k.admitting.Unlock()
	var wishes []plan.Wish
	by := map[*corev1.Pod]*worker{}
	for _, w := range k.list() {
		if wish, ok := w.wish(); ok {
			wishes = append(wishes, wish)
			by[wish.Pod] = w
		}
	}
	slices.SortFunc(wishes, plan.CompareWishes)
	for _, wish := range wishes {
		w := by[wish.Pod]
		w.decide(wish.Pod, plan.Admit(wish.Pod, k.room(w)))
	}
}

// decide a resize: it gets its room, or waits for it.
func (w *worker) decide(pod *corev1.Pod, rejected *plan.Rejection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer kick(w.wake)
	if rejected == nil {
		w.pending, w.pendingSince, w.deferred = nil, time.Time{}, 0
		w.alloc.Resizing = pod.Generation
		w.dirty = true // what downwardAPI volumes show
		if err := w.promise(pod); err != nil {
			w.log.Warn("cannot keep what was allocated to the pod", "error", err)
		}
		w.emit(pod, "", false, "ResizeStarted", plan.ResizeMessage("Pod resize started", pod, pod.Generation, ""))
		return
	}
	w.pending = &plan.Pending{Message: rejected.Message, Generation: pod.Generation}
	if w.pendingSince.IsZero() {
		w.pendingSince = w.k.cfg.Now()
	}
	if w.deferred != pod.Generation {
		w.deferred = pod.Generation
		w.emit(pod, "", true, "ResizeDeferred", plan.ResizeMessage("Pod resize "+corev1.PodReasonDeferred, pod, pod.Generation, rejected.Message))
	}
}

// resizeLoop judges waiting resizes again when a pod has left.
func (k *Kubelet) resizeLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.resizeNow:
		case <-time.After(resizeEvery):
		}
		k.settleResizes()
	}
}

// size completes a look at the containers with what they were given and what
// they have, and with what memory is in use if that may decide.
func (w *worker) size(pod *corev1.Pod, in *plan.Input) {
	w.forgetGiven(in.Containers)
	w.mu.Lock()
	for i := range in.Containers {
		c := &in.Containers[i]
		a, ok := w.alloc.Given[c.ID]
		if !ok && !c.Told { // made before this was noted: it could not be resized
			a, ok = plan.GivenOf(pod, c.Name), true
			w.give(c.ID, a)
		}
		if ok {
			c.Given = a
		}
	}
	if w.alloc.Resizing == 0 && plan.Unsized(pod, in.Containers) {
		w.alloc.Resizing = pod.Generation
	}
	in.Pending, in.Resizing, in.Cgroup = w.pending, w.alloc.Resizing, w.alloc.Cgroup
	w.mu.Unlock()
	if in.Resizing != w.resizing { // what failed before was another resize
		w.resizing = in.Resizing
		delete(w.failures, plan.ResizeFailure)
	}
	for i := range in.Containers {
		if c := &in.Containers[i]; c.State == plan.Running && c.Actual == (plan.Amounts{}) {
			c.Actual = w.actual(pod, c.ID)
		}
	}
	if in.Resizing == 0 {
		return
	}
	in.Usage = map[string]int64{}
	if n, ok := w.k.cgroups.Usage(pod, ""); ok {
		in.Usage[""] = n
	}
	for i := range in.Containers {
		if n, ok := w.k.cgroups.Usage(pod, in.Containers[i].ID); ok && in.Containers[i].State == plan.Running {
			in.Usage[in.Containers[i].ID] = n
		}
	}
}

// give notes what a container was told; the caller holds the lock.
func (w *worker) give(id string, a plan.Amounts) {
	if w.alloc.Given == nil {
		w.alloc.Given = map[string]plan.Amounts{}
	}
	w.alloc.Given[id] = a
}

// actual amounts of a container whose runtime does not tell them, read once
// and again after each resize.
func (w *worker) actual(pod *corev1.Pod, id string) plan.Amounts {
	a, ok := w.actuals[id]
	if !ok {
		a = w.k.cgroups.Container(pod, id)
		w.actuals[id] = a
	}
	return a
}

// resized notes how a resize went on.
func (w *worker) resized(pod *corev1.Pod, out plan.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if out.Resizing || w.alloc.Resizing == 0 {
		return
	}
	generation := w.alloc.Resizing
	w.alloc.Resizing = 0
	delete(w.failures, plan.ResizeFailure)
	if out.Status.Phase == corev1.PodFailed || out.Status.Phase == corev1.PodSucceeded || pod.DeletionTimestamp != nil || w.absent {
		return
	}
	if err := w.saveAllocation(); err != nil {
		w.log.Warn("cannot keep what was allocated to the pod", "error", err)
	}
	w.emit(pod, "", false, "ResizeCompleted", plan.ResizeMessage("Pod resize completed", pod, generation, ""))
}

// resize does one step: a container, or one part of the pod's cgroup.
func (w *worker) resize(ctx context.Context, pod *corev1.Pod, a plan.Action) error {
	var err error
	if a.Op == plan.SetCgroup {
		began := time.Now()
		err = w.k.cgroups.SetPod(pod, a.Part, a.Amounts)
		w.k.metrics.cgroups.WithLabelValues("update").Observe(since(began))
	} else {
		err = w.k.updateContainer(ctx, a)
		w.observer.Forget(a.ID)
		delete(w.actuals, a.ID)
	}
	if err != nil {
		if ctx.Err() == nil {
			w.fail(plan.ResizeFailure, corev1.PodReasonError, err.Error())
		}
		return err
	}
	delete(w.failures, plan.ResizeFailure)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case a.Op == plan.UpdateContainer:
		w.give(a.ID, a.Amounts)
	case a.Part == plan.MemoryLimit:
		w.alloc.Cgroup.MemoryLimit = a.Amounts.MemoryLimit
	case a.Part == plan.CPULimit:
		w.alloc.Cgroup.CPULimit = a.Amounts.CPULimit
	case a.Part == plan.CPUShares:
		w.alloc.Cgroup.CPURequest = a.Amounts.CPURequest
	}
	return w.saveAllocation()
}

func (k *Kubelet) updateContainer(ctx context.Context, a plan.Action) error {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	_, err := k.cri.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: a.ID, Linux: spec.Update(a.Amounts)})
	if err != nil {
		return fmt.Errorf("cannot update container %s: %w", a.Container, clean(err))
	}
	return nil
}

// ensureCgroup makes the pod's cgroup as allocated and notes that.
func (w *worker) ensureCgroup(pod *corev1.Pod) error {
	began := time.Now()
	err := w.k.cgroups.EnsurePod(pod)
	w.k.metrics.cgroups.WithLabelValues("create").Observe(since(began))
	if err != nil {
		return err
	}
	a := plan.PodAmounts(pod)
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.CPULimit == 0 {
		a.CPULimit = w.alloc.Cgroup.CPULimit
	}
	if a.MemoryLimit == 0 {
		a.MemoryLimit = w.alloc.Cgroup.MemoryLimit
	}
	w.alloc.Cgroup = a
	return nil
}

// forgetGiven drops containers that the runtime does not have any more.
func (w *worker) forgetGiven(containers []plan.Container) {
	present := func(id string) bool {
		return slices.ContainsFunc(containers, func(c plan.Container) bool { return c.ID == id })
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.alloc.Given {
		if !present(id) {
			delete(w.alloc.Given, id)
		}
	}
	for id := range w.actuals {
		if !present(id) {
			delete(w.actuals, id)
		}
	}
}

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/spec"
)

const (
	// measureEvery is how often the node and pods with a limit of local storage
	// are measured (upstream's figure).
	measureEvery = 10 * time.Second
	// measureShare bounds what measuring costs: a pod whose files take a second
	// to count is counted again after fifty.
	measureShare = 50
	// pressureStays is how long a shortage is told after it was last seen, so
	// that what was evicted does not come back at once (upstream's figure).
	pressureStays = 5 * time.Minute
	// Upstream keeps 100Mi of memory free, k3s a twentieth of the disk.
	evictMemory = 100 << 20
	evictDisk   = 0.05
)

// shortage is what the node has too little of.
type shortage struct {
	memory, disk time.Time // when last seen
}

// strain looks at the machine and remembers what is short; it returns what is
// so now.
func (k *Kubelet) strain() (memory, disk bool) {
	available := k.machine.available()
	free, _ := k.machine.pressure(k.cfg.RootDir)
	memory, disk = available > 0 && available < k.cfg.EvictMemory, free < k.cfg.EvictDisk
	k.mu.Lock()
	defer k.mu.Unlock()
	if memory {
		k.short.memory = k.cfg.Now()
	}
	if disk {
		k.short.disk = k.cfg.Now()
	}
	return memory, disk
}

// pressure is what the node is short of, or was lately.
func (k *Kubelet) pressure() []corev1.NodeConditionType {
	k.strain()
	k.mu.Lock()
	short, since := k.short, k.cfg.Now().Add(-pressureStays)
	k.mu.Unlock()
	var out []corev1.NodeConditionType
	if short.memory.After(since) {
		out = append(out, corev1.NodeMemoryPressure)
	}
	if short.disk.After(since) {
		out = append(out, corev1.NodeDiskPressure)
	}
	return out
}

// evictLoop evicts pods that have outgrown their own limits of local storage,
// and one pod after the other while the node is short of memory or disk.
func (k *Kubelet) evictLoop(ctx context.Context) error {
	next := map[*worker]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(measureEvery):
		}
		again := map[*worker]time.Time{}
		for _, w := range k.evictable() {
			pod, _ := w.allocated()
			if !limited(pod) || plan.Critical(pod) {
				continue
			}
			if began := time.Now(); !began.Before(next[w]) {
				signal, message, err := k.outgrown(ctx, pod)
				if err != nil && ctx.Err() == nil {
					w.log.Warn("cannot measure the pod's storage", "error", err)
				}
				w.evict(signal, message)
				next[w] = time.Now().Add(measureShare * time.Since(began))
			}
			again[w] = next[w]
		}
		next = again
		if err := k.relieve(ctx); err != nil && ctx.Err() == nil {
			k.cfg.Log.Warn("cannot relieve the node", "error", err)
		}
	}
}

// evictable are the workers whose pods run and are to go on running.
func (k *Kubelet) evictable() []*worker {
	return slices.DeleteFunc(k.list(), func(w *worker) bool {
		pod, absent := w.current()
		return absent || w.over.Load() || !w.placed.Load() || pod.DeletionTimestamp != nil
	})
}

// relieve a node that is short of something: what nobody needs goes first, then
// a pod, and no other before that one has ended.
func (k *Kubelet) relieve(ctx context.Context) error {
	memory, disk := k.strain()
	if !memory && !disk {
		return nil
	}
	kick(k.nodeNow)
	if disk {
		k.collect(ctx, k.cfg.Now())
		memory, disk = k.strain()
	}
	var list []plan.Consumer
	byPod := map[*corev1.Pod]*worker{}
	for _, w := range k.evictable() {
		w.mu.Lock()
		pod, ending := w.pod, w.evicted != ""
		w.mu.Unlock()
		if ending {
			return nil
		}
		c := plan.Consumer{Pod: pod}
		var err error
		switch {
		case memory:
			c.Used, err = k.stats(ctx, pod, func(s *runtimeapi.ContainerStats) uint64 { return s.GetMemory().GetWorkingSetBytes().GetValue() })
		case disk:
			c.Used, err = k.stored(ctx, pod)
		}
		if err != nil {
			return err
		}
		byPod[pod] = w
		list = append(list, c)
	}
	var victim *corev1.Pod
	var why, signal string
	switch {
	case memory:
		signal = signalMemory
		victim, why = plan.Victim(list, corev1.ResourceMemory, k.cfg.EvictMemory, k.machine.available())
	case disk:
		signal = signalDisk
		free, _ := k.machine.pressure(k.cfg.RootDir)
		size := float64(k.machine.disk(k.cfg.RootDir))
		victim, why = plan.Victim(list, corev1.ResourceEphemeralStorage, int64(size*k.cfg.EvictDisk), int64(size*free))
	}
	if victim != nil {
		byPod[victim].evict(signal, why)
	}
	return nil
}

// What was short, or outgrown, in upstream's words.
const (
	signalMemory    = "memory.available"
	signalDisk      = "nodefs.available"
	signalEmptyDir  = "emptydirfs.limit"
	signalContainer = "ephemeralcontainerfs.limit"
	signalPod       = "ephemeralpodfs.limit"
)

// evict has the worker end its pod for good.
func (w *worker) evict(signal, message string) {
	w.mu.Lock()
	fresh := message != "" && w.evicted == ""
	if fresh {
		w.evicted = message
	}
	pod := w.pod
	w.mu.Unlock()
	if fresh {
		w.k.metrics.evictions.WithLabelValues(signal).Inc()
		w.emit(pod, "", true, "Evicted", message)
		kick(w.wake)
	}
}

// limited reports whether the pod bounds its local storage.
func limited(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if sizeLimit(&pod.Spec.Volumes[i]) > 0 {
			return true
		}
	}
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	return !limits.StorageEphemeral().IsZero()
}

// sizeLimit of an emptyDir on disk; the kernel keeps those in memory to theirs.
func sizeLimit(v *corev1.Volume) int64 {
	if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault {
		return 0
	}
	return v.EmptyDir.SizeLimit.Value()
}

// outgrown says which of its limits the pod exceeds, in upstream's words; none:
// empty ones.
func (k *Kubelet) outgrown(ctx context.Context, pod *corev1.Pod) (signal, message string, err error) {
	total := int64(0)
	podLimit := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		limit := sizeLimit(v)
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || limit == 0 && podLimit.IsZero() {
			continue
		}
		used, err := diskUsage(ctx, k.volumes.Path(pod, v))
		if err != nil {
			return "", "", err
		}
		if limit > 0 && used > limit {
			return signalEmptyDir, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q.", v.Name, v.EmptyDir.SizeLimit.String()), nil
		}
		total += used
	}
	if podLimit.IsZero() {
		return "", "", nil
	}
	written, err := k.written(ctx, pod)
	if err != nil {
		return "", "", err
	}
	kept, err := k.kept(ctx, pod)
	if err != nil {
		return "", "", err
	}
	total += kept
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			total += written[c.Name]
			if limit := c.Resources.Limits.StorageEphemeral(); !limit.IsZero() && written[c.Name] > limit.Value() {
				signal, message = signalContainer, fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q.", c.Name, limit.String())
			}
		}
	}
	if total > podLimit.Value() {
		return signalPod, fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s.", podLimit.String()), nil
	}
	return signal, message, nil
}

// kept is what the kubelet itself holds for a pod and its containers can write
// to: /etc/hosts and the last messages. It would be a way around the limits
// (CVE-2020-8557).
func (k *Kubelet) kept(ctx context.Context, pod *corev1.Pod) (int64, error) {
	dir := k.volumes.Dir(string(pod.UID))
	total, err := diskUsage(ctx, filepath.Join(dir, messagesDir))
	if err != nil {
		return 0, err
	}
	info, err := os.Lstat(filepath.Join(dir, hostsName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return total, nil
	case err != nil:
		return 0, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		total += st.Blocks * 512 // stat(2)
	}
	return total, nil
}

// stored is all that the pod keeps on disk: what is written by containers, what
// the kubelet keeps for them, and its emptyDirs.
func (k *Kubelet) stored(ctx context.Context, pod *corev1.Pod) (map[string]int64, error) {
	out, err := k.written(ctx, pod)
	if err != nil {
		return nil, err
	}
	if out[""], err = k.kept(ctx, pod); err != nil {
		return nil, err
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			used, err := diskUsage(ctx, k.volumes.Path(pod, v))
			if err != nil {
				return nil, err
			}
			out[""] += used
		}
	}
	return out, nil
}

// stats of a pod's containers by name, one figure of each.
func (k *Kubelet) stats(ctx context.Context, pod *corev1.Pod, figure func(*runtimeapi.ContainerStats) uint64) (map[string]int64, error) {
	res, err := k.cri.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{
		Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{cri.LabelNode: k.cfg.NodeName, cri.LabelPodUID: string(pod.UID)}}})
	if err != nil {
		return nil, clean(err)
	}
	out := map[string]int64{}
	for _, s := range res.Stats {
		out[s.GetAttributes().GetLabels()[cri.LabelContainerName]] += int64(figure(s))
	}
	return out, nil
}

// written by each container: its log and its writable layer, which the runtime
// measures at its own pace.
func (k *Kubelet) written(ctx context.Context, pod *corev1.Pod) (map[string]int64, error) {
	out, err := k.stats(ctx, pod, func(s *runtimeapi.ContainerStats) uint64 { return s.GetWritableLayer().GetUsedBytes().GetValue() })
	if err != nil {
		return nil, err
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			used, err := diskUsage(ctx, filepath.Join(spec.LogDir(k.cfg.PodLogDir, pod), list[i].Name))
			if err != nil {
				return nil, err
			}
			out[list[i].Name] += used
		}
	}
	return out, nil
}

// diskUsage of what lies below dir: blocks, each file once, and nothing that
// a link or a mount leads to. A directory that is not there has none.
func diskUsage(ctx context.Context, dir string) (int64, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer root.Close()
	total, linked, device := int64(0), map[uint64]bool{}, uint64(0)
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if device == 0 {
			device = st.Dev
		}
		switch {
		case st.Dev != device && d.IsDir():
			return fs.SkipDir
		case st.Dev != device || linked[st.Ino]:
			return nil
		case st.Nlink > 1 && !d.IsDir():
			linked[st.Ino] = true
		}
		total += st.Blocks * 512 // stat(2)
		return nil
	})
	return total, err
}

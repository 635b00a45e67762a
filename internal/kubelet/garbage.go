package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/cri"
)

// Upstream's figures: look every minute; remove unused images from 85 % of
// the disk down to 80 %, none younger than two minutes.
const (
	collectEvery = time.Minute
	imagesHigh   = 0.85
	imagesLow    = 0.80
	imageMinAge  = 2 * time.Minute
	logSize      = 10 << 20
	logFiles     = 5
	logCheck     = 10 * time.Second
)

func (k *Kubelet) collectLoop(ctx context.Context) error {
	last, pause := k.cfg.Now(), logCheck
	if !k.measured() {
		pause = collectEvery
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if k.measured() && len(k.list()) > 0 {
			k.rotateLogs(ctx)
		}
		if now := k.cfg.Now(); now.Sub(last) >= collectEvery {
			last = now
			k.collect(ctx, now)
		}
	}
}

// removeOrphans cleans what belongs to no pod: directories with their mounts,
// cgroups and logs. known is asked after each was found: a pod has its worker
// before it has anything on disk.
func (k *Kubelet) removeOrphans(known func(uid string) bool) {
	dirs, err := k.volumes.UIDs()
	if err != nil {
		k.cfg.Log.Warn("cannot list pods' directories", "error", err)
	}
	for _, uid := range dirs {
		if !known(uid) {
			if err := k.volumes.Teardown(uid); err != nil {
				k.cfg.Log.Warn("cannot remove a pod's directory", "uid", uid, "error", err)
			}
		}
	}
	for uid := range k.cgroups.Pods() {
		if !known(uid) {
			if err := k.removeCgroup(uid); err != nil {
				k.cfg.Log.Warn("cannot remove a pod's cgroup", "uid", uid, "error", err)
			}
		}
	}
	entries, err := os.ReadDir(k.cfg.PodLogDir)
	if err != nil {
		return // no logs yet
	}
	for _, e := range entries {
		parts := strings.Split(e.Name(), "_")
		if len(parts) == 3 && e.IsDir() && !known(parts[2]) && k.cfg.PodLogDir != sharedLogs {
			if err := os.RemoveAll(filepath.Join(k.cfg.PodLogDir, e.Name())); err != nil {
				k.cfg.Log.Warn("cannot remove logs", "directory", e.Name(), "error", err)
			}
		}
	}
}

// collect removes dead containers but the last of each name, dead sandboxes
// that nothing lies in, and images when the disk fills.
func (k *Kubelet) collect(ctx context.Context, now time.Time) {
	k.collecting.Lock()
	defer k.collecting.Unlock()
	pods, err := k.cri.Pods(ctx)
	if err != nil {
		return
	}
	for _, p := range pods {
		k.collectPod(ctx, p)
	}
	k.removeOrphans(func(uid string) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return pods[uid] != nil || k.workers[types.UID(uid)] != nil
	})
	if len(pods)+len(k.list()) == 0 {
		k.cgroups.RemoveIdle()
	}
	if err := k.collectImages(ctx, pods, now); err != nil && ctx.Err() == nil {
		k.cfg.Log.Warn("cannot collect images", "error", err)
	}
}

func (k *Kubelet) collectPod(ctx context.Context, p *cri.Pod) {
	dead := map[string]int{}
	used := map[string]bool{}
	newest := map[string]bool{}
	for _, c := range p.Containers { // newest first
		name := c.Labels[cri.LabelContainerName]
		if c.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			used[c.PodSandboxId] = true
			newest[name] = true
			continue
		}
		// Keep the newest, and one before it for kubectl logs --previous.
		dead[name]++
		if dead[name] == 1 || dead[name] == 2 && !newest[name] {
			used[c.PodSandboxId] = true
			continue
		}
		if _, err := k.cri.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.Id}); err != nil {
			k.cfg.Log.Debug("cannot remove a dead container", "id", c.Id, "error", err)
			continue
		}
		k.removeLogs(p, c)
	}
	for i, b := range p.Sandboxes {
		if i == 0 || used[b.Id] || b.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		if _, err := k.cri.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: b.Id}); err != nil {
			k.cfg.Log.Debug("cannot remove a dead sandbox", "id", b.Id, "error", err)
		}
	}
}

func (k *Kubelet) removeLogs(p *cri.Pod, c *runtimeapi.Container) {
	base := filepath.Join(k.cfg.PodLogDir, p.Namespace+"_"+p.Name+"_"+p.UID, c.Labels[cri.LabelContainerName], c.Annotations[cri.AnnotationRestartCount]+".log")
	files, err := filepath.Glob(base + "*")
	if err != nil {
		return
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			k.cfg.Log.Debug("cannot remove a log", "file", f, "error", err)
		}
	}
}

// collectImages removes those that no container uses, the longest unused
// first. What knarr brought along stays: no registry could give it back.
func (k *Kubelet) collectImages(ctx context.Context, pods map[string]*cri.Pod, now time.Time) error {
	list, err := k.cri.Image.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, p := range pods {
		for _, c := range p.Containers {
			used[c.ImageRef], used[c.GetImage().GetImage()] = true, true
		}
	}
	for _, w := range k.list() {
		if err := w.mountedImages(ctx, pods[string(w.uid)], used); err != nil {
			return err
		}
	}
	var idle []*runtimeapi.Image
	present := map[string]bool{}
	for _, im := range list.Images {
		present[im.Id] = true
		if used[im.Id] || im.Pinned || slices.ContainsFunc(im.RepoTags, func(t string) bool { return used[t] || local(t) }) {
			k.imagesUsed[im.Id] = now
			continue
		}
		if _, ok := k.imagesUsed[im.Id]; !ok {
			k.imagesUsed[im.Id] = now
		}
		if now.Sub(k.imagesUsed[im.Id]) >= imageMinAge {
			idle = append(idle, im)
		}
	}
	for id := range k.imagesUsed {
		if !present[id] {
			delete(k.imagesUsed, id)
		}
	}
	if err := k.pulls.records.forget(present, now); err != nil {
		return err
	}
	slices.SortFunc(idle, func(a, b *runtimeapi.Image) int { return k.imagesUsed[a.Id].Compare(k.imagesUsed[b.Id]) })
	if k.fullness(ctx) < k.cfg.ImageGCHigh {
		return nil
	}
	for _, im := range idle {
		if k.fullness(ctx) < k.cfg.ImageGCLow {
			return nil
		}
		if _, err := k.cri.Image.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: im.Id}}); err != nil {
			return err
		}
		k.metrics.imagesRemoved.WithLabelValues("space").Inc()
		k.cfg.Log.Info("removed an unused image", "id", im.Id, "bytes", im.Size)
	}
	return nil
}

// mountedImages adds the images that the pod's containers mount as volumes, or are
// about to.
func (w *worker) mountedImages(ctx context.Context, p *cri.Pod, used map[string]bool) error {
	pod, _ := w.current()
	if p == nil || !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Image != nil }) {
		return nil
	}
	w.mu.Lock()
	for _, im := range w.images {
		used[im.ID] = true
	}
	w.mu.Unlock()
	for _, c := range p.Containers {
		res, err := w.k.cri.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return err
		}
		for _, m := range res.GetStatus().GetMounts() {
			used[m.GetImage().GetImage()] = true
		}
	}
	return nil
}

// fullness of the images' file system.
func (k *Kubelet) fullness(ctx context.Context) float64 {
	at := k.cfg.RootDir
	if info, err := k.cri.Image.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err == nil {
		for _, fs := range info.ImageFilesystems {
			if m := fs.GetFsId().GetMountpoint(); m != "" {
				at = m
			}
		}
	}
	var st unix.Statfs_t
	if unix.Statfs(at, &st) != nil || st.Blocks == 0 {
		return 0
	}
	return 1 - float64(st.Bavail)/float64(st.Blocks)
}

// removeCgroup of a pod.
func (k *Kubelet) removeCgroup(uid string) error {
	began := time.Now()
	err := k.cgroups.RemovePod(uid)
	k.metrics.cgroups.WithLabelValues("destroy").Observe(since(began))
	return err
}

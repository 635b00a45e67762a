package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/spec"
	"knarr.dev/knarr/internal/kubelet/volume"
	"knarr.dev/knarr/internal/view"
)

// clean takes the gRPC dressing off an error for users.
func clean(err error) error {
	if s, ok := status.FromError(err); ok {
		return fmt.Errorf("rpc error: code = %s desc = %s", s.Code(), s.Message())
	}
	return err
}

// specOf finds a container of any kind by name.
func specOf(pod *corev1.Pod, name string) (c *corev1.Container, target string) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i], ""
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			c := corev1.Container(e.EphemeralContainerCommon)
			return &c, e.TargetContainerName
		}
	}
	return nil, ""
}

func (w *worker) startContainer(ctx context.Context, pod *corev1.Pod, a plan.Action, in plan.Input) {
	c, target := specOf(pod, a.Container)
	if c == nil || len(in.Sandboxes) == 0 {
		return
	}
	box := in.Sandboxes[0]
	w.k.metrics.containers.WithLabelValues(containerType(pod, c.Name)).Inc()
	config, closeMounts, err := w.containerConfig(ctx, pod, c, target, a.Attempt, a.Backoff, in)
	if err != nil {
		if ctx.Err() == nil {
			w.refuse(pod, c.Name, "CreateContainerConfigError", err)
		}
		return
	}
	defer closeMounts()
	sandbox, err := w.sandboxConfig(pod, box.Attempt)
	if err != nil {
		w.refuse(pod, c.Name, "CreateContainerConfigError", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	images := imageMounts(config)
	w.k.metrics.imageVolumes.Add(images)
	res, err := w.k.cri.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: box.ID, Config: config, SandboxConfig: sandbox})
	if err != nil {
		w.k.metrics.imageVolumeErrors.Add(images)
		w.refuse(pod, c.Name, "CreateContainerError", clean(err))
		return
	}
	w.k.metrics.imageVolumesMounted.Add(images)
	w.emit(pod, c.Name, false, "Created", "Container created")
	id := res.ContainerId
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		w.setHook(id, plan.HookRunning)
	}
	if _, err := w.k.cri.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		w.setHook(id, plan.HookDone)
		// The runtime shows it as ended with code 128; that is a crash and backs
		// off as one.
		w.k.metrics.containerErrors.WithLabelValues(containerType(pod, c.Name), "RunContainerError").Inc()
		w.emit(pod, c.Name, true, "Failed", "Error: "+clean(err).Error())
		return
	}
	delete(w.failures, c.Name)
	w.emit(pod, c.Name, false, "Started", "Container started")
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		w.postStart(pod, c, id, in)
	}
}

// imageMounts counts a container's mounts of image volumes.
func imageMounts(c *runtimeapi.ContainerConfig) (n float64) {
	for _, m := range c.Mounts {
		if m.Image != nil {
			n++
		}
	}
	return n
}

func (w *worker) refuse(pod *corev1.Pod, name, reason string, err error) {
	w.k.metrics.containerErrors.WithLabelValues(containerType(pod, name), reason).Inc()
	w.fail(name, reason, err.Error())
	w.emit(pod, name, true, "Failed", "Error: "+err.Error())
}

func (w *worker) setHook(id string, h plan.Hook) {
	w.mu.Lock()
	w.hooks[id] = h
	w.mu.Unlock()
}

// containerConfig describes a container to the runtime. What it returns to be
// closed are descriptors that mounts refer to.
func (w *worker) containerConfig(ctx context.Context, pod *corev1.Pod, c *corev1.Container, target string, attempt uint32, backoff time.Duration, in plan.Input) (*runtimeapi.ContainerConfig, func(), error) {
	k := w.k
	box := in.Sandboxes[0]
	image, err := w.image(ctx, c.Name, in.Images[c.Name])
	if err != nil {
		return nil, nil, err
	}
	if err := spec.VerifyNonRoot(pod, c, image); err != nil {
		return nil, nil, err
	}
	targetID := ""
	if target != "" {
		cur := w.find(target)
		if cur == nil || cur.State != plan.Running {
			return nil, nil, fmt.Errorf("unable to find target container %s", target)
		}
		targetID = cur.ID
	}
	users, err := k.users(pod)
	if err != nil {
		return nil, nil, err
	}
	security, err := spec.Security(pod, c, image, k.seccompDir(), targetID, users)
	if err != nil {
		return nil, nil, err
	}
	shown := withAddresses(pod, box, k.cfg.NodeIP)
	devices, err := k.devices.IDs(pod, c)
	if err != nil {
		return nil, nil, err
	}
	env, err := spec.Env(shown, c, w.lookup(ctx, pod))
	if err != nil {
		return nil, nil, err
	}
	mounts, closeMounts, err := w.mounts(ctx, pod, c, env, attempt, users, in)
	if err != nil {
		return nil, nil, err
	}
	config := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: attempt},
		Image:      &runtimeapi.ImageSpec{Image: in.Images[c.Name].ID, UserSpecifiedImage: c.Image},
		WorkingDir: c.WorkingDir, Mounts: mounts, Labels: k.labels(pod),
		Annotations: map[string]string{
			cri.AnnotationHash: plan.Hash(c), cri.AnnotationRestartCount: strconv.FormatUint(uint64(attempt), 10),
			cri.AnnotationTermination: c.TerminationMessagePath, cri.AnnotationPolicy: string(c.TerminationMessagePolicy),
			cri.AnnotationAmounts: amountsText(pod, c),
			cri.AnnotationBackoff: strconv.FormatInt(int64(backoff/time.Second), 10),
		},
		LogPath: filepath.Join(c.Name, strconv.FormatUint(uint64(attempt), 10)+".log"),
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{Resources: spec.Resources(pod, c, k.machine.memory), SecurityContext: security},
	}
	if k.machine.oomFloor { // the kernel lets us only raise scores
		config.Linux.Resources.OomScoreAdj = max(config.Linux.Resources.OomScoreAdj, k.machine.oomScore)
	}
	config.Labels[cri.LabelContainerName] = c.Name
	known := map[string]string{}
	for _, kv := range env {
		known[kv[0]] = kv[1]
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: kv[0], Value: []byte(kv[1])})
	}
	if err := k.give(config, devices); err != nil {
		closeMounts()
		return nil, nil, err
	}
	for _, s := range c.Command {
		config.Command = append(config.Command, spec.Expand(s, known))
	}
	for _, s := range c.Args {
		config.Args = append(config.Args, spec.Expand(s, known))
	}
	if err := k.files.MkdirAll(filepath.Join(spec.LogDir(k.cfg.PodLogDir, pod), c.Name), 0o755); err != nil {
		closeMounts()
		return nil, nil, err
	}
	return config, closeMounts, nil
}

// amountsText tells a later kubelet what the container was made with.
func amountsText(pod *corev1.Pod, c *corev1.Container) string {
	data, err := json.Marshal(plan.AmountsOf(pod, c))
	if err != nil { // four numbers
		return ""
	}
	return string(data)
}

// withAddresses shows the pod with the addresses of its new sandbox, before
// the API knows them.
func withAddresses(pod *corev1.Pod, box plan.Sandbox, nodeIP string) *corev1.Pod {
	out := *pod
	out.Status.HostIP, out.Status.HostIPs = nodeIP, []corev1.HostIP{{IP: nodeIP}}
	ips := box.IPs
	if pod.Spec.HostNetwork {
		ips = []string{nodeIP}
	}
	out.Status.PodIPs = nil
	for i, ip := range ips {
		if i == 0 {
			out.Status.PodIP = ip
		}
		out.Status.PodIPs = append(out.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return &out
}

func (w *worker) lookup(ctx context.Context, pod *corev1.Pod) spec.Lookup {
	snap := w.k.cfg.View.Snapshot()
	l := spec.Lookup{Allocatable: w.k.allocatable()}
	for s := range view.List[*corev1.Service](snap, kinds.Service, pod.Namespace) {
		l.Services = append(l.Services, s)
	}
	if pod.Namespace != "default" {
		if s := view.Get[*corev1.Service](snap, kinds.Service, "default", "kubernetes"); s != nil {
			l.Services = append(l.Services, s)
		}
	}
	l.ConfigMap = func(name string) (*corev1.ConfigMap, error) {
		o, err := w.k.cfg.Objects.Get(ctx, kinds.ConfigMap, pod.Namespace, name)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return o.(*corev1.ConfigMap), nil
	}
	l.Secret = func(name string) (*corev1.Secret, error) {
		o, err := w.k.cfg.Objects.Get(ctx, kinds.Secret, pod.Namespace, name)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return o.(*corev1.Secret), nil
	}
	return l
}

// mounts of a container: its volumes, /etc/hosts and the file for its last
// words.
func (w *worker) mounts(ctx context.Context, pod *corev1.Pod, c *corev1.Container, env [][2]string, attempt uint32, users *runtimeapi.UserNamespace, in plan.Input) ([]*runtimeapi.Mount, func(), error) {
	known := map[string]string{}
	for _, kv := range env {
		known[kv[0]] = kv[1]
	}
	expand := func(s string) string { return spec.Expand(s, known) }
	var sub []*os.File
	closeAll := func() {
		for _, f := range sub {
			f.Close()
		}
	}
	var out []*runtimeapi.Mount
	hosts := true
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		mount := &runtimeapi.Mount{ContainerPath: m.MountPath, Readonly: m.ReadOnly || volume.ReadOnly(pod, m.Name)}
		key := plan.VolumeImage(c.Name, m.Name)
		if im, ok := in.Images[key]; ok {
			path, err := volume.SubPath(m, expand)
			if err == nil {
				_, err = w.image(ctx, key, im)
			}
			if err != nil {
				closeAll()
				return nil, nil, fmt.Errorf("volumeMount %q of container %q: %w", m.Name, c.Name, err)
			}
			mount.Image, mount.ImageSubPath = &runtimeapi.ImageSpec{Image: im.ID, UserSpecifiedImage: im.Spec}, path
		} else {
			path, file, err := w.k.volumes.Resolve(pod, m, expand)
			if err != nil {
				closeAll()
				return nil, nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
			}
			if file != nil {
				sub = append(sub, file)
			}
			mount.HostPath = path
		}
		hosts = hosts && filepath.Clean(m.MountPath) != "/etc/hosts"
		if r := m.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled && w.k.able().recursiveReadOnly {
			mount.RecursiveReadOnly = mount.Readonly
		}
		if !filepath.IsAbs(mount.ContainerPath) {
			mount.ContainerPath = "/" + mount.ContainerPath
		}
		if m.MountPropagation != nil {
			switch *m.MountPropagation {
			case corev1.MountPropagationHostToContainer:
				mount.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
			case corev1.MountPropagationBidirectional:
				mount.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
			}
		}
		out = append(out, mount)
	}
	if hosts {
		path, err := w.hostsFile(pod, in.Sandboxes[0])
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	if c.TerminationMessagePath != "" {
		path, err := w.terminationFile(pod, c, attempt)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: c.TerminationMessagePath, HostPath: path})
	}
	for _, m := range out { // what is root's on the node is the pod's root's in it
		m.UidMappings, m.GidMappings = users.GetUids(), users.GetGids()
	}
	return out, closeAll, nil
}

// Files below a pod's directory that its containers can write to.
const (
	hostsName   = "etc-hosts"
	messagesDir = "containers"
)

func (w *worker) hostsFile(pod *corev1.Pod, box plan.Sandbox) (string, error) {
	node := ""
	if data, err := w.k.files.Read("/etc/hosts"); err == nil {
		node = string(data)
	}
	path := filepath.Join(w.k.volumes.Dir(string(pod.UID)), hostsName)
	text := spec.Hosts(pod, box.IPs, w.k.cfg.ClusterDomain, node)
	if old, err := w.k.files.Read(path); err == nil && string(old) == text {
		return path, nil
	}
	return path, w.k.files.Write(path, []byte(text), 0o644)
}

// terminationFile may be written by any user in the container.
func (w *worker) terminationFile(pod *corev1.Pod, c *corev1.Container, attempt uint32) (string, error) {
	dir := filepath.Join(w.k.volumes.Dir(string(pod.UID)), messagesDir, c.Name)
	if err := w.k.files.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	path := filepath.Join(dir, strconv.FormatUint(uint64(attempt), 10))
	return path, w.k.files.Write(path, nil, 0o666)
}

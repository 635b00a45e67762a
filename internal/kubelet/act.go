package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/spec"
)

// sandboxTimeout bounds the making of a sandbox with its network.
const sandboxTimeout = 2 * time.Minute

// act does one thing. It reports whether to go on with the next; if not, the
// pod is looked at anew in a moment.
func (w *worker) act(ctx context.Context, pod *corev1.Pod, a plan.Action, in plan.Input) bool {
	var err error
	switch a.Op {
	case plan.PrepareVolumes:
		w.prepareVolumes(ctx, pod)
	case plan.CreateSandbox:
		w.createSandbox(ctx, pod, a.Attempt)
	case plan.EnsureImage:
		w.ensureImage(ctx, pod, a)
	case plan.StartContainer:
		w.startContainer(ctx, pod, a, in)
	case plan.KillContainer:
		w.kill(ctx, pod, a, in)
	case plan.UpdateContainer, plan.SetCgroup:
		err = w.resize(ctx, pod, a)
	case plan.RemoveContainer:
		_, err = w.k.cri.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: a.ID})
	case plan.StopSandbox:
		_, err = w.k.cri.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: a.ID})
	case plan.CleanUp:
		err = w.cleanUp(ctx)
	case plan.RemoveSandboxes:
		err = w.remove(ctx, pod, in)
	case plan.Delete:
		err = w.delete(ctx, pod)
	}
	if err != nil && ctx.Err() == nil {
		w.log.Warn("cannot "+string(a.Op), "container", a.Container, "id", a.ID, "error", err)
	}
	return err == nil
}

// fail records why something could not be started.
func (w *worker) fail(name, reason, message string) {
	f := w.failures[name]
	w.failures[name] = plan.Failed{Reason: reason, Message: message, At: w.k.cfg.Now(), Count: f.Count + 1}
}

func (w *worker) prepareVolumes(ctx context.Context, pod *corev1.Pod) {
	w.watchObjects(pod)
	err := w.ensureCgroup(pod)
	if err == nil {
		err = w.k.volumes.Setup(ctx, pod)
	}
	if err != nil {
		f := &w.volumes.Failed
		*f = plan.Failed{Reason: "FailedMount", Message: err.Error(), At: w.k.cfg.Now(), Count: f.Count + 1}
		if ctx.Err() == nil {
			w.emit(pod, "", true, "FailedMount", err.Error())
		}
		return
	}
	w.fresh = w.k.cfg.Now()
	w.volumes = plan.Volumes{Ready: true}
}

// sandboxConfig is what a sandbox is made of; containers name it again.
func (w *worker) sandboxConfig(pod *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	k := w.k
	users, err := k.users(pod)
	if err != nil {
		return nil, err
	}
	security := spec.SandboxSecurity(pod, users)
	host := spec.Resolv{}
	if data, err := k.files.Read("/etc/resolv.conf"); err == nil {
		host = spec.ParseResolv(string(data))
	}
	c := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: spec.LogDir(k.cfg.PodLogDir, pod),
		DnsConfig:    spec.DNS(pod, k.cfg.ClusterDNS, k.cfg.ClusterDomain, host),
		PortMappings: spec.Ports(pod),
		Labels:       k.labels(pod),
		Annotations:  map[string]string{cri.AnnotationGrace: graceText(pod)},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: k.cgroups.PodParent(pod), SecurityContext: security, Sysctls: sysctls(pod),
		},
	}
	c.Linux.Resources, c.Linux.Overhead = spec.Sandbox(pod)
	if !pod.Spec.HostNetwork {
		c.Hostname, err = spec.UTSName(pod, k.cfg.ClusterDomain)
	}
	return c, err
}

func (k *Kubelet) seccompDir() string { return filepath.Join(k.cfg.RootDir, "seccomp") }

func (k *Kubelet) labels(pod *corev1.Pod) map[string]string {
	return map[string]string{
		cri.LabelPodName: pod.Name, cri.LabelPodNamespace: pod.Namespace, cri.LabelPodUID: string(pod.UID), cri.LabelNode: k.cfg.NodeName,
	}
}

func sysctls(pod *corev1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil || len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		out[s.Name] = s.Value
	}
	return out
}

func (w *worker) createSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) {
	if !w.prepareDevices(ctx, pod) {
		return
	}
	w.k.metrics.pods.Inc()
	if !hostUsers(pod) {
		w.k.metrics.userPods.Inc()
	}
	err := w.runSandbox(ctx, pod, attempt)
	if err == nil {
		delete(w.failures, "")
		return
	}
	if ctx.Err() != nil {
		return
	}
	w.k.metrics.podErrors.Inc()
	if !hostUsers(pod) {
		w.k.metrics.userPodErrors.Inc()
	}
	w.fail("", "FailedCreatePodSandBox", err.Error())
	w.emit(pod, "", true, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
}

func (w *worker) runSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) error {
	// The directory of a pod whose sandbox was lost may be gone with a reboot.
	if err := w.k.files.MkdirAll(spec.LogDir(w.k.cfg.PodLogDir, pod), 0o755); err != nil {
		return err
	}
	if err := w.ensureCgroup(pod); err != nil {
		return err
	}
	config, err := w.sandboxConfig(pod, attempt)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	handler, err := w.runtimeHandler(ctx, pod)
	if err != nil {
		return err
	}
	if !hostUsers(pod) && !w.k.able().users[handler] {
		return fmt.Errorf("can't set `spec.hostUsers: false`, the runtime does not support user namespaces (handler %q)", handler)
	}
	_, err = w.k.cri.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	switch {
	case err == nil:
		return nil
	case handler != "":
		return fmt.Errorf("runtime handler %q: %w", handler, clean(err))
	}
	return clean(err)
}

// runtimeHandler is what the runtime calls the pod's runtime class; empty: its
// default.
func (w *worker) runtimeHandler(ctx context.Context, pod *corev1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	o, err := w.k.cfg.Objects.Get(ctx, kinds.RuntimeClass, "", *name)
	if err != nil {
		return "", fmt.Errorf("cannot look up RuntimeClass %q: %w", *name, err)
	}
	return o.(*nodev1.RuntimeClass).Handler, nil
}

func (w *worker) cleanUp(ctx context.Context) error {
	w.k.prober.Remove(string(w.uid))
	w.k.source.forget(w.uid)
	if err := w.k.devices.Unprepare(ctx, w.uid); err != nil {
		f := &w.volumes.Unclean
		*f = plan.Failed{Message: err.Error(), At: w.k.cfg.Now(), Count: f.Count + 1}
		return err
	}
	err := errors.Join(w.k.volumes.Teardown(string(w.uid)), w.k.removeCgroup(string(w.uid)))
	if err == nil {
		w.volumes = plan.Volumes{Cleaned: true}
	}
	return err
}

// remove sandboxes and containers, and the logs when nothing needs them.
func (w *worker) remove(ctx context.Context, pod *corev1.Pod, in plan.Input) error {
	for _, c := range in.Containers {
		if _, err := w.k.cri.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
			return err
		}
	}
	for _, b := range in.Sandboxes {
		if _, err := w.k.cri.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: b.ID}); err != nil {
			return err
		}
		if _, err := w.k.cri.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: b.ID}); err != nil {
			return err
		}
	}
	// The runtime leaves cgroups of the sandbox's parent in some hierarchies.
	return errors.Join(w.k.removeCgroup(string(w.uid)), w.k.files.RemoveAll(spec.LogDir(w.k.cfg.PodLogDir, pod)))
}

// delete tells the API that nothing is left; the status goes first, because
// afterwards there is nobody to tell.
func (w *worker) delete(ctx context.Context, pod *corev1.Pod) error {
	if err := w.status.flush(ctx); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return err
	}
	grace := int64(0)
	uid := pod.UID
	_, err := w.k.cfg.Client.Delete(ctx, kinds.RefTo(kinds.Pod, pod), metav1.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone already, or another one of that name
	}
	if err != nil {
		return fmt.Errorf("cannot delete the pod: %w", err)
	}
	return nil
}

package kubelet

import (
	"context"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/cdi"
	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/kubelet/dra"
	"knarr.dev/knarr/internal/kubelet/plugins"
)

// Directories below the root that plugins mount: where they register, and where
// they have their own sockets and files. The field knows their names.
const (
	registryDir = "plugins_registry"
	pluginsDir  = "plugins"
)

func (k *Kubelet) newClaims() *dra.Claims {
	return dra.New(dra.Config{Node: k.cfg.NodeName, Client: k.cfg.Client, Claim: k.source.ResourceClaim, Log: k.cfg.Log,
		File: filepath.Join(k.cfg.RootDir, "resource-claims.json"), Came: k.driverCame, Health: k.healthChanged})
}

// registry of plugins, with those who serve them.
func (k *Kubelet) registry() *plugins.Registry {
	return plugins.New(plugins.Config{Dir: filepath.Join(k.cfg.RootDir, registryDir), Log: k.cfg.Log,
		Handlers: map[string]plugins.Handler{registration.DRAPlugin: k.claims}})
}

// ResourceClaim is read anew each time: nodes may not watch claims.
func (s *source) ResourceClaim(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
	o, err := s.cfg.Objects.Get(ctx, kinds.ResourceClaim, namespace, name)
	if err != nil {
		return nil, err
	}
	return o.(*resourcev1.ResourceClaim), nil
}

// driverCame has pods that wait for a driver try again at once.
func (k *Kubelet) driverCame() {
	for _, w := range k.list() {
		if pod, _ := w.current(); claimsDevices(pod) || k.devices.Holds(w.uid) {
			w.soil()
		}
	}
}

func claimsDevices(pod *corev1.Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 || pod.Status.ExtendedResourceClaimStatus != nil
}

func (k *Kubelet) healthChanged(pods []types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, uid := range pods {
		if w := k.workers[uid]; w != nil {
			kick(w.wake)
		}
	}
}

// forgotten are pods that are neither in the API nor in the runtime, but for
// which drivers have prepared devices.
func (k *Kubelet) forgotten(known map[string]bool) []*cri.Pod {
	if k.claims == nil {
		return nil
	}
	var out []*cri.Pod
	for uid, namespace := range k.claims.Pods() {
		if !known[string(uid)] {
			out = append(out, &cri.Pod{UID: string(uid), Namespace: namespace})
		}
	}
	return out
}

// prepareDevices of a pod before its sandbox is made.
func (w *worker) prepareDevices(ctx context.Context, pod *corev1.Pod) bool {
	if !claimsDevices(pod) {
		return true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.interrupt = cancel
	if w.absent || w.pod.DeletionTimestamp != nil {
		cancel()
	}
	w.mu.Unlock()
	err := w.k.devices.Prepare(ctx, pod)
	w.mu.Lock()
	w.interrupt = nil
	w.mu.Unlock()
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		w.fail("", "FailedPrepareDynamicResources", err.Error())
		w.emit(pod, "", true, "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: "+err.Error())
	}
	return false
}

// give a container devices by their names, or do what these stand for.
func (k *Kubelet) give(config *runtimeapi.ContainerConfig, devices []string) error {
	if len(devices) > 0 && k.oldCDI.Load() {
		return cdi.Apply(config, devices, cdi.Dirs...)
	}
	for _, id := range devices {
		config.CDIDevices = append(config.CDIDevices, &runtimeapi.CDIDevice{Name: id})
	}
	return nil
}

// withoutCDI: containerd takes names of devices since 1.7, and ignores them
// before.
func withoutCDI(name, text string) bool {
	v, err := version.ParseGeneric(text)
	return name == "containerd" && err == nil && v.LessThan(version.MajorMinor(1, 7))
}

// health of the devices of a pod's containers.
func (w *worker) health(pod *corev1.Pod) map[string][]corev1.ResourceStatus {
	if len(pod.Spec.ResourceClaims) == 0 {
		return nil
	}
	out := map[string][]corev1.ResourceStatus{}
	for i := range pod.Spec.Containers {
		if c := &pod.Spec.Containers[i]; len(c.Resources.Claims) > 0 {
			out[c.Name] = w.k.devices.Health(pod, c)
		}
	}
	return out
}

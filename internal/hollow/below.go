package hollow

import (
	"context"
	"io/fs"
	"os"
	"path"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kubelet/dra"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/probe"
	"knarr.dev/knarr/internal/kubelet/volume"
)

// noFiles keeps nothing: what is written is forgotten, and nothing is there.
type noFiles struct{}

func (noFiles) Read(path string) ([]byte, error) {
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}
func (noFiles) Write(string, []byte, os.FileMode) error   { return nil }
func (noFiles) Replace(string, []byte, os.FileMode) error { return nil }
func (noFiles) MkdirAll(string, os.FileMode) error        { return nil }
func (noFiles) RemoveAll(string) error                    { return nil }

// volumes are asked for as real ones are, so that a pod waits for a Secret that
// is missing and has its token, but are laid out nowhere.
type volumes struct{ filler *volume.Pods }

func newVolumes(source volume.Source) *volumes {
	return &volumes{&volume.Pods{Root: "/hollow/pods", Source: source, Allocatable: func() corev1.ResourceList { return nil }}}
}

func (v *volumes) Dir(uid string) string { return v.filler.Dir(uid) }

func (v *volumes) Path(pod *corev1.Pod, vol *corev1.Volume) string { return v.filler.Path(pod, vol) }

func (v *volumes) Setup(ctx context.Context, pod *corev1.Pod) error { return v.filler.Check(ctx, pod) }

func (v *volumes) Refresh(ctx context.Context, pod *corev1.Pod) error {
	return v.filler.Check(ctx, pod)
}

func (v *volumes) Resolve(pod *corev1.Pod, m *corev1.VolumeMount, expand func(string) string) (string, *os.File, error) {
	return path.Join(v.filler.Dir(string(pod.UID)), "volumes", m.Name, m.SubPath, expand(m.SubPathExpr)), nil, nil
}

func (v *volumes) Teardown(string) error { return nil }

func (v *volumes) UIDs() ([]string, error) { return nil, nil }

// devices are given to whoever may have them, by drivers that always do: a pod
// whose claim is not its own waits, as on a real node.
type devices struct{ claim dra.Getter }

func (d devices) Prepare(ctx context.Context, pod *corev1.Pod) error {
	_, err := dra.Check(ctx, d.claim, pod)
	return err
}

func (devices) IDs(*corev1.Pod, *corev1.Container) ([]string, error) { return nil, nil }

func (devices) Health(*corev1.Pod, *corev1.Container) []corev1.ResourceStatus { return nil }

func (devices) Holds(types.UID) bool { return false }

func (devices) Unprepare(context.Context, types.UID) error { return nil }

// prober finds every container well, at once and without asking.
type prober struct {
	mu   sync.Mutex
	well map[string]map[string]plan.Probes // by pod and container ID
}

func newProber() *prober { return &prober{well: map[string]map[string]plan.Probes{}} }

func (p *prober) Outcomes(id string) plan.Probes {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, of := range p.well {
		if o, ok := of[id]; ok {
			return o
		}
	}
	return plan.Probes{}
}

func (p *prober) Want(pod string, targets []probe.Target) {
	var changed []func()
	p.mu.Lock()
	for _, t := range targets {
		of := p.well[pod]
		if of == nil {
			of = map[string]plan.Probes{}
			p.well[pod] = of
		}
		o := of[t.ID]
		switch t.Kind {
		case plan.Startup:
			o.Startup = plan.Success
		case plan.Liveness:
			o.Liveness = plan.Success
		case plan.Readiness:
			o.Readiness = plan.Success
		}
		if o != of[t.ID] {
			of[t.ID] = o
			changed = append(changed, t.Changed)
		}
	}
	p.mu.Unlock()
	for _, fn := range changed {
		fn()
	}
}

func (p *prober) Remove(pod string) {
	p.mu.Lock()
	delete(p.well, pod)
	p.mu.Unlock()
}

func (p *prober) Stop() {}

func (p *prober) Describe(chan<- *prometheus.Desc) {}

func (p *prober) Collect(chan<- prometheus.Metric) {}

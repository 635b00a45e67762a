package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kubelet/dra"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/probe"
	"knarr.dev/knarr/internal/kubelet/volume"
)

// Below is what a kubelet stands on besides its runtime. What is nil is the
// machine that it runs on.
type Below struct {
	// Machine is what the node says it is made of. Nothing of it ever runs
	// short, so that it is not measured either.
	Machine *Machine
	// Volumes makes what lays out pods' volumes, filled from that source.
	Volumes func(volume.Source) Volumes
	Files   Files
	Prober  Prober
	// Devices makes what gives pods their devices, out of claims read by that.
	Devices func(dra.Getter) Devices
	// NoCgroups: pods are put below none.
	NoCgroups bool
}

// Machine that a node is made of.
type Machine struct {
	CPUs         int
	Memory, Disk int64 // bytes
	Info         corev1.NodeSystemInfo
}

// Volumes of the pods on a node; volume.Pods says what each of it means.
type Volumes interface {
	Dir(uid string) string
	Path(pod *corev1.Pod, v *corev1.Volume) string
	Setup(ctx context.Context, pod *corev1.Pod) error
	Refresh(ctx context.Context, pod *corev1.Pod) error
	Resolve(pod *corev1.Pod, m *corev1.VolumeMount, expand func(string) string) (string, *os.File, error)
	Teardown(uid string) error
	UIDs() ([]string, error)
}

// Prober asks containers how they are; probe.Prober says what each of it means.
type Prober interface {
	Outcomes(id string) plan.Probes
	Want(pod string, targets []probe.Target)
	Remove(pod string)
	Stop()
	prometheus.Collector
}

// Devices that pods claim; dra.Claims says what each of it means.
type Devices interface {
	Prepare(ctx context.Context, pod *corev1.Pod) error
	IDs(pod *corev1.Pod, c *corev1.Container) ([]string, error)
	Health(pod *corev1.Pod, c *corev1.Container) []corev1.ResourceStatus
	Holds(pod types.UID) bool
	Unprepare(ctx context.Context, pod types.UID) error
}

// Files are the kubelet's own on the node: what it promised to pods, what is
// bound into containers, the directories of logs. Paths are absolute.
type Files interface {
	Read(path string) ([]byte, error) // fs.ErrNotExist if there is none
	// Write over what is there: who has it bound into a container sees that.
	Write(path string, data []byte, mode os.FileMode) error
	// Replace all at once.
	Replace(path string, data []byte, mode os.FileMode) error
	MkdirAll(path string, mode os.FileMode) error
	RemoveAll(path string) error
}

// disk keeps Files where their paths say.
type disk struct{}

func (disk) Read(path string) ([]byte, error) { return os.ReadFile(path) }

func (disk) Write(path string, data []byte, mode os.FileMode) error {
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask is
}

func (disk) Replace(path string, data []byte, mode os.FileMode) error {
	if err := os.WriteFile(path+".tmp", data, mode); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (disk) MkdirAll(path string, mode os.FileMode) error { return os.MkdirAll(path, mode) }

func (disk) RemoveAll(path string) error { return os.RemoveAll(path) }

// measured reports whether the node can run short of something.
func (k *Kubelet) measured() bool { return k.cfg.Below.Machine == nil }

// below takes what the configuration gives, and the machine for the rest.
func (k *Kubelet) below() {
	b := &k.cfg.Below
	k.files, k.prober = b.Files, b.Prober
	if k.files == nil {
		k.files = disk{}
	}
	if k.prober == nil {
		k.prober = probe.New(probe.Config{Log: k.cfg.Log, Exec: k.execProbe})
	}
	if b.Devices != nil {
		k.devices = b.Devices(k.source.ResourceClaim)
	} else {
		k.claims = k.newClaims()
		k.devices = k.claims
	}
	if b.Volumes != nil {
		k.volumes = b.Volumes(k.source)
	} else {
		k.volumes = &volume.Pods{Root: k.podsDir(), Source: k.source, Allocatable: k.allocatable}
	}
}

func (k *Kubelet) podsDir() string { return filepath.Join(k.cfg.RootDir, "pods") }

// readBelow what the node is made of, and what an earlier kubelet left to know.
func (k *Kubelet) readBelow() (err error) {
	records := filepath.Join(k.cfg.RootDir, "image-pulls.json")
	if m := k.cfg.Below.Machine; m != nil {
		k.machine = machine{cpus: m.CPUs, memory: m.Memory, info: m.Info, claimed: m.Disk, mapped: true}
		records = "" // images come with the machine: nobody has to be remembered
	} else if k.machine, err = readMachine(); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	if k.pulls.records, err = openPullRecords(records); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	if k.claims != nil {
		if err := k.claims.Open(); err != nil {
			return fmt.Errorf("kubelet: %w", err)
		}
	}
	return nil
}

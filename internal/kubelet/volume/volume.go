// Package volume lays out a pod's directory on the node: emptyDir, configMap,
// secret, projected, downwardAPI and hostPath volumes, and those behind claims; image
// volumes are the runtime's. Files that come from
// the API are replaced all at once through a ..data link, so that a container
// never sees half of an update.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/internal/kernel"
	"knarr.dev/knarr/internal/rmtree"
)

// File to be shown in a volume.
type File struct {
	Data []byte
	Mode os.FileMode
	User *int64 // owner, if not root
}

// Source gives what volumes are filled with.
type Source interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token returns a token for the pod and when it should be replaced.
	Token(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (string, error)
	// TrustAnchors are certificates, PEM encoded.
	TrustAnchors(ctx context.Context, b *corev1.ClusterTrustBundleProjection) ([]byte, error)
	// Certificate is a private key and the certificates for it, PEM encoded, for
	// one source of one volume. An error says that there are none yet, or never
	// will be.
	Certificate(ctx context.Context, pod *corev1.Pod, volume string, source int, c *corev1.PodCertificateProjection) (key, chain []byte, err error)
	// PersistentVolume is what the claim of one of the pod's volumes is bound to.
	// An error says in full why it cannot be had, or not on this node.
	PersistentVolume(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*corev1.PersistentVolume, error)
}

// Pods is the directory of all pods on a node.
type Pods struct {
	Root   string // RootDir/pods
	Source Source
	// Allocatable answers resourceFieldRefs to limits that are not set.
	Allocatable func() corev1.ResourceList

	mu     sync.Mutex
	claims map[usage]persistent // what is mounted of volumes behind claims
}

// Dir of one pod.
func (p *Pods) Dir(uid string) string { return filepath.Join(p.Root, uid) }

// plugin is the directory name that the field knows for a kind of volume.
func plugin(v *corev1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "kubernetes.io~empty-dir"
	case v.ConfigMap != nil:
		return "kubernetes.io~configmap"
	case v.Secret != nil:
		return "kubernetes.io~secret"
	case v.Projected != nil:
		return "kubernetes.io~projected"
	case v.DownwardAPI != nil:
		return "kubernetes.io~downward-api"
	}
	return ""
}

// Path on the node of one of the pod's volumes; of one behind a claim once it
// has been set up.
func (p *Pods) Path(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path
	case isClaim(v):
		return p.claimed(pod, v)
	}
	return filepath.Join(p.Dir(string(pod.UID)), "volumes", plugin(v), v.Name)
}

// Setup makes or refreshes every volume. It is idempotent.
func (p *Pods) Setup(ctx context.Context, pod *corev1.Pod) error {
	if err := os.MkdirAll(p.Dir(string(pod.UID)), 0o750); err != nil {
		return err
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image != nil { // the runtime mounts it
			continue
		}
		if isClaim(v) {
			if err := p.claim(ctx, pod, v); err != nil {
				return err
			}
		} else if err := p.setup(ctx, pod, v); err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
	}
	return nil
}

// Refresh brings volumes that show API objects up to date; the others are left
// alone. It reports whether it met any.
func (p *Pods) Refresh(ctx context.Context, pod *corev1.Pod) error {
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil {
			if err := p.setup(ctx, pod, v); err != nil {
				errs = append(errs, fmt.Errorf("volume %s: %w", v.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Check asks for all that the pod's volumes show and lays nothing out: it fails
// where Setup would for what the API does not have.
func (p *Pods) Check(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.HostPath != nil || v.EmptyDir != nil || v.Image != nil {
			continue
		}
		if isClaim(v) {
			if _, err := p.Source.PersistentVolume(ctx, pod, v); err != nil {
				return err
			}
			continue
		}
		if _, _, err := p.files(ctx, pod, v); err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
	}
	return nil
}

// Refreshes reports whether the pod has volumes that follow API objects.
func Refreshes(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil {
			return true
		}
	}
	return false
}

func (p *Pods) setup(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	path := p.Path(pod, v)
	switch {
	case v.HostPath != nil:
		return hostPath(v.HostPath)
	case v.EmptyDir != nil:
		return p.emptyDir(pod, path, v.EmptyDir)
	}
	files, secret, err := p.files(ctx, pod, v)
	if err != nil {
		return err
	}
	if secret { // never on a disk
		if err := tmpfs(path, 0); err != nil {
			return err
		}
	} else if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	return publish(path, files, fsGroup(pod))
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// memory is what an emptyDir in memory may take: its own limit, the pod's, the
// node's, whichever is the least.
func (p *Pods) memory(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource) int64 {
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	node := p.Allocatable()
	size := node.Memory().Value()
	for _, q := range []*resource.Quantity{limits.Memory(), e.SizeLimit} {
		if q != nil && q.Value() > 0 && (size == 0 || q.Value() < size) {
			size = q.Value()
		}
	}
	return size
}

// emptyDir is world-writable: who runs in the pod is the pod's business, and
// the directories above keep everybody else out.
func (p *Pods) emptyDir(pod *corev1.Pod, path string, e *corev1.EmptyDirVolumeSource) error {
	_, err := os.Stat(path)
	fresh := errors.Is(err, os.ErrNotExist)
	switch {
	case e.Medium == corev1.StorageMediumMemory:
		if err := tmpfs(path, p.memory(pod, e)); err != nil {
			return err
		}
	case e.Medium != corev1.StorageMediumDefault:
		return fmt.Errorf("emptyDir medium %q is not supported by this node", e.Medium)
	default:
		if err := os.MkdirAll(path, 0o777); err != nil {
			return err
		}
	}
	if !fresh {
		return nil
	}
	mode := os.FileMode(0o777)
	if group := fsGroup(pod); group != nil {
		if err := os.Chown(path, -1, int(*group)); err != nil {
			return err
		}
		mode |= os.ModeSetgid
	}
	return os.Chmod(path, mode)
}

// tmpfs mounts memory at path, once. Pages of it may be swapped, but a node of
// Kubernetes has no swap; noswap where the kernel knows the word.
func tmpfs(path string, size int64) error {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if mounted(path) {
		return nil
	}
	options := "mode=0777"
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	if kernel.AtLeast(6, 4) { // one before writes to its log that it does not know the word
		err := unix.Mount("tmpfs", path, "tmpfs", 0, options+",noswap")
		if !errors.Is(err, unix.EINVAL) { // as a kernel refuses it in a user namespace
			return os.NewSyscallError("cannot mount a tmpfs", err)
		}
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("cannot mount a tmpfs: %w", err)
	}
	return nil
}

// mounted reports whether path is a mount point, by its device; bind mounts of
// the same device are none of ours here.
func mounted(path string) bool {
	var here, above unix.Stat_t
	if unix.Lstat(path, &here) != nil || unix.Lstat(filepath.Dir(path), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

func hostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	if strings.Contains(h.Path, "..") {
		return errors.New("the path contains '..'")
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(h.Path, 0o755); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil && !errors.Is(err, unix.EISDIR) {
			return err
		}
		if err == nil {
			f.Close()
		}
	}
	info, err := os.Stat(h.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	mode, ok := info.Mode(), false
	switch kind {
	case corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory:
		ok = mode.IsDir()
	case corev1.HostPathFileOrCreate, corev1.HostPathFile:
		ok = mode.IsRegular()
	case corev1.HostPathSocket:
		ok = mode&os.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = mode&os.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, kind)
	}
	return nil
}

// Teardown unmounts and removes everything of the pod. Nothing outside of the
// pod's directory can be hit: mounts are read from the kernel and links are
// not followed.
func (p *Pods) Teardown(uid string) error {
	p.forget(uid)
	dir := p.Dir(uid)
	if uid == "" || filepath.Dir(dir) != filepath.Clean(p.Root) {
		return fmt.Errorf("%q is not a pod's UID", uid)
	}
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for range 8 { // mounts may be stacked
		points, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		if len(points) == 0 {
			return rmtree.Remove(dir)
		}
		for _, at := range points {
			if err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				if err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
					return fmt.Errorf("cannot unmount %s: %w", at, err)
				}
			}
		}
	}
	return fmt.Errorf("mounts below %s do not go away", dir)
}

// UIDs of the pods that have a directory.
func (p *Pods) UIDs() ([]string, error) {
	entries, err := os.ReadDir(p.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

// mountsBelow lists mount points under dir, deepest first.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	// The kernel knows mounts by their real paths.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		at := unescape(fields[4])
		if strings.HasPrefix(at, dir+"/") {
			out = append([]string{at}, out...)
		}
	}
	return out, nil
}

// unescape undoes mountinfo's octal escapes (proc(5)).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// stampFormat of the directories behind ..data.
func stamp(now time.Time) string { return now.UTC().Format("..2006_01_02_15_04_05.000000000") }

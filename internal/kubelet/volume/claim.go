package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// localPlugin is the directory name that the field knows for local volumes.
const localPlugin = "kubernetes.io~local-volume"

var (
	errMountOptions = errors.New("mount options are not supported for this volume type")
	errOnePod       = errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
	errNotPrepared  = errors.New("it has not been mounted")
)

// persistent is a volume behind a claim, as it was mounted for a pod.
type persistent struct {
	volume, path string // its name, and where it is on the node
}

// usage of a persistent volume by a pod.
type usage struct {
	pod  types.UID
	name string // of the volume in the pod
}

// isClaim reports whether the volume is behind a claim.
func isClaim(v *corev1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil }

// claim mounts the volume that the claim is bound to. Its errors say which
// step failed, as users know them.
func (p *Pods) claim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	pv, err := p.Source.PersistentVolume(ctx, pod, v)
	if err != nil {
		return err
	}
	path, step, err := p.mount(pod, v, pv)
	if err != nil {
		return fmt.Errorf("MountVolume.%s failed for volume %q : %w", step, pv.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claims == nil {
		p.claims = map[usage]persistent{}
	}
	p.claims[usage{pod.UID, v.Name}] = persistent{pv.Name, path}
	return nil
}

// claimed is where a volume behind a claim was mounted; empty: nowhere yet.
func (p *Pods) claimed(pod *corev1.Pod, v *corev1.Volume) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claims[usage{pod.UID, v.Name}].path
}

// forget a pod's claims.
func (p *Pods) forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for u := range p.claims {
		if string(u.pod) == uid {
			delete(p.claims, u)
		}
	}
}

// mount a persistent volume; step is what failed.
func (p *Pods) mount(pod *corev1.Pod, v *corev1.Volume, pv *corev1.PersistentVolume) (path, step string, err error) {
	if m := pv.Spec.AccessModes; len(m) == 1 && m[0] == corev1.ReadWriteOncePod && p.elsewhere(pod, pv) {
		return "", "SetUp", errOnePod
	}
	options := mountOptions(pv)
	switch src := &pv.Spec.PersistentVolumeSource; {
	case pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return "", "", nil // no container mounts it, or there would be no volume
	case src.HostPath != nil && len(options) > 0:
		return "", "MountOptionSupport check", errMountOptions
	case src.HostPath != nil:
		return src.HostPath.Path, "SetUp", hostPath(src.HostPath)
	case src.Local != nil:
		path, err = p.local(pod, pv, options, ReadOnly(pod, v.Name))
		return path, "SetUp", err
	}
	return "", "SetUp", fmt.Errorf("%s volumes are not supported by this version of knarr", sourceOf(pv))
}

// elsewhere: another pod has the volume.
func (p *Pods) elsewhere(pod *corev1.Pod, pv *corev1.PersistentVolume) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for u, c := range p.claims {
		if u.pod != pod.UID && c.volume == pv.Name {
			return true
		}
	}
	return false
}

// mountOptions of a volume, from its field and the annotation before that.
func mountOptions(pv *corev1.PersistentVolume) []string {
	out := slices.Clone(pv.Spec.MountOptions)
	for o := range strings.SplitSeq(pv.Annotations[corev1.MountOptionAnnotation], ",") {
		if o = strings.TrimSpace(o); o != "" {
			out = append(out, o)
		}
	}
	return out
}

// sourceOf names the source of a volume that is not supported.
func sourceOf(pv *corev1.PersistentVolume) string {
	s := &pv.Spec.PersistentVolumeSource
	for _, o := range []struct {
		set  bool
		name string
	}{
		{s.CSI != nil, "csi"}, {s.NFS != nil, "nfs"}, {s.ISCSI != nil, "iscsi"}, {s.FC != nil, "fc"}, {s.FlexVolume != nil, "flexVolume"},
		{s.AWSElasticBlockStore != nil, "awsElasticBlockStore"}, {s.AzureDisk != nil, "azureDisk"}, {s.AzureFile != nil, "azureFile"},
		{s.CephFS != nil, "cephfs"}, {s.Cinder != nil, "cinder"}, {s.Flocker != nil, "flocker"}, {s.GCEPersistentDisk != nil, "gcePersistentDisk"},
		{s.Glusterfs != nil, "glusterfs"}, {s.PhotonPersistentDisk != nil, "photonPersistentDisk"}, {s.PortworxVolume != nil, "portworxVolume"},
		{s.Quobyte != nil, "quobyte"}, {s.RBD != nil, "rbd"}, {s.ScaleIO != nil, "scaleIO"}, {s.StorageOS != nil, "storageos"}, {s.VsphereVolume != nil, "vsphereVolume"},
	} {
		if o.set {
			return o.name
		}
	}
	return "persistent"
}

// local binds a directory of the node into the pod's. Who is the first to do so
// gives it to the pod's group.
func (p *Pods) local(pod *corev1.Pod, pv *corev1.PersistentVolume, options []string, readOnly bool) (string, error) {
	src := pv.Spec.Local.Path
	if slices.Contains(strings.Split(filepath.ToSlash(src), "/"), "..") {
		return "", fmt.Errorf("invalid path: %s must not contain '..'", src)
	}
	flags, err := bindFlags(options, readOnly)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(src)
	switch {
	case err != nil:
		return "", err
	case info.Mode()&os.ModeDevice != 0:
		return "", fmt.Errorf("file systems on block devices such as %s are not supported by this version of knarr", src)
	case !info.IsDir():
		return "", fmt.Errorf("%s is not a directory", src)
	}
	dir := filepath.Join(p.Dir(string(pod.UID)), "volumes", localPlugin, pv.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	points, err := mountsBelow(p.Root)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	if slices.Contains(points, real) {
		return dir, nil
	}
	if err := unix.Mount(src, dir, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("cannot bind %s: %w", src, err)
	}
	err = restrict(dir, flags)
	shared := slices.ContainsFunc(points, func(at string) bool { return strings.HasSuffix(at, filepath.Join("/volumes", localPlugin, pv.Name)) })
	if group := fsGroup(pod); err == nil && group != nil && !readOnly && !shared {
		err = give(dir, int(*group), pod.Spec.SecurityContext.FSGroupChangePolicy)
	}
	if err != nil { // the next attempt begins anew
		return "", errors.Join(err, unix.Unmount(dir, unix.UMOUNT_NOFOLLOW))
	}
	return dir, nil
}

// bindOptions are those that a bind mount can have of its own (mount(8)).
var bindOptions = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "rw": 0, "defaults": 0,
}

func bindFlags(options []string, readOnly bool) (flags uintptr, err error) {
	if readOnly {
		flags = unix.MS_RDONLY
	}
	for _, list := range options {
		for o := range strings.SplitSeq(list, ",") {
			f, ok := bindOptions[o]
			if !ok {
				return 0, fmt.Errorf("mount option %q is not supported for local volumes", o)
			}
			flags |= f
		}
	}
	return flags, nil
}

// restrict a bind mount, which keeps what its file system is mounted with.
func restrict(dir string, flags uintptr) error {
	if flags == 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	for _, f := range []struct{ has, set uintptr }{
		{unix.ST_RDONLY, unix.MS_RDONLY}, {unix.ST_NOSUID, unix.MS_NOSUID}, {unix.ST_NODEV, unix.MS_NODEV}, {unix.ST_NOEXEC, unix.MS_NOEXEC},
		{unix.ST_NOATIME, unix.MS_NOATIME}, {unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if uintptr(st.Flags)&f.has != 0 {
			flags |= f.set
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
		return fmt.Errorf("cannot set mount options: %w", err)
	}
	return nil
}

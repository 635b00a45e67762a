package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// ReadOnly reports whether a volume's source cannot be written through its
// mount: what shows API objects or an image never can, a claim's only if the pod wants that.
func ReadOnly(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Name == name {
			return v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil || v.Image != nil || v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
		}
	}
	return false
}

// Resolve finds the node's path of a mount. A subPath is opened beneath its
// volume, so that links that a container planted lead nowhere else
// (CVE-2017-1002101, CVE-2021-25741); the path then goes through the open
// descriptor, which must stay open until the runtime has mounted it.
func (p *Pods) Resolve(pod *corev1.Pod, m *corev1.VolumeMount, expand func(string) string) (string, *os.File, error) {
	var v *corev1.Volume
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == m.Name {
			v = &pod.Spec.Volumes[i]
		}
	}
	if v == nil {
		return "", nil, fmt.Errorf("volume %q not found", m.Name)
	}
	root := p.Path(pod, v)
	if root == "" {
		return "", nil, fmt.Errorf("volume %q: %w", m.Name, errNotPrepared)
	}
	sub, err := SubPath(m, expand)
	if err != nil {
		return "", nil, err
	}
	if sub == "" {
		return root, nil, nil
	}
	f, err := beneath(root, sub, fsGroup(pod))
	if err != nil {
		return "", nil, err
	}
	path, err := p.bind(pod, m, f)
	return path, f, err
}

// SubPath of a volume that is mounted; empty: the whole.
func SubPath(m *corev1.VolumeMount, expand func(string) string) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		sub = expand(m.SubPathExpr)
		if strings.Contains(sub, "$(") {
			return "", fmt.Errorf("missing value for %q", m.SubPathExpr)
		}
	}
	if sub != "" && !filepath.IsLocal(sub) {
		return "", fmt.Errorf("subPath %q must stay in its volume", sub)
	}
	return sub, nil
}

// beneath opens sub under root, making directories that are missing.
func beneath(root, sub string, group *int64) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the volume: %w", err)
	}
	defer unix.Close(dir)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, sub, how)
	if errors.Is(err, unix.ENOENT) {
		if err := makeBeneath(dir, sub, group); err != nil {
			return nil, err
		}
		fd, err = unix.Openat2(dir, sub, how)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open subPath %q in its volume: %w", sub, err)
	}
	return os.NewFile(uintptr(fd), sub), nil
}

// makeBeneath makes one directory after the other, each opened beneath the
// volume before the next is made in it.
func makeBeneath(dir int, sub string, group *int64) error {
	parts := strings.Split(filepath.Clean(sub), "/")
	for i := range parts {
		prefix := strings.Join(parts[:i], "/")
		if prefix == "" {
			prefix = "."
		}
		how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
		fd, err := unix.Openat2(dir, prefix, how)
		if err != nil {
			return fmt.Errorf("cannot open %q in its volume: %w", prefix, err)
		}
		err = unix.Mkdirat(fd, parts[i], 0o777)
		if err == nil {
			err = owned(fd, parts[i], group)
		}
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot make subPath %q: %w", sub, err)
		}
	}
	return nil
}

// owned gives a directory the mode of the one that it lies in.
func owned(parent int, name string, group *int64) error {
	how := &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(parent, name, how)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var above unix.Stat_t
	if err := unix.Fstat(parent, &above); err != nil {
		return err
	}
	if group != nil {
		if err := unix.Fchown(fd, -1, int(*group)); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, above.Mode&0o7777)
}

// bind mounts what was opened at a place of its own, because the runtime opens
// paths by name in another process.
func (p *Pods) bind(pod *corev1.Pod, m *corev1.VolumeMount, f *os.File) (string, error) {
	dir := filepath.Join(p.Dir(string(pod.UID)), "volume-subpaths", m.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	at := filepath.Join(dir, fmt.Sprintf("%x-%x", st.Dev, st.Ino))
	var have unix.Stat_t
	if unix.Lstat(at, &have) == nil && have.Dev == st.Dev && have.Ino == st.Ino {
		return at, nil // mounted for an earlier container
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.MkdirAll(at, 0o750); err != nil {
			return "", err
		}
	} else {
		t, err := os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o640)
		if err != nil {
			return "", err
		}
		t.Close()
	}
	source := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Mount(source, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("cannot bind the subPath: %w", err)
	}
	return at, nil
}

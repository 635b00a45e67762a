package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bound answers for claims; other volumes are not asked for.
type bound struct {
	Source
	volume *corev1.PersistentVolume
	err    error
}

func (b bound) PersistentVolume(context.Context, *corev1.Pod, *corev1.Volume) (*corev1.PersistentVolume, error) {
	return b.volume, b.err
}

func claimant(uid string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{}, Volumes: []corev1.Volume{
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func localVolume(path string, options ...string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
	pv.Spec.Local = &corev1.LocalVolumeSource{Path: path}
	pv.Spec.MountOptions = options
	return pv
}

func readOnly(p *corev1.Pod) { p.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true }
func ofGroup(group int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.SecurityContext.FSGroup = &group }
}

// root is needed to mount.
func root(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount")
	}
}

func resolve(t *testing.T, p *Pods, pod *corev1.Pod) string {
	t.Helper()
	at, _, err := p.Resolve(pod, &corev1.VolumeMount{Name: "data"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func setup(t *testing.T, p *Pods, pod *corev1.Pod) {
	t.Helper()
	if err := p.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Teardown(string(pod.UID)) })
}

// TestLocal: a pod sees the directory, again after a restart of the kubelet, and
// what is in it outlives the pod.
func TestLocal(t *testing.T) {
	root(t)
	data := t.TempDir()
	source := bound{volume: localVolume(data)}
	p := &Pods{Root: filepath.Join(t.TempDir(), "pods"), Source: source}
	pod := claimant("one")
	if _, _, err := p.Resolve(pod, &corev1.VolumeMount{Name: "data"}, nil); !errors.Is(err, errNotPrepared) {
		t.Errorf("before it is set up: %v", err)
	}
	setup(t, p, pod)
	at := resolve(t, p, pod)
	if want := filepath.Join(p.Root, "one/volumes/kubernetes.io~local-volume/pv"); at != want {
		t.Errorf("at %s, want %s", at, want)
	}
	if err := os.WriteFile(filepath.Join(at, "kept"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := &Pods{Root: p.Root, Source: source}
	setup(t, again, pod)
	if points, err := mountsBelow(p.Root); err != nil || len(points) != 1 || resolve(t, again, pod) != at {
		t.Errorf("mounts %v, %v", points, err)
	}
	if err := again.Teardown("one"); err != nil {
		t.Fatal(err)
	}
	if again.Path(pod, &pod.Spec.Volumes[0]) != "" {
		t.Error("it is remembered")
	}
	if _, err := os.Stat(p.Dir("one")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	if read(t, filepath.Join(data, "kept")) != "x" {
		t.Error("the data are gone")
	}
}

func TestLocalReadOnly(t *testing.T) {
	root(t)
	p := &Pods{Root: filepath.Join(t.TempDir(), "pods"), Source: bound{volume: localVolume(t.TempDir(), "noexec,nosuid")}}
	pod := claimant("one", readOnly)
	setup(t, p, pod)
	var st unix.Statfs_t
	if err := unix.Statfs(resolve(t, p, pod), &st); err != nil {
		t.Fatal(err)
	}
	if want := int64(unix.ST_RDONLY | unix.ST_NOEXEC | unix.ST_NOSUID); st.Flags&want != want {
		t.Errorf("flags %x", st.Flags)
	}
	if !ReadOnly(pod, "data") || ReadOnly(claimant("two"), "data") {
		t.Error("containers learn it wrongly")
	}
}

// TestLocalGroup: the first pod's group gets what is there, and no link leads
// out of the volume; a second pod changes nothing.
func TestLocalGroup(t *testing.T) {
	root(t)
	data, outside := t.TempDir(), t.TempDir()
	for name, err := range map[string]error{
		"deep": os.MkdirAll(filepath.Join(data, "a/b"), 0o700), "file": os.WriteFile(filepath.Join(data, "a/f"), nil, 0o600),
		"out": os.Symlink(outside, filepath.Join(data, "out")), "outside": os.WriteFile(filepath.Join(outside, "f"), nil, 0o600),
		"pipe": unix.Mkfifo(filepath.Join(data, "a/pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(name, err)
		}
	}
	group := func(path string) (uint32, uint32) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Gid, st.Mode & 0o7777
	}
	p := &Pods{Root: filepath.Join(t.TempDir(), "pods"), Source: bound{volume: localVolume(data)}}
	setup(t, p, claimant("one", ofGroup(4242)))
	for path, mode := range map[string]uint32{"": 0o2775, "a": 0o2770, "a/b": 0o2770, "a/f": 0o660, "a/pipe": 0o660} {
		if gid, m := group(filepath.Join(data, path)); gid != 4242 || path != "" && m != mode || m&0o2770&^mode != 0 {
			t.Errorf("%s: group %d, mode %o", path, gid, m)
		}
	}
	for _, path := range []string{outside, filepath.Join(outside, "f")} {
		if gid, _ := group(path); gid == 4242 {
			t.Errorf("%s was given away", path)
		}
	}
	setup(t, p, claimant("two", ofGroup(4343)))
	if gid, _ := group(data); gid != 4242 {
		t.Errorf("the second pod took it: %d", gid)
	}
	if err := os.WriteFile(filepath.Join(data, "late"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []string{"one", "two"} {
		if err := p.Teardown(uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(data, "late"), -1, 0); err != nil {
		t.Fatal(err)
	}
	mismatch := corev1.FSGroupChangeOnRootMismatch
	lazy := func(p *corev1.Pod) { p.Spec.SecurityContext.FSGroupChangePolicy = &mismatch }
	setup(t, p, claimant("three", ofGroup(4242), lazy))
	if gid, _ := group(filepath.Join(data, "late")); gid != 0 {
		t.Errorf("its root is the group's, but the rest was changed: %d", gid)
	}
}

func TestOtherVolumes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
		change(pv)
		return pv
	}
	onHost := func(pv *corev1.PersistentVolume) { pv.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/data"} }
	for _, tt := range []struct {
		name   string
		volume *corev1.PersistentVolume
		err    error
		want   string // what the error ends with
	}{
		{"not bound", nil, errors.New("PVC is not bound"), "PVC is not bound"},
		{"host path", with(onHost), nil, ""},
		{"host path with options", with(func(pv *corev1.PersistentVolume) {
			onHost(pv)
			pv.Annotations = map[string]string{corev1.MountOptionAnnotation: "ro"}
		}), nil, `MountVolume.MountOptionSupport check failed for volume "pv" : mount options are not supported for this volume type`},
		{"driver", with(func(pv *corev1.PersistentVolume) { pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{} }), nil,
			`MountVolume.SetUp failed for volume "pv" : csi volumes are not supported by this version of knarr`},
		{"nfs", with(func(pv *corev1.PersistentVolume) { pv.Spec.NFS = &corev1.NFSVolumeSource{} }), nil,
			`MountVolume.SetUp failed for volume "pv" : nfs volumes are not supported by this version of knarr`},
		{"local, but a file", localVolume(file), nil, file + " is not a directory"},
		{"local, but a device", localVolume("/dev/null"), nil, "file systems on block devices such as /dev/null are not supported by this version of knarr"},
		{"local, but not there", localVolume(file + "x"), nil, "no such file or directory"},
		{"local, upwards", localVolume("/a/../b"), nil, "invalid path: /a/../b must not contain '..'"},
		{"local, odd options", localVolume("/", "sync"), nil, `mount option "sync" is not supported for local volumes`},
	} {
		p := &Pods{Root: filepath.Join(t.TempDir(), "pods"), Source: bound{volume: tt.volume, err: tt.err}}
		err := p.Setup(t.Context(), claimant("one"))
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.HasSuffix(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case tt.want == "" && resolve(t, p, claimant("one")) != "/data":
			t.Errorf("%s: at %s", tt.name, resolve(t, p, claimant("one")))
		}
	}
}

func TestOnePodOnly(t *testing.T) {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
	pv.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/data"}
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	p := &Pods{Root: filepath.Join(t.TempDir(), "pods"), Source: bound{volume: pv}}
	setup(t, p, claimant("one"))
	setup(t, p, claimant("one"))
	if err := p.Setup(t.Context(), claimant("two")); !errors.Is(err, errOnePod) {
		t.Errorf("a second pod: %v", err)
	}
	if err := p.Teardown("one"); err != nil {
		t.Fatal(err)
	}
	setup(t, p, claimant("two"))
}

func TestMountOptions(t *testing.T) {
	pv := localVolume("/x", "ro")
	pv.Annotations = map[string]string{corev1.MountOptionAnnotation: "noexec, nosuid"}
	if got := mountOptions(pv); !slices.Equal(got, []string{"ro", "noexec", "nosuid"}) {
		t.Errorf("%q", got)
	}
}

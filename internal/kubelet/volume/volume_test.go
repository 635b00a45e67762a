package volume

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// An update changes ..data once; names that went are gone; nothing is written
// when nothing changed.
func TestPublish(t *testing.T) {
	dir := t.TempDir()
	if err := publish(dir, map[string]File{"a": {Data: []byte("1"), Mode: 0o644}, "sub/b": {Data: []byte("2"), Mode: 0o600}}, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "a")) + read(t, filepath.Join(dir, "sub/b")); got != "12" {
		t.Errorf("content %q", got)
	}
	first, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(dir, map[string]File{"a": {Data: []byte("1"), Mode: 0o644}, "sub/b": {Data: []byte("2"), Mode: 0o600}}, nil); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(filepath.Join(dir, dataLink)); again != first {
		t.Error("an unchanged volume was written anew")
	}
	if err := publish(dir, map[string]File{"a": {Data: []byte("3"), Mode: 0o644}}, nil); err != nil {
		t.Fatal(err)
	}
	if read(t, filepath.Join(dir, "a")) != "3" {
		t.Error("not updated")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 { // ..data, its directory, a
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestPublishRefusesNames(t *testing.T) {
	for _, name := range []string{"../x", "/x", "..data", "a/../../x", ""} {
		if err := publish(t.TempDir(), map[string]File{name: {Mode: 0o644}}, nil); err == nil {
			t.Errorf("%q was written", name)
		}
	}
}

// TestCVE2017_1002101, and CVE-2021-25741: a subPath never leaves its volume,
// whatever links a container made in it.
func TestCVE2017_1002101(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	for name, to := range map[string]string{"abs": outside, "up": "../../..", "in": "real"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for sub, ok := range map[string]bool{"real": true, "in": true, "new/deep": true, "in/new": true, "abs": false, "abs/x": false, "up": false, "up/tmp": false} {
		f, err := beneath(root, sub, nil)
		if (err == nil) != ok {
			t.Errorf("%s: %v, want ok=%t", sub, err, ok)
		}
		if f != nil {
			f.Close()
		}
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("made outside: %v", left)
	}
}

func TestTeardownStaysInside(t *testing.T) {
	p := &Pods{Root: filepath.Join(t.TempDir(), "pods")}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "keep"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []string{"", "..", ".", "a/b", "../x"} {
		if err := p.Teardown(uid); err == nil {
			t.Errorf("%q was taken for a UID", uid)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "e", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}}
	if err := p.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	at := p.Path(pod, &pod.Spec.Volumes[0])
	if info, err := os.Stat(at); err != nil || info.Mode().Perm() != 0o777 {
		t.Fatalf("%v, %v", info, err)
	}
	if err := os.Symlink(other, filepath.Join(at, "link")); err != nil {
		t.Fatal(err)
	}
	if err := p.Teardown("u"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(other, "keep")); err != nil {
		t.Error("a link was followed")
	}
	if left, _ := p.UIDs(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

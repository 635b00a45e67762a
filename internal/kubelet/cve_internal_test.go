package kubelet

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kubelet/volume"
)

// TestCVE2020_8557: what a container writes to the files that the kubelet keeps
// for it counts as the pod's.
func TestCVE2020_8557(t *testing.T) {
	k := &Kubelet{volumes: &volume.Pods{Root: t.TempDir()}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	if used, err := k.kept(t.Context(), pod); err != nil || used != 0 {
		t.Fatalf("of nothing: %d %v", used, err)
	}
	dir := k.volumes.Dir("u")
	if err := os.MkdirAll(filepath.Join(dir, messagesDir, "c"), 0o750); err != nil {
		t.Fatal(err)
	}
	before, err := k.kept(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	written := int64(0)
	for _, name := range []string{hostsName, filepath.Join(messagesDir, "c", "0")} {
		data := bytes.Repeat([]byte("x"), 3<<20)
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		_, werr := f.Write(data)
		if serr := f.Sync(); werr != nil || serr != nil { // blocks are given when they are written
			t.Fatal(werr, serr)
		}
		_ = f.Close()
		written += int64(len(data))
		if used, err := k.kept(t.Context(), pod); err != nil || used-before < written {
			t.Errorf("%s: %d of %d bytes count: %v", name, used-before, written, err)
		}
	}
}

// TestCVE2020_8563, and CVE-2020-8564: a pull secret that cannot be read leaves
// nothing of itself in what is said about it.
func TestCVE2020_8563(t *testing.T) {
	image, err := reference.ParseNormalizedNamed("r.example/a:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"{hunter2", `{"auths":{"r.example":{"auth":"hunter2 is no base64"}}}`, `{"auths":"hunter2"}`, `{"r.example":{"auth":"hunter2 is no base64"}}`, `["hunter2"]`, "\x00hunter2"} {
		for typ, key := range map[corev1.SecretType]string{corev1.SecretTypeDockerConfigJson: corev1.DockerConfigJsonKey, corev1.SecretTypeDockercfg: corev1.DockerConfigKey} {
			for _, a := range dockerAuth(&corev1.Secret{Type: typ, Data: map[string][]byte{key: []byte(text)}}, image) {
				if strings.Contains(a.String(), "hunter2") {
					t.Errorf("%q gave %v", text, a)
				}
			}
		}
	}
}

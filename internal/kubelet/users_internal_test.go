package kubelet

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/volume"
)

// etcFiles has files in /etc of its own.
type etcFiles struct {
	disk
	etc map[string]string
}

func (f etcFiles) Read(path string) ([]byte, error) {
	name, ok := strings.CutPrefix(path, "/etc/")
	if !ok {
		return f.disk.Read(path)
	}
	if text, ok := f.etc[name]; ok {
		return []byte(text), nil
	}
	return nil, fs.ErrNotExist
}

func podWithUsers(uid string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}, Spec: corev1.PodSpec{HostUsers: new(bool)}}
}

// TestUsers: no two pods have an ID in common, a pod keeps its IDs over a restart,
// and they are free once it is gone.
func TestUsers(t *testing.T) {
	root := t.TempDir()
	start := func() *Kubelet {
		return &Kubelet{cfg: Config{MaxPods: 3}, files: etcFiles{etc: map[string]string{"subuid": "kubelet:655360:196608", "subgid": "kubelet:655360:196608"}}, volumes: &volume.Pods{Root: root}}
	}
	k := start()
	if u, err := k.users(&corev1.Pod{}); u != nil || err != nil {
		t.Errorf("a pod with the node's users: %v %v", u, err)
	}
	got := map[string]uint32{}
	take := func(uid string) {
		t.Helper()
		u, err := k.users(podWithUsers(uid))
		if err != nil {
			t.Fatal(err)
		}
		m := u.Uids[0]
		if len(u.Uids) != 1 || len(u.Gids) != 1 || m.HostId != u.Gids[0].HostId || m.ContainerId != 0 || m.Length != 65536 || m.HostId%65536 != 0 || m.HostId == 0 ||
			u.Mode != runtimeapi.NamespaceMode_POD {
			t.Fatalf("%s: %v", uid, u)
		}
		for other, id := range got {
			if (id == m.HostId) != (other == uid) {
				t.Errorf("%s has %d, %s %d", uid, m.HostId, other, id)
			}
		}
		got[uid] = m.HostId
	}
	for _, uid := range []string{"a", "b", "a", "c"} {
		take(uid)
	}
	k = start()
	for uid := range maps.Clone(got) {
		take(uid)
	}
	if _, err := k.users(podWithUsers("d")); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a fourth of three: %v", err)
	}
	if err := k.volumes.Teardown("b"); err != nil {
		t.Fatal(err)
	}
	freed := got["b"]
	delete(got, "b")
	if take("d"); got["d"] != freed {
		t.Errorf("%d, want %d", got["d"], freed)
	}
	// What is not understood is not taken for free.
	for text, want := range map[string]string{"{": "unexpected end", "{}": "not one mapping",
		`{"uidMappings":[{"hostId":65536,"length":65536}],"gidMappings":[{"hostId":131072,"length":65536}]}`: "not one mapping",
		`{"uidMappings":[{"length":65536}],"gidMappings":[{"length":65536}]}`:                                "not one mapping"} {
		if err := os.WriteFile(k.usersPath("a"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, uid := range []string{"a", "e"} {
			if _, err := k.users(podWithUsers(uid)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s with %s: %v, want %s", uid, text, err, want)
			}
		}
	}
}

func TestSubordinateIDs(t *testing.T) {
	for _, tt := range []struct {
		uid, gid string
		first    uint32
		ranges   int
	}{
		{"", "", 65536, 4},
		{"me:100000:65536\n", "me:100000:65536\nyou:165536:65536\n# a word\nme:x:y\n", 262144, 4},
		{"me:4294900000:65536\n", "", 0, 0},
		{"me:100000:65536\nkubelet:655360:196608\n", "kubelet:655360:196608\n", 655360, 3},
		{"kubelet:655360:196608\n", "", 0, 0},
		{"kubelet:655360:196608\n", "kubelet:720896:196608\n", 0, 0},
		{"kubelet:655361:196608\n", "kubelet:655361:196608\n", 0, 0},
		{"kubelet:0:196608\n", "kubelet:0:196608\n", 0, 0},
		{"kubelet:655360:65536\n", "kubelet:655360:65536\n", 0, 0},
		{"kubelet:4294901760:196608\n", "kubelet:4294901760:196608\n", 0, 0},
		{"kubelet:x:196608\n", "kubelet:x:196608\n", 0, 0},
		{"kubelet:\n", "", 0, 0},
		{"kubelet:655360:196608\nkubelet:65536:196608\n", "kubelet:655360:196608\nkubelet:65536:196608\n", 0, 0},
	} {
		k := &Kubelet{cfg: Config{MaxPods: 2}, files: etcFiles{etc: map[string]string{"subuid": tt.uid, "subgid": tt.gid}}, volumes: &volume.Pods{Root: filepath.Join(t.TempDir(), "pods")}}
		first, ranges, err := k.subordinate()
		if (err != nil) != (tt.first == 0) || first != tt.first || ranges != tt.ranges {
			t.Errorf("%q and %q: %d %d %v", tt.uid, tt.gid, first, ranges, err)
		}
	}
}

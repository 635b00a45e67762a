package builtin

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSysctls(t *testing.T) {
	const net, ipc = unix.CLONE_NEWNET, unix.CLONE_NEWIPC
	for _, tc := range []struct {
		name  string
		flags int
		good  bool
	}{
		{"net.ipv4.ip_forward", net, true},
		{"net.ipv4.ip_forward", ipc, false},
		{"net/ipv4/conf/eth0.1/forwarding", net, true},
		{"kernel.shmmax", ipc, true},
		{"kernel.shmmax", net, false},
		{"kernel.sem", net | ipc, true},
		{"fs.mqueue.msg_max", ipc, true},
		{"kernel.panic", net | ipc, false},
		{"vm.swappiness", net | ipc, false},
		{"net/../kernel/panic", net, false},
		{"../net.x", net, false},
		{"", net, false},
	} {
		if err := namespaced(tc.name, tc.flags); (err == nil) != tc.good {
			t.Errorf("%q with %x: %v", tc.name, tc.flags, err)
		}
	}
}

func TestSignals(t *testing.T) {
	for name, want := range map[string]unix.Signal{"": 15, "TERM": 15, "SIGTERM": 15, "sigusr1": 10, "9": 9, "RTMIN": 34, "SIGRTMIN+3": 37, "SIGRTMINPLUS3": 37, "RTMAX-1": 63, "SIGRTMAXMINUS1": 63} {
		if got, err := signalNumber(name); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"0", "65", "-1", "SIGNOTHING", "RTMIN+99"} {
		if got, err := signalNumber(name); err == nil {
			t.Errorf("%q: %d", name, got)
		}
	}
}

func TestUsers(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("passwd", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
	write("group", "root:x:0:\nann:x:1000:\nteam:x:2000:ann\n")
	id := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	type sc = runtimeapi.LinuxContainerSecurityContext
	for name, tc := range map[string]struct {
		sc       *sc
		image    string
		uid, gid uint32
		groups   []uint32
		refused  bool
	}{
		"nothing":            {sc: &sc{}, groups: []uint32{0}},
		"the image's":        {sc: &sc{}, image: "ann", uid: 1000, gid: 1000, groups: []uint32{1000, 2000}},
		"with a group":       {sc: &sc{}, image: "ann:team", uid: 1000, gid: 2000, groups: []uint32{2000}},
		"a number":           {sc: &sc{RunAsUser: id(1000)}, uid: 1000, gid: 1000, groups: []uint32{1000, 2000}},
		"an unknown number":  {sc: &sc{RunAsUser: id(77)}, uid: 77, groups: []uint32{0}},
		"both":               {sc: &sc{RunAsUser: id(77), RunAsGroup: id(88)}, uid: 77, gid: 88, groups: []uint32{88}},
		"a name":             {sc: &sc{RunAsUsername: "ann"}, uid: 1000, gid: 1000, groups: []uint32{1000, 2000}},
		"further groups":     {sc: &sc{RunAsUser: id(1000), SupplementalGroups: []int64{5}}, uid: 1000, gid: 1000, groups: []uint32{5, 1000, 2000}},
		"only these":         {sc: &sc{RunAsUser: id(1000), SupplementalGroups: []int64{5}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}, uid: 1000, gid: 1000, groups: []uint32{5, 1000}},
		"an unknown name":    {sc: &sc{RunAsUsername: "bob"}, refused: true},
		"a name with colon":  {sc: &sc{RunAsUsername: "ann:team"}, refused: true},
		"group without user": {sc: &sc{RunAsGroup: id(5)}, refused: true},
	} {
		got, err := resolveUser(root, tc.sc, tc.image)
		if tc.refused {
			if err == nil {
				t.Errorf("%s: %+v", name, got)
			}
			continue
		}
		if err != nil || got.UID != tc.uid || got.GID != tc.gid || !slices.Equal(got.Additional, tc.groups) {
			t.Errorf("%s: %+v, %v; want %d, %d, %v", name, got, err, tc.uid, tc.gid, tc.groups)
		}
	}
	// A link out of the image leads nowhere.
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("eve:x:666:666::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if got, err := resolveUser(root, &sc{RunAsUsername: "eve"}, ""); err == nil {
		t.Errorf("eve is %+v, out of a file of the host's", got)
	}
}

package cdi

import (
	"reflect"
	"strings"
	"testing"

	oci "github.com/opencontainers/runtime-spec/specs-go"
)

// container that runs as user 7 in a network of its own.
func container() *oci.Spec {
	return &oci.Spec{
		Process: &oci.Process{Env: []string{"A=1", "ALL=no"}, User: oci.User{UID: 7, AdditionalGids: []uint32{3}}},
		Mounts:  []oci.Mount{{Destination: "/proc"}, {Destination: "/x/y/z"}, {Destination: "/replaced/", Source: "/old"}},
		Linux: &oci.Linux{Namespaces: []oci.LinuxNamespace{{Type: oci.NetworkNamespace, Path: "/n"}}, Devices: []oci.LinuxDevice{{Path: "/dev/zero", Major: 9}},
			Resources: &oci.LinuxResources{Devices: []oci.LinuxDeviceCgroup{{Access: "rwm"}}}},
	}
}

func TestInject(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", `
cdiVersion: 1.1.0
kind: v.example/gpu
containerEdits: {env: [ALL=yes]}
devices:
- name: "0"
  containerEdits:
    env: [GPU=0]
    additionalGids: [0, 3, 5]
    deviceNodes:
    - {path: /dev/zero, permissions: r}
    - {path: /dev/whole, type: b, major: 300, minor: 4, fileMode: 416, uid: 0, gid: 8}
    - {path: /dev/pipe, type: p}
    mounts:
    - {hostPath: /h, containerPath: /x/y, options: [ro]}
    - {hostPath: tmpfs, containerPath: /replaced, type: tmpfs, options: [size=1m]}
    netDevices: [{hostInterfaceName: eth9, name: fast0}]
    hooks:
    - {hookName: prestart, path: /p}
    - {hookName: createRuntime, path: /h, args: [h, one], env: [A=b], timeout: 3}
    - {hookName: createContainer, path: /h, args: [h, two]}
    - {hookName: startContainer, path: /h, args: [h, three]}
    - {hookName: poststart, path: /h, args: [h, four]}
    - {hookName: poststop, path: /h, args: [h, five]}
- {name: "1", containerEdits: {env: [GPU=1]}}
- {name: net, containerEdits: {netDevices: [{hostInterfaceName: eth9, name: other0}]}}
- {name: absent, containerEdits: {deviceNodes: [{path: /dev/nosuchdevice}]}}
- {name: file, containerEdits: {deviceNodes: [{path: /dev/f, hostPath: /proc/self/status}]}}
- {name: block, containerEdits: {deviceNodes: [{path: /dev/f, hostPath: /dev/zero, type: b}]}}
`)
	s := container()
	if err := Inject(s, []string{"v.example/gpu=0", "v.example/gpu=0", "v.example/gpu=1"}, dir); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Process.Env, " "); got != "A=1 ALL=yes GPU=1" {
		t.Errorf("environment: %s", got)
	}
	if got := s.Process.User.AdditionalGids; !reflect.DeepEqual(got, []uint32{3, 5}) {
		t.Errorf("groups: %v", got)
	}
	var order []string
	for _, m := range s.Mounts {
		order = append(order, m.Type+" "+m.Source+" "+m.Destination+" "+strings.Join(m.Options, ","))
	}
	if got := strings.Join(order, "; "); got != "  /proc ; tmpfs tmpfs /replaced size=1m; bind /h /x/y ro,rbind;   /x/y/z " {
		t.Errorf("mounts: %s", got)
	}
	d := s.Linux.Devices
	if len(d) != 3 || d[0].Path != "/dev/zero" || d[0].Type != "c" || d[0].Major != 1 || d[0].Minor != 5 || d[0].FileMode.Perm() != 0o666 || *d[0].UID != 7 || d[0].GID != nil ||
		d[1].Type != "b" || d[1].Major != 300 || *d[1].FileMode != 0o640 || *d[1].UID != 0 || *d[1].GID != 8 || d[2].Type != "p" {
		t.Errorf("device nodes: %+v", d)
	}
	r := s.Linux.Resources.Devices
	if len(r) != 3 || r[1].Type != "c" || *r[1].Major != 1 || *r[1].Minor != 5 || r[1].Access != "r" || !r[1].Allow || r[2].Type != "b" || r[2].Access != "rwm" {
		t.Errorf("rules: %+v", r)
	}
	if got := s.Linux.NetDevices; len(got) != 1 || got["eth9"].Name != "fast0" {
		t.Errorf("network devices: %v", got)
	}
	h := s.Hooks
	if h.Prestart[0].Path != "/p" || h.CreateRuntime[0].Args[1] != "one" || *h.CreateRuntime[0].Timeout != 3 || h.CreateRuntime[0].Env[0] != "A=b" ||
		h.CreateContainer[0].Args[1] != "two" || h.StartContainer[0].Args[1] != "three" || h.Poststart[0].Args[1] != "four" || h.Poststop[0].Args[1] != "five" {
		t.Errorf("hooks: %+v", h)
	}

	for id, want := range map[string]string{"absent": "/dev/nosuchdevice", "file": "/proc/self/status is not of type", "block": `/dev/zero is not of type "b"`, "net": "eth9 is fast0 already"} {
		err := Inject(s, []string{"v.example/gpu=" + id}, dir)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "v.example/gpu="+id) || !strings.Contains(err.Error(), "a.yaml") {
			t.Errorf("%s: %v, want %q with the device and its file", id, err, want)
		}
	}
	host := container()
	host.Linux.Namespaces = nil
	if err := Inject(host, []string{"v.example/gpu=net"}, dir); err == nil || !strings.Contains(err.Error(), "the host's network") {
		t.Errorf("a network device in the host's network: %v", err)
	}
}

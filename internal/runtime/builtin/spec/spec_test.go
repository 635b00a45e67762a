package spec

import (
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func input() Input {
	return Input{ID: "id", Rootfs: "/r", Config: &runtimeapi.ContainerConfig{Command: []string{"/c"}, Linux: &runtimeapi.LinuxContainerConfig{
		SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}}},
		Sandbox: Sandbox{Config: &runtimeapi.PodSandboxConfig{Hostname: "h", Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/p"}}, Network: "/n", IPC: "/i", UTS: "/u", Dir: "/d"},
		Machine: Machine{Capabilities: []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_NET_ADMIN"}, MinScore: -1000}}
}

func TestCommand(t *testing.T) {
	image := v1.Config{Entrypoint: []string{"e"}, Cmd: []string{"c"}}
	for name, tc := range map[string]struct {
		command, args []string
		image         v1.Config
		want          string
	}{
		"the image's":               {image: image, want: "e c"},
		"other arguments":           {args: []string{"a"}, image: image, want: "e a"},
		"another command":           {command: []string{"x"}, image: image, want: "x"},
		"both":                      {command: []string{"x"}, args: []string{"a"}, image: image, want: "x a"},
		"arguments without command": {args: []string{"a"}, want: "a"},
		"nothing":                   {},
		"an empty one":              {command: []string{""}},
	} {
		got, err := command(&runtimeapi.ContainerConfig{Command: tc.command, Args: tc.args}, tc.image)
		if strings.Join(got, " ") != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%s: %v, %v; want %q", name, got, err, tc.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	known := input().Machine.Capabilities
	for name, tc := range map[string]struct {
		privileged         bool
		add, drop, ambient []string
		has, lacks         []string
		refused            bool
	}{
		"defaults":          {has: []string{"CAP_CHOWN", "CAP_NET_RAW"}, lacks: []string{"CAP_SYS_ADMIN"}},
		"added":             {add: []string{"SYS_ADMIN"}, has: []string{"CAP_SYS_ADMIN", "CAP_CHOWN"}},
		"by its whole name": {add: []string{"cap_sys_admin"}, has: []string{"CAP_SYS_ADMIN"}},
		"dropped":           {drop: []string{"CHOWN"}, lacks: []string{"CAP_CHOWN"}},
		"all but one":       {add: []string{"ALL"}, drop: []string{"NET_ADMIN"}, has: []string{"CAP_SYS_ADMIN"}, lacks: []string{"CAP_NET_ADMIN"}},
		"only one":          {drop: []string{"ALL"}, add: []string{"CHOWN"}, has: []string{"CAP_CHOWN"}, lacks: []string{"CAP_KILL"}},
		"none":              {drop: []string{"all"}, lacks: []string{"CAP_CHOWN", "CAP_KILL"}},
		"added and dropped": {add: []string{"SYS_ADMIN"}, drop: []string{"SYS_ADMIN"}, lacks: []string{"CAP_SYS_ADMIN"}},
		"ambient":           {ambient: []string{"NET_ADMIN"}, has: []string{"CAP_NET_ADMIN"}},
		"privileged":        {privileged: true, drop: []string{"ALL"}, has: known},
		"of no name":        {add: []string{"FLYING"}, refused: true},
	} {
		got, err := Capabilities(&runtimeapi.LinuxContainerSecurityContext{Privileged: tc.privileged,
			Capabilities: &runtimeapi.Capability{AddCapabilities: tc.add, DropCapabilities: tc.drop, AddAmbientCapabilities: tc.ambient}}, known)
		if tc.refused {
			if err == nil {
				t.Errorf("%s: not refused", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, c := range tc.has {
			if !slices.Contains(got.Bounding, c) || !slices.Contains(got.Effective, c) || !slices.Contains(got.Permitted, c) {
				t.Errorf("%s: lacks %s: %+v", name, c, got)
			}
		}
		for _, c := range tc.lacks {
			if slices.Contains(got.Bounding, c) {
				t.Errorf("%s: has %s", name, c)
			}
		}
		if len(tc.ambient) > 0 != (len(got.Ambient) > 0) {
			t.Errorf("%s: ambient %v", name, got.Ambient)
		}
	}
}

func TestAppArmor(t *testing.T) {
	with := Machine{AppArmor: true, AppArmorProfile: "ours"}
	unloaded := Machine{AppArmor: true}
	of := func(kind runtimeapi.SecurityProfile_ProfileType, name string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: name}
	}
	byDefault, unconfined := of(runtimeapi.SecurityProfile_RuntimeDefault, ""), of(runtimeapi.SecurityProfile_Unconfined, "")
	local := of(runtimeapi.SecurityProfile_Localhost, "localhost/mine")
	for name, tc := range map[string]struct {
		machine    Machine
		asked      *runtimeapi.SecurityProfile
		old        string
		privileged bool
		want       string
		refused    bool
	}{
		"nothing":                         {machine: with, want: "ours"},
		"the runtime's":                   {machine: with, asked: byDefault, want: "ours"},
		"the runtime's by its old name":   {machine: with, old: "runtime/default", want: "ours"},
		"none":                            {machine: with, asked: unconfined},
		"none by its old name":            {machine: with, old: "unconfined"},
		"the machine's":                   {machine: with, asked: local, want: "mine"},
		"the machine's by its old name":   {machine: with, old: "localhost/mine", want: "mine"},
		"the field before the old name":   {machine: with, asked: unconfined, old: "localhost/mine"},
		"of no name":                      {machine: with, asked: of(runtimeapi.SecurityProfile_Localhost, ""), refused: true},
		"privileged":                      {machine: with, privileged: true},
		"privileged, the runtime's":       {machine: with, asked: byDefault, privileged: true},
		"privileged, the machine's":       {machine: with, asked: local, privileged: true, want: "mine"},
		"not loaded":                      {machine: unloaded},
		"not loaded, the runtime's":       {machine: unloaded, asked: byDefault, refused: true},
		"not loaded, the machine's":       {machine: unloaded, asked: local, want: "mine"},
		"no AppArmor":                     {},
		"no AppArmor, none":               {asked: unconfined},
		"no AppArmor, the runtime's":      {asked: byDefault, refused: true},
		"no AppArmor, the machine's":      {asked: local, refused: true},
		"no AppArmor, privileged, a name": {asked: local, privileged: true, refused: true},
	} {
		in := input()
		in.Machine.AppArmor, in.Machine.AppArmorProfile = tc.machine.AppArmor, tc.machine.AppArmorProfile
		sc := in.Config.Linux.SecurityContext
		sc.Apparmor, sc.ApparmorProfile, sc.Privileged = tc.asked, tc.old, tc.privileged
		p, err := process(in, sc)
		if (err != nil) != tc.refused || err == nil && p.ApparmorProfile != tc.want {
			t.Errorf("%s: %+v, %v; want %q", name, p, err, tc.want)
		}
	}
}

func TestMounts(t *testing.T) {
	in := input()
	in.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/a/b/c", HostPath: "/x"},
		{ContainerPath: "/a", HostPath: "/y", Readonly: true},
		{ContainerPath: "/etc/hosts", HostPath: "/own-hosts"},
		{ContainerPath: "dev/shm/", HostPath: "/own-shm", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
	}
	in.Volumes = map[string]string{"/data": "/v/0", "/a": "/v/1"}
	s, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	at := func(to string) specs.Mount {
		t.Helper()
		var found []specs.Mount
		for _, m := range s.Mounts {
			if m.Destination == to {
				found = append(found, m)
			}
		}
		if len(found) != 1 {
			t.Fatalf("%d mounts at %s", len(found), to)
		}
		return found[0]
	}
	order := func(to string) int {
		return slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == to })
	}
	if order("/a") > order("/a/b/c") {
		t.Error("/a hides what is mounted below it")
	}
	for to, source := range map[string]string{"/etc/hosts": "/own-hosts", "/dev/shm": "/own-shm", "/etc/resolv.conf": "/d/resolv.conf", "/data": "/v/0", "/a": "/y"} {
		if got := at(to).Source; got != source {
			t.Errorf("%s shows %s, want %s", to, got, source)
		}
	}
	if !slices.Contains(at("/a").Options, "ro") || !slices.Contains(at("/a/b/c").Options, "rw") {
		t.Errorf("modes: %v, %v", at("/a").Options, at("/a/b/c").Options)
	}
	if s.Linux.RootfsPropagation != "rslave" {
		t.Errorf("root propagation %q", s.Linux.RootfsPropagation)
	}
	for name, m := range map[string]*runtimeapi.Mount{
		"at the root":             {ContainerPath: "/", HostPath: "/x"},
		"nowhere":                 {HostPath: "/x"},
		"of a relative path":      {ContainerPath: "/x", HostPath: "x"},
		"recursive and writable":  {ContainerPath: "/x", HostPath: "/x", RecursiveReadOnly: true},
		"recursive and propagate": {ContainerPath: "/x", HostPath: "/x", RecursiveReadOnly: true, Readonly: true, Propagation: 1},
		"of no propagation":       {ContainerPath: "/x", HostPath: "/x", Propagation: 9},
	} {
		in := input()
		in.Config.Mounts = []*runtimeapi.Mount{m}
		if _, err := Container(in); err == nil {
			t.Errorf("a mount %s was accepted", name)
		}
	}
}

func TestResources(t *testing.T) {
	r := &runtimeapi.LinuxContainerResources{CpuShares: 1, CpuQuota: -1, MemoryLimitInBytes: 100, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 5}}}
	got, err := Resources(r, Machine{Swap: true})
	if err != nil {
		t.Fatal(err)
	}
	if *got.CPU.Shares != 2 || *got.CPU.Quota != -1 || got.CPU.Period != nil || *got.Memory.Limit != 100 || *got.Memory.Swap != 100 || len(got.HugepageLimits) != 0 {
		t.Errorf("%+v %+v %+v", got, got.CPU, got.Memory)
	}
	if got, _ := Resources(r, Machine{HugeTLB: true}); got.Memory.Swap != nil || len(got.HugepageLimits) != 1 {
		t.Errorf("without swap, with huge pages: %+v", got)
	}
	if got, err := Resources(nil, Machine{}); err != nil || got.CPU != nil || got.Memory != nil {
		t.Errorf("nothing said: %+v, %v", got, err)
	}
	if _, err := Resources(&runtimeapi.LinuxContainerResources{Unified: map[string]string{"a": "b"}}, Machine{}); err == nil {
		t.Error("unified resources on cgroup v1 were accepted")
	}
}

func TestEnvironment(t *testing.T) {
	in := input()
	in.Image.Env = []string{"A=image", "B=image"}
	in.Config.Envs = []*runtimeapi.KeyValue{{Key: "B", Value: []byte("mine")}, {Key: "C", Value: []byte("x=y")}}
	got := environment(in)
	want := []string{"A=image", "PATH=" + defaultPath, "HOSTNAME=h", "B=mine", "C=x=y"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNamespaces(t *testing.T) {
	in := input()
	in.Sandbox.PID = "/proc/7/ns/pid"
	for mode, want := range map[runtimeapi.NamespaceMode]string{
		runtimeapi.NamespaceMode_CONTAINER: "new", runtimeapi.NamespaceMode_POD: "/proc/7/ns/pid", runtimeapi.NamespaceMode_NODE: "none",
	} {
		in.Config.Linux.SecurityContext.NamespaceOptions.Pid = mode
		s, err := Container(in)
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		for _, n := range s.Linux.Namespaces {
			if n.Type == specs.PIDNamespace {
				got = "new"
				if n.Path != "" {
					got = n.Path
				}
			}
		}
		if got != want {
			t.Errorf("%v: %s, want %s", mode, got, want)
		}
	}
}

func TestLabels(t *testing.T) {
	for level, good := range map[string]bool{"s0": true, "s0:c1,c2": true, "s0-s15:c0.c1023": true, "s0:c1.c5,c7": true, "s0c1": false, "c1": false, "s0:c1:c2": false, "s0 ": false} {
		if err := checkLabel(&runtimeapi.SELinuxOption{Level: level}); (err == nil) != good {
			t.Errorf("%q: %v", level, err)
		}
	}
	if checkLabel(&runtimeapi.SELinuxOption{Type: "a:b"}) == nil {
		t.Error("a type with a colon was accepted")
	}
}

// Package spec translates a container as the CRI describes it into an OCI
// specification. It decides only: what it must know of the machine, the image
// and the sandbox is given.
package spec

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input of a specification.
type Input struct {
	ID      string
	Config  *runtimeapi.ContainerConfig
	Image   v1.Config
	Sandbox Sandbox
	User    User
	Machine Machine

	Rootfs string
	// Seccomp is the profile that Config asks for; nil is none.
	Seccomp *specs.LinuxSeccomp
	// Images are where images' files are, by the path in the container.
	Images map[string]string
	// Volumes are directories of the host for what the image declares to be
	// one, by the path in the container.
	Volumes map[string]string
	// Devices are what is at the host's paths that Config names: a node, or
	// those of a directory.
	Devices map[string][]specs.LinuxDevice
}

// Sandbox that the container is in.
type Sandbox struct {
	Config *runtimeapi.PodSandboxConfig
	// Namespaces that are held for all of its containers, by the files that
	// hold them. What is not named is the host's.
	Network, IPC, UTS, User, PID string
	// Dir has hosts, hostname, resolv.conf and, where IPC is the pod's, shm.
	Dir string
}

// User that the program runs as.
type User struct {
	UID, GID   uint32
	Additional []uint32
}

// Machine is what there is.
type Machine struct {
	CgroupV2 bool
	HugeTLB  bool
	Swap     bool // swap can be limited
	// Capabilities that the kernel knows.
	Capabilities []string
	Devices      []specs.LinuxDevice // of the host, for privileged containers
	AppArmor     bool
	// AppArmorProfile is the runtime's, for those who ask for no other; "" where it
	// could not be loaded.
	AppArmorProfile string
	SELinux         bool
	MinScore        int // the least OOM score that can be given
}

// Container returns the specification.
func Container(in Input) (*specs.Spec, error) {
	security := in.Config.GetLinux().GetSecurityContext()
	process, err := process(in, security)
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(in, security)
	if err != nil {
		return nil, err
	}
	resources, err := Resources(in.Config.GetLinux().GetResources(), in.Machine)
	if err != nil {
		return nil, err
	}
	devices, rules, err := devices(in, security)
	if err != nil {
		return nil, err
	}
	resources.Devices = rules
	s := &specs.Spec{
		Version:     specs.Version,
		Root:        &specs.Root{Path: in.Rootfs, Readonly: security.GetReadonlyRootfs()},
		Process:     process,
		Mounts:      mounts,
		Annotations: in.Config.Annotations,
		Linux: &specs.Linux{
			Namespaces:  namespaces(in.Sandbox, in.Machine, security),
			CgroupsPath: CgroupPath(in.Sandbox.Config.GetLinux().GetCgroupParent(), in.ID),
			Resources:   resources,
			Devices:     devices,
			Seccomp:     in.Seccomp,
			// Mounts of the host that come later reach those who ask for it.
			RootfsPropagation: rootPropagation(in.Config.Mounts),
		},
	}
	if u := in.Sandbox.User; u != "" {
		o := in.Sandbox.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
		s.Linux.UIDMappings, s.Linux.GIDMappings = mappings(o.GetUids()), mappings(o.GetGids())
	}
	if !security.GetPrivileged() {
		s.Linux.MaskedPaths = security.GetMaskedPaths()
		s.Linux.ReadonlyPaths = security.GetReadonlyPaths()
	}
	if err := checkLabel(security.GetSelinuxOptions()); err != nil {
		return nil, err
	}
	if l := label(security.GetSelinuxOptions()); l != "" && in.Machine.SELinux && !security.GetPrivileged() {
		s.Process.SelinuxLabel = l
	}
	return s, nil
}

// CgroupPath of a container below its pod's.
func CgroupPath(parent, id string) string { return path.Join("/", cmp.Or(parent, "knarr-runtime"), id) }

// command is what is run: what the image says, unless the container says it.
func command(c *runtimeapi.ContainerConfig, image v1.Config) ([]string, error) {
	entry, args := c.Command, c.Args
	if len(entry) == 0 {
		entry = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	all := slices.Concat(entry, args)
	if len(all) == 0 || all[0] == "" {
		return nil, fmt.Errorf("no command specified: neither the container nor its image says what to run")
	}
	return all, nil
}

// defaultPath is what a container without PATH gets.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func process(in Input, security *runtimeapi.LinuxContainerSecurityContext) (*specs.Process, error) {
	args, err := command(in.Config, in.Image)
	if err != nil {
		return nil, err
	}
	cwd := cmp.Or(in.Config.WorkingDir, in.Image.WorkingDir, "/")
	if !path.IsAbs(cwd) {
		return nil, fmt.Errorf("working directory %q is not an absolute path", cwd)
	}
	p := &specs.Process{
		Terminal: in.Config.Tty, Args: args, Cwd: path.Clean(cwd), Env: environment(in),
		User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Additional},
		NoNewPrivileges: security.GetNoNewPrivs(),
	}
	if p.Capabilities, err = Capabilities(security, in.Machine.Capabilities); err != nil {
		return nil, err
	}
	// Without the right to lower it a process keeps the score of its parent.
	adj := max(int(in.Config.GetLinux().GetResources().GetOomScoreAdj()), in.Machine.MinScore)
	p.OOMScoreAdj = &adj
	if p.ApparmorProfile, err = appArmor(security, in.Machine); err != nil {
		return nil, err
	}
	return p, nil
}

// appArmor is the name of the profile to run under, "" for none. Who says nothing gets
// the runtime's.
func appArmor(sc *runtimeapi.LinuxContainerSecurityContext, m Machine) (string, error) {
	asked := askedProfile(sc)
	kind := asked.GetProfileType() // of none it is RuntimeDefault
	switch {
	case kind == runtimeapi.SecurityProfile_Unconfined,
		kind == runtimeapi.SecurityProfile_RuntimeDefault && sc.GetPrivileged(),
		asked == nil && m.AppArmorProfile == "":
		return "", nil
	case !m.AppArmor:
		return "", fmt.Errorf("apparmor is not supported by this machine: profile %s %q cannot be used", kind, asked.LocalhostRef)
	case kind == runtimeapi.SecurityProfile_Localhost:
		name := strings.TrimPrefix(asked.LocalhostRef, "localhost/")
		if name == "" {
			return "", errors.New("the AppArmor profile of type Localhost has no name")
		}
		return name, nil
	case m.AppArmorProfile == "":
		return "", errors.New("the AppArmor profile of this runtime could not be loaded on this machine: its log says why")
	}
	return m.AppArmorProfile, nil
}

// askedProfile is the profile that is asked for, in a field or by the name that
// older kubelets send; nil is none.
func askedProfile(sc *runtimeapi.LinuxContainerSecurityContext) *runtimeapi.SecurityProfile {
	name := sc.GetApparmorProfile()
	switch {
	case sc.GetApparmor() != nil || name == "":
		return sc.GetApparmor()
	case name == "unconfined":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case name == "runtime/default":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}
}

func environment(in Input) []string {
	env := slices.Clone(in.Image.Env)
	set := func(name, value string) {
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		env = append(env, name+"="+value)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	if !has("PATH") {
		set("PATH", defaultPath)
	}
	if in.Config.Tty && !has("TERM") {
		set("TERM", "xterm")
	}
	if h := in.Sandbox.Config.GetHostname(); h != "" {
		set("HOSTNAME", h)
	}
	for _, e := range in.Config.Envs {
		set(e.Key, string(e.Value))
	}
	return env
}

// namespaces of a container: its own mounts, the rest is its pod's.
func namespaces(s Sandbox, m Machine, security *runtimeapi.LinuxContainerSecurityContext) []specs.LinuxNamespace {
	l := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(t specs.LinuxNamespaceType, path string) {
		if path != "" {
			l = append(l, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	join(specs.NetworkNamespace, s.Network)
	join(specs.IPCNamespace, s.IPC)
	join(specs.UTSNamespace, s.UTS)
	join(specs.UserNamespace, s.User)
	switch security.GetNamespaceOptions().GetPid() {
	case runtimeapi.NamespaceMode_CONTAINER:
		l = append(l, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case runtimeapi.NamespaceMode_NODE:
	default: // the pod's, or another container's: the caller says which file
		join(specs.PIDNamespace, s.PID)
	}
	if m.CgroupV2 && !security.GetPrivileged() {
		l = append(l, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return l
}

func mappings(ids []*runtimeapi.IDMapping) []specs.LinuxIDMapping {
	var l []specs.LinuxIDMapping
	for _, m := range ids {
		l = append(l, specs.LinuxIDMapping{ContainerID: m.ContainerId, HostID: m.HostId, Size: m.Length})
	}
	return l
}

// label is an SELinux label, as it is given.
func label(o *runtimeapi.SELinuxOption) string {
	if o == nil || o.Level == "" && o.Role == "" && o.Type == "" && o.User == "" {
		return ""
	}
	return strings.Join([]string{o.User, o.Role, o.Type, o.Level}, ":")
}

// seLevel is the level of an SELinux label (selinux(8)): sensitivities, and
// categories after a colon.
var seLevel = regexp.MustCompile(`^s[0-9]+(-s[0-9]+)?(:c[0-9]+([.,]c[0-9]+)*)(-s[0-9]+:c[0-9]+([.,]c[0-9]+)*)?$|^s[0-9]+(-s[0-9]+)?$`)

// checkLabel refuses what is no label: where SELinux is off, too.
func checkLabel(o *runtimeapi.SELinuxOption) error {
	if o == nil {
		return nil
	}
	for _, part := range []string{o.User, o.Role, o.Type} {
		if strings.ContainsAny(part, ": \t\n") {
			return fmt.Errorf("SELinux options: %q is not a part of a label", part)
		}
	}
	if o.Level != "" && !seLevel.MatchString(o.Level) {
		return fmt.Errorf("SELinux options: level %q is not of the form s0:c1,c2", o.Level)
	}
	return nil
}

// inRoot is a path below the container's root, lexically.
func inRoot(p string) string { return filepath.Clean("/" + p) }

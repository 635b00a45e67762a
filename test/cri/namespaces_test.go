package cri_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namespace is what a process is in: type:[inode].
func (t *T) namespaceOf(pid int, kind string) string {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	t.must(err)
	return link
}

// nodeNamespace is that of the runtime.
func (t *T) nodeNamespace(kind string) (link string) {
	t.must(t.in(func() (err error) {
		link, err = os.Readlink("/proc/thread-self/ns/" + kind)
		return err
	}))
	return link
}

var namespaceCases = []testCase{
	{"namespaces/own by default", func(t *T) {
		p, q := t.pod(), t.pod()
		a, b, c := p.start(), p.start(), q.start()
		for _, kind := range []string{"net", "ipc", "uts"} {
			x, y, z := t.namespaceOf(a.pid(), kind), t.namespaceOf(b.pid(), kind), t.namespaceOf(c.pid(), kind)
			if x != y || x == z || x == t.nodeNamespace(kind) {
				t.errorf("%s: %s and %s in one pod, %s in another, the node's %s", kind, x, y, z, t.nodeNamespace(kind))
			}
		}
		for _, kind := range []string{"pid", "mnt"} {
			x, y := t.namespaceOf(a.pid(), kind), t.namespaceOf(b.pid(), kind)
			if x == y || x == t.nodeNamespace(kind) {
				t.errorf("%s: %s and %s, the node's %s", kind, x, y, t.nodeNamespace(kind))
			}
		}
		t.equal("process 1", a.sh("cat /proc/1/comm"), "sleep")
		t.lacks("processes", a.sh("ps -o args"), "pause")
	}},
	{"namespaces/host network", func(t *T) {
		p := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Network = runtimeapi.NamespaceMode_NODE }), func(c *podConfig) { c.Hostname = "" })
		c := p.start()
		t.equal("network", t.namespaceOf(c.pid(), "net"), t.nodeNamespace("net"))
		// Also its name is the node's.
		name, err := os.Hostname()
		t.must(err)
		t.equal("hostname", c.sh("hostname"), name)
		if ip := p.status().GetNetwork().GetIp(); ip != "" {
			t.errorf("an address of a pod on the host's network: %s", ip)
		}
	}},
	{"namespaces/host PID", func(t *T) {
		p := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Pid = runtimeapi.NamespaceMode_NODE }))
		c := p.start()
		t.equal("PID namespace", t.namespaceOf(c.pid(), "pid"), t.nodeNamespace("pid"))
		t.equal("its own process, seen by itself", c.sh(fmt.Sprintf("cat /proc/%d/comm", c.pid())), "sleep")
		c.sh(fmt.Sprintf("test -d /proc/%d", os.Getpid()))
		t.must(c.stop(0))
		t.equal("exit code", c.status().ExitCode, 137)
	}},
	{"namespaces/host IPC", func(t *T) {
		for _, mode := range []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_POD} {
			id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 1<<20, unix.IPC_CREAT|0o600)
			t.must(err)
			t.cleanup(func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
			c := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Ipc = mode })).start()
			fields := strings.Fields(c.sh("awk 'NR>1 {print $2}' /proc/sysvipc/shm"))
			if slices.Contains(fields, strconv.Itoa(id)) != (mode == runtimeapi.NamespaceMode_NODE) {
				t.errorf("IPC %s: segment %d among %v", mode, id, fields)
			}
		}
	}},
	{"namespaces/shared PID", func(t *T) {
		p := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Pid = runtimeapi.NamespaceMode_POD }))
		a, b := p.start(command("sleep", "1234567")), p.start()
		t.contains("processes", b.sh("ps -o args"), "sleep 1234567")
		if first := b.sh("cat /proc/1/comm"); first == "sleep" {
			t.errorf("a container is process 1 of the pod")
		}
		t.equal("PID namespace", t.namespaceOf(a.pid(), "pid"), t.namespaceOf(b.pid(), "pid"))
		// A process of one can be signalled from another, and only its container ends.
		b.sh("kill -9 $(pidof sleep | tr ' ' '\\n' | while read p; do grep -q 1234567 /proc/$p/cmdline && echo $p; done)")
		t.equal("exit code", a.wait().ExitCode, 137)
		t.equal("the other", b.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	}},
	{"namespaces/shared PID reaps", func(t *T) {
		p := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Pid = runtimeapi.NamespaceMode_POD }))
		c := p.start()
		c.sh("(sleep 0.2 & ) ; (sleep 0.3 & ) ; true")
		t.within("no zombies are left", func() bool {
			return !strings.Contains(c.sh("cat /proc/[0-9]*/stat 2>/dev/null; true"), ") Z ") && pidCount(c) == 1
		})
	}},
	{"namespaces/target PID", func(t *T) {
		p := t.pod()
		a := p.start(command("sleep", "7654321"))
		target := func(id string) func(*containerConfig) {
			return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: id}
			})
		}
		b := p.start(target(a.id))
		t.equal("PID namespace", t.namespaceOf(b.pid(), "pid"), t.namespaceOf(a.pid(), "pid"))
		t.contains("process 1", b.sh("cat /proc/1/cmdline | tr '\\0' ' '"), "sleep 7654321")
		p.fails("a target that is not there", target("nosuchcontainer"))
		p.fails("no target", target(""))
		p.fails("a target in another pod", target(t.pod().start().id))
		p.fails("a target that does not run", target(p.create().id))
		// When the target's first process ends the kernel ends the others.
		t.must(a.stop(0))
		t.equal("exit code", b.wait().ExitCode, 137)
	}},
	{"namespaces/hostname", func(t *T) {
		p := t.pod(func(c *podConfig) { c.Hostname = "a-name-of-its-own" })
		c := p.start()
		t.equal("hostname", c.sh("hostname"), "a-name-of-its-own")
		t.equal("/etc/hostname", c.sh("cat /etc/hostname"), "a-name-of-its-own")
		t.equal("HOSTNAME", c.sh("echo $HOSTNAME"), "a-name-of-its-own")
	}},
	{"namespaces/hostname too long", func(t *T) {
		_, err := t.tryPod(func(c *podConfig) { c.Hostname = strings.Repeat("a", 65) })
		t.refused("a hostname that the kernel does not take", err)
	}},
	{"namespaces/sysctls", func(t *T) {
		p := t.pod(func(c *podConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "1024 65000", "fs.mqueue.msg_max": "100", "net/ipv4/tcp_syncookies": "0"}
		})
		c := p.start()
		for path, want := range map[string]string{"kernel/shm_rmid_forced": "1", "net/ipv4/ip_local_port_range": "1024 65000", "fs/mqueue/msg_max": "100", "net/ipv4/tcp_syncookies": "0"} {
			t.equal(path, strings.Join(strings.Fields(c.sh("cat /proc/sys/"+path)), " "), want)
		}
	}},
	{"namespaces/sysctls that are refused", func(t *T) {
		for name, c := range map[string]*podConfig{
			"no such":                t.podConfig(func(c *podConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.no_such_thing": "1"} }),
			"of no namespace":        t.podConfig(func(c *podConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "10"} }),
			"a bad value":            t.podConfig(func(c *podConfig) { c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "many"} }),
			"network of the host":    t.podConfig(namespaces(func(n *runtimeapi.NamespaceOption) { n.Network = runtimeapi.NamespaceMode_NODE }), func(c *podConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "0"} }),
			"IPC of the host":        t.podConfig(namespaces(func(n *runtimeapi.NamespaceOption) { n.Ipc = runtimeapi.NamespaceMode_NODE }), func(c *podConfig) { c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1"} }),
			"a path out of /proc":    t.podConfig(func(c *podConfig) { c.Linux.Sysctls = map[string]string{"net/../vm/swappiness": "10"} }),
			"hostname by the kernel": t.podConfig(func(c *podConfig) { c.Linux.Sysctls = map[string]string{"kernel.hostname": "x"} }),
		} {
			if _, err := t.tryPodOf(c, ""); err == nil {
				t.errorf("%s: accepted", name)
			}
			t.equal(name+": list", len(t.sandboxes(&runtimeapi.PodSandboxFilter{LabelSelector: c.Labels})), 0)
		}
	}},
	{"namespaces/low ports without capabilities", func(t *T) {
		p := t.pod()
		nobody := security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser = &runtimeapi.Int64Value{Value: 65534}
			s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
		})
		p.start(command("probe", "serve", "tcp", "80", "low"), nobody).says("serving")
		t.equal("answer", t.ask("tcp", p.ip()+":80"), "low ?")
		t.equal("groups that may ping", strings.Join(strings.Fields(p.sees("cat /proc/sys/net/ipv4/ping_group_range")), " "), "0 2147483647")
	}},
	{"namespaces/shared memory", func(t *T) {
		p := t.pod()
		a, b := p.start(), p.start()
		a.sh("echo shared > /dev/shm/note")
		t.equal("/dev/shm of another container", b.sh("cat /dev/shm/note"), "shared")
		t.equal("size", b.sh("df -k /dev/shm | awk 'END {print $2}'"), "65536")
		if out := t.pod().start().sh("ls /dev/shm"); out != "" {
			t.errorf("/dev/shm of another pod: %s", out)
		}
	}},
}

var defaultMapping = []*runtimeapi.IDMapping{{HostId: 100000, ContainerId: 0, Length: 65536}}

func userNamespace(mode runtimeapi.NamespaceMode, uids, gids []*runtimeapi.IDMapping) func(*podConfig) {
	return namespaces(func(n *runtimeapi.NamespaceOption) {
		n.UsernsOptions = &runtimeapi.UserNamespace{Mode: mode, Uids: uids, Gids: gids}
	})
}

var usernsCases = []testCase{
	{"user namespaces/the next container's devices are root's", func(t *T) {
		t.pod(userNamespace(runtimeapi.NamespaceMode_POD, defaultMapping, defaultMapping)).start()
		t.equal("owners", t.pod().start().sh("stat -c %u:%g /dev/null /dev/zero /dev/random /dev/tty | sort -u"), "0:0")
	}},
	{"user namespaces/mapped", func(t *T) {
		p := t.pod(userNamespace(runtimeapi.NamespaceMode_POD, defaultMapping, defaultMapping))
		dir := tempDir(t)
		t.must(os.Chmod(dir, 0o777))
		c := p.start(func(c *containerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/mnt", UidMappings: defaultMapping, GidMappings: defaultMapping}}
		})
		for _, file := range []string{"uid_map", "gid_map"} {
			t.equal(file, strings.Join(strings.Fields(c.sh("cat /proc/self/"+file)), " "), "0 100000 65536")
		}
		t.equal("user", c.sh("id -u"), "0")
		t.equal("owner of its files", c.sh("stat -c %u:%g /bin/busybox"), "0:0")
		st, err := os.Stat(fmt.Sprintf("/proc/%d", c.pid()))
		t.must(err)
		t.equal("user on the host", ownerOf(st), 100000)
		c.seesHierarchies("mapped", "ro", "")
		// A mapped mount: what the container's root makes is root's on the host.
		c.sh("touch /mnt/made /tmp/made")
		st, err = os.Stat(filepath.Join(dir, "made"))
		t.must(err)
		t.equal("owner of a file in a mapped mount", ownerOf(st), 0)
		// Capabilities end at the namespace.
		_, _, code := c.exec("sh", "-c", "mount -t tmpfs none /tmp")
		if code == 0 {
			t.errorf("it could mount")
		}
		got := p.status().GetLinux().GetNamespaces().GetOptions().GetUsernsOptions()
		t.equal("mode in the status", got.GetMode(), runtimeapi.NamespaceMode_POD)
		t.equal("mapping in the status", got.GetUids(), defaultMapping)
		// Two containers of a pod share it.
		t.equal("user namespace", t.namespaceOf(p.start().pid(), "user"), t.namespaceOf(c.pid(), "user"))
	}},
	{"user namespaces/a user of its own", func(t *T) {
		p := t.pod(userNamespace(runtimeapi.NamespaceMode_POD, defaultMapping, defaultMapping))
		c := p.start(security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 1001}, &runtimeapi.Int64Value{Value: 1002}
		}))
		t.equal("user and group", c.sh("id -u; id -g"), "1001\n1002")
		st, err := os.Stat(fmt.Sprintf("/proc/%d", c.pid()))
		t.must(err)
		t.equal("user on the host", ownerOf(st), 101001)
	}},
	{"user namespaces/of the node", func(t *T) {
		for _, n := range []*runtimeapi.UserNamespace{nil, {Mode: runtimeapi.NamespaceMode_NODE}} {
			c := t.pod(namespaces(func(o *runtimeapi.NamespaceOption) { o.UsernsOptions = n })).start()
			t.equal("user namespace", t.namespaceOf(c.pid(), "user"), t.nodeNamespace("user"))
		}
	}},
	{"user namespaces/refused", func(t *T) {
		two := []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}, {HostId: 200000, Length: 65536}}
		notZero := []*runtimeapi.IDMapping{{HostId: 100000, ContainerId: 1, Length: 65536}}
		for name, o := range map[string]func(*podConfig){
			"two mappings":        userNamespace(runtimeapi.NamespaceMode_POD, two, two),
			"root is not mapped":  userNamespace(runtimeapi.NamespaceMode_POD, notZero, notZero),
			"container":           userNamespace(runtimeapi.NamespaceMode_CONTAINER, defaultMapping, defaultMapping),
			"target":              userNamespace(runtimeapi.NamespaceMode_TARGET, defaultMapping, defaultMapping),
			"without mappings":    userNamespace(runtimeapi.NamespaceMode_POD, nil, nil),
			"users without group": userNamespace(runtimeapi.NamespaceMode_POD, defaultMapping, nil),
			"node with mappings":  userNamespace(runtimeapi.NamespaceMode_NODE, defaultMapping, defaultMapping),
		} {
			_, err := t.tryPod(o)
			if err == nil {
				t.errorf("%s: accepted", name)
				continue
			}
			t.refused(name, err)
		}
	}},
	{"user namespaces/a container asks for another", func(t *T) {
		p := t.pod(userNamespace(runtimeapi.NamespaceMode_POD, defaultMapping, defaultMapping))
		other := []*runtimeapi.IDMapping{{HostId: 300000, Length: 65536}}
		_, err := p.tryCreate(security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: &runtimeapi.UserNamespace{Uids: other, Gids: other}}
		}))
		t.refused("a mapping that is not the pod's", err)
		if err != nil {
			t.refused("a mapping that is not the pod's", err, codes.Unknown, codes.InvalidArgument, codes.FailedPrecondition)
		}
	}},
}

// processesBelow a cgroup, in any hierarchy.
func processesBelow(parent string) []int {
	seen := map[int]bool{}
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	for _, root := range append(roots, "/sys/fs/cgroup"+parent) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() == "cgroup.procs" {
				data, _ := os.ReadFile(path)
				for _, f := range strings.Fields(string(data)) {
					if pid, err := strconv.Atoi(f); err == nil {
						seen[pid] = true
					}
				}
			}
			return nil
		})
	}
	var pids []int
	for pid := range seen {
		pids = append(pids, pid)
	}
	return pids
}

func kill(t *T, pid int) {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		t.errorf("kill: %v", err)
	}
}

// pidCount of the container's cgroup.
func pidCount(c *container) int { return len(strings.Fields(c.limit("pids", "cgroup.procs"))) }

func ownerOf(st os.FileInfo) int {
	s, ok := st.Sys().(*unixStat)
	if !ok {
		return -1
	}
	return int(s.Uid)
}

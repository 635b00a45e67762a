package cri_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Bits of capabilities (linux/capability.h).
const (
	capChown, capNetBind, capNetAdmin, capNetRaw, capSysAdmin = 0, 10, 12, 13, 21
)

// capabilities reads a set of the container's first process.
func capabilities(t *T, text, set string) uint64 {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, set+":"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			t.must(err)
			return mask
		}
	}
	t.fatalf("no %s in %s", set, text)
	return 0
}

func has(mask uint64, bits ...int) bool {
	for _, b := range bits {
		if mask&(1<<b) == 0 {
			return false
		}
	}
	return true
}

func caps(add, drop, ambient []string) func(*containerConfig) {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Capabilities = &runtimeapi.Capability{AddCapabilities: add, DropCapabilities: drop, AddAmbientCapabilities: ambient}
	})
}

// defaultCaps is what every runtime gives: chown, dac_override, fowner, fsetid,
// kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod,
// audit_write, setfcap.
const defaultCaps = 0xa80425fb

// allCaps that this machine has to give: the suite's own, which its runtime has.
func allCaps(t *T) uint64 {
	text, err := os.ReadFile("/proc/self/status")
	t.must(err)
	return capabilities(t, string(text), "CapBnd")
}

const status1 = "cat /proc/1/status"

var securityCases = []testCase{
	{"security/default capabilities", func(t *T) {
		text := t.pod().sees(status1)
		for set, want := range map[string]uint64{"CapPrm": defaultCaps, "CapEff": defaultCaps, "CapBnd": defaultCaps, "CapAmb": 0, "CapInh": 0} {
			if got := capabilities(t, text, set); got != want {
				t.errorf("%s is %x, not %x", set, got, want)
			}
		}
	}},
	{"security/capabilities added and dropped", func(t *T) {
		p := t.pod()
		for _, x := range []struct {
			add, drop []string
			want      uint64
		}{
			{[]string{"NET_ADMIN"}, nil, defaultCaps | 1<<capNetAdmin},
			{[]string{"net_admin"}, []string{"chown"}, (defaultCaps | 1<<capNetAdmin) &^ (1 << capChown)},
			{nil, []string{"CHOWN", "NET_RAW"}, defaultCaps &^ (1<<capChown | 1<<capNetRaw)},
			{nil, []string{"ALL"}, 0},
			{[]string{"NET_BIND_SERVICE"}, []string{"ALL"}, 1 << capNetBind},
			{[]string{"ALL"}, nil, allCaps(t)},
			{[]string{"ALL"}, []string{"CHOWN"}, allCaps(t) &^ (1 << capChown)},
		} {
			text := p.sees(status1, caps(x.add, x.drop, nil))
			for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
				if got := capabilities(t, text, set); got != x.want {
					t.errorf("add %v, drop %v: %s is %x, not %x", x.add, x.drop, set, got, x.want)
				}
			}
		}
	}},
	{"security/capabilities at work", func(t *T) {
		p := t.pod()
		_, _, code := p.start().exec("ip", "link", "add", "dummy9", "type", "bridge")
		if code == 0 {
			t.errorf("a link was added without NET_ADMIN")
		}
		p.start(caps([]string{"NET_ADMIN"}, nil, nil)).sh("ip link set lo mtu 1400")
		p.start().sh("touch /tmp/f && chown 1:1 /tmp/f")
		_, _, code = p.start(caps(nil, []string{"CHOWN"}, nil)).exec("sh", "-c", "touch /tmp/f && chown 1:1 /tmp/f")
		if code == 0 {
			t.errorf("an owner was changed without CHOWN")
		}
	}},
	{"security/capabilities of a user", func(t *T) {
		text := t.pod().sees("cat /proc/self/status", runAs(1001))
		for set, want := range map[string]uint64{"CapPrm": 0, "CapEff": 0, "CapBnd": defaultCaps, "CapAmb": 0} {
			if got := capabilities(t, text, set); got != want {
				t.errorf("%s is %x, not %x", set, got, want)
			}
		}
	}},
	{"security/ambient capabilities", func(t *T) {
		text := t.pod().sees("cat /proc/self/status", func(c *containerConfig) {
			runAs(1001)(c)
			caps(nil, []string{"ALL"}, []string{"NET_BIND_SERVICE"})(c)
		})
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			if got := capabilities(t, text, set); got != 1<<capNetBind {
				t.errorf("%s is %x", set, got)
			}
		}
	}},
	{"security/capabilities of another command", func(t *T) {
		c := t.pod().start(caps([]string{"NET_ADMIN"}, []string{"CHOWN"}, nil))
		if got, want := capabilities(t, c.sh("cat /proc/self/status"), "CapEff"), uint64(defaultCaps|1<<capNetAdmin)&^(1<<capChown); got != want {
			t.errorf("CapEff is %x, not %x", got, want)
		}
	}},
	{"security/a capability that is none", func(t *T) {
		t.pod().fails("NO_SUCH", caps([]string{"NO_SUCH"}, nil, nil))
	}},
	{"security/privileged", func(t *T) {
		p := t.pod(privilegedPod)
		c := p.start(privileged)
		text := c.sh("cat /proc/1/status")
		if got := capabilities(t, text, "CapEff"); got != allCaps(t) {
			t.errorf("CapEff is %x, not %x", got, allCaps(t))
		}
		t.contains("status", text, "Seccomp:\t0")
		if mounts := c.sh("cat /proc/self/mounts"); !mounted(mounts, "/proc", "rw") {
			t.errorf("/proc is not writable: %s", mounts)
		}
		c.sh("mount -t tmpfs none /tmp && touch /tmp/x && umount /tmp")
		for _, path := range maskedPaths {
			c.sh("! grep -q ' " + path + " ' /proc/self/mounts")
		}
		// Devices of the host.
		host, err := os.ReadDir("/dev")
		t.must(err)
		list := c.sh("ls /dev")
		for _, d := range host {
			if info, err := d.Info(); err == nil && info.Mode()&os.ModeDevice != 0 && !strings.HasPrefix(d.Name(), "tty") && !strings.HasPrefix(d.Name(), "pt") && d.Name() != "console" {
				t.contains("/dev", "\n"+list+"\n", "\n"+d.Name()+"\n")
			}
		}
		c.sh("mknod /tmp/messages c 1 11 && : > /tmp/messages")
	}},
	{"security/privileged has a writable /sys", func(t *T) {
		if mounts := t.pod(privilegedPod).start(privileged).sh("cat /proc/self/mounts"); !mounted(mounts, "/sys", "rw") {
			t.errorf("it is not: %s", mounts)
		}
	}},
	{"security/not privileged", func(t *T) {
		c := t.pod().start()
		for _, script := range []string{"mount -t tmpfs none /tmp", "ip link add dummy9 type bridge", "hostname other", "mknod /tmp/messages c 1 11 && : > /tmp/messages", "echo 1 > /proc/sys/kernel/sysrq", "test -d /sys/fs/cgroup/memory && mkdir /sys/fs/cgroup/memory/x", "test -f /sys/fs/cgroup/cgroup.procs && mkdir /sys/fs/cgroup/x", "echo x > /proc/sysrq-trigger"} {
			if _, _, code := c.exec("sh", "-c", "("+script+") 2>/dev/null"); code == 0 {
				t.errorf("%s: it could", script)
			}
		}
		mounts := c.sh("cat /proc/self/mounts")
		if !mounted(mounts, "/sys", "ro") {
			t.errorf("/sys is writable: %s", mounts)
		}
	}},
	{"security/privileged in a sandbox that is not", func(t *T) {
		p := t.pod()
		_, err := p.tryCreate(privileged)
		t.refused("a privileged container in a sandbox that is not", err)
	}},
	{"security/masked and read-only paths", func(t *T) {
		p := t.pod()
		c := p.start()
		for _, path := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"} {
			t.equal(path, c.sh("head -c 1 "+path+" | wc -c"), "0")
		}
		t.equal("/sys/firmware", c.sh("ls /sys/firmware | wc -l"), "0")
		_, errs, code := c.exec("sh", "-c", "echo 0 > /proc/sys/kernel/panic")
		if code == 0 || !strings.Contains(errs, "Read-only") {
			t.errorf("/proc/sys: exit code %d: %s", code, errs)
		}
		own := p.start(security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.MaskedPaths, s.ReadonlyPaths = []string{"/data/inner", "/data/file", "/not/there"}, []string{"/tmp", "/not/there/either"}
		}))
		t.equal("masked directory and file", own.sh("ls /data/inner; cat /data/file"), "")
		if _, errs, code := own.exec("touch", "/tmp/x"); code == 0 || !strings.Contains(errs, "Read-only") {
			t.errorf("a read-only path: exit code %d: %s", code, errs)
		}
		// procMount Unmasked: neither.
		none := p.start(security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.MaskedPaths, s.ReadonlyPaths = nil, nil }))
		mounts := none.sh("cat /proc/self/mounts")
		t.lacks("mounts without masks", mounts, "/proc/kcore", "/proc/sys ")
	}},
	{"security/read-only root", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		c := p.start(func(c *containerConfig) {
			c.Linux.SecurityContext.ReadonlyRootfs = true
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/new/place"}}
		})
		_, errs, code := c.exec("touch", "/tmp/x")
		if code == 0 || !strings.Contains(errs, "Read-only file system") {
			t.errorf("exit code %d: %s", code, errs)
		}
		c.sh("touch /new/place/x /dev/shm/x")
		p.start().sh("touch /tmp/x")
	}},
	{"security/no new privileges", func(t *T) {
		p := t.pod()
		for set, want := range map[bool]string{false: "1001 0", true: "1001 1001"} {
			c := p.start(func(c *containerConfig) {
				runAs(1001)(c)
				c.Linux.SecurityContext.NoNewPrivs = set
			})
			t.equal(fmt.Sprintf("no_new_privs %t: user and effective user", set), c.sh("/bin/suid-probe euid"), want)
			t.contains("status", c.sh("cat /proc/1/status"), fmt.Sprintf("NoNewPrivs:\t%d", map[bool]int{false: 0, true: 1}[set]))
		}
	}},
	{"security/no session keys of others", func(t *T) {
		t.equal("core files", t.pod().sees("cat /proc/self/limits | awk '/open files/ {print ($4 >= 1024)}'"), "1")
	}},
	{"security/devices", func(t *T) {
		p := t.pod()
		device := func(path, in, perms string) func(*containerConfig) {
			return func(c *containerConfig) {
				c.Devices = append(c.Devices, &runtimeapi.Device{HostPath: path, ContainerPath: in, Permissions: perms})
			}
		}
		// kmsg is no default device, and every machine has it; to be read it needs
		// more than permission.
		c := p.start(device("/dev/kmsg", "/dev/messages", "rwm"))
		c.sh("test -c /dev/messages && : > /dev/messages")
		c = p.start(device("/dev/kmsg", "/dev/messages", "r"))
		if _, errs, code := c.exec("sh", "-c", ": > /dev/messages"); code == 0 {
			t.errorf("a device without w was opened to write: %s", errs)
		}
		for _, perms := range []string{"x", "rwx"} {
			_, err := p.tryCreate(device("/dev/kmsg", "/dev/messages", perms))
			_ = err // some runtimes ignore the letter; none may crash
		}
		p.fails("a device that is not there", device("/dev/nosuchdevice", "/dev/x", "rwm"))
		dir := tempDir(t)
		t.must(os.Symlink("/dev/kmsg", filepath.Join(dir, "link")))
		p.start(device(filepath.Join(dir, "link"), "/dev/messages", "rw")).sh("test -c /dev/messages")
	}},
	{"security/directory of devices", func(t *T) {
		c := t.pod().start(func(c *containerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/net", ContainerPath: "/dev/net", Permissions: "rwm"}}
		})
		c.sh("test -c /dev/net/tun")
	}},
}

// mounted: a line of /proc/mounts has this mount point and option.
func mounted(mounts, point, option string) bool {
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == point && slices.Contains(strings.Split(f[3], ","), option) {
			return true
		}
	}
	return false
}

// blockHostname is a seccomp profile that refuses one call.
const blockHostname = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ERRNO"}]}`

func seccomp(kind runtimeapi.SecurityProfile_ProfileType, ref string) func(*containerConfig) {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	})
}

func apparmor(kind runtimeapi.SecurityProfile_ProfileType, ref string) func(*containerConfig) {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
		s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	})
}

func hasAppArmor() bool {
	data, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return strings.HasPrefix(string(data), "Y")
}

var profileCases = []testCase{
	{"profiles/seccomp default", func(t *T) {
		p := t.pod()
		c := p.start()
		t.contains("status", c.sh("cat /proc/1/status"), "Seccomp:\t2")
		t.contains("status of another command", c.sh("cat /proc/self/status"), "Seccomp:\t2")
		if _, _, code := c.exec("unshare", "-U", "true"); code == 0 {
			t.errorf("a user namespace was made under the default profile")
		}
	}},
	{"profiles/seccomp follows the capabilities", func(t *T) {
		p := t.pod()
		p.start(caps([]string{"SYS_ADMIN"}, nil, nil)).sh("hostname x")
	}},
	{"profiles/seccomp unconfined", func(t *T) {
		p := t.pod()
		for _, o := range []func(*containerConfig){
			seccomp(runtimeapi.SecurityProfile_Unconfined, ""),
			security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Seccomp = nil }),
		} {
			t.contains("status", p.sees(status1, o), "Seccomp:\t0")
		}
	}},
	{"profiles/seccomp localhost", func(t *T) {
		p := t.pod()
		path := writeFile(t, filepath.Join(tempDir(t), "profile.json"), blockHostname)
		admin := caps([]string{"SYS_ADMIN"}, nil, nil)
		c := p.start(admin, seccomp(runtimeapi.SecurityProfile_Localhost, path))
		if _, errs, code := c.exec("hostname", "other"); code == 0 {
			t.errorf("the profile does not hold: %s", errs)
		}
		t.contains("status", c.sh("cat /proc/1/status"), "Seccomp:\t2")
		p.start(admin, seccomp(runtimeapi.SecurityProfile_Unconfined, "")).sh("hostname other")
	}},
	{"profiles/seccomp localhost that is refused", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		for name, ref := range map[string]string{
			"no path": "", "no file": filepath.Join(dir, "none.json"), "no JSON": writeFile(t, filepath.Join(dir, "text.json"), "not JSON"),
			"a relative path": "profile.json", "a directory": dir,
			"an unknown action": writeFile(t, filepath.Join(dir, "action.json"), `{"defaultAction":"SCMP_ACT_MAYBE"}`),
		} {
			p.fails(name, seccomp(runtimeapi.SecurityProfile_Localhost, ref))
		}
	}},
	{"profiles/seccomp with odd names", func(t *T) {
		p := t.pod()
		for name, rule := range map[string]string{
			"to be told of what is written": `{"names":["read","write"],"action":"SCMP_ACT_NOTIFY"}`,
			"no name":                       `{"names":["","read"],"action":"SCMP_ACT_ERRNO"}`,
		} {
			path := writeFile(t, filepath.Join(tempDir(t), "profile.json"), `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[`+rule+`]}`)
			p.fails(name, seccomp(runtimeapi.SecurityProfile_Localhost, path))
		}
		// No call has this name: it is not two of them.
		path := writeFile(t, filepath.Join(tempDir(t), "profile.json"), `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir,mkdirat","sethostname"],"action":"SCMP_ACT_ERRNO"}]}`)
		p.start(seccomp(runtimeapi.SecurityProfile_Localhost, path)).sh("mkdir /tmp/made")
	}},
	{"profiles/seccomp and privileged", func(t *T) {
		path := writeFile(t, filepath.Join(tempDir(t), "profile.json"), blockHostname)
		c := t.pod(privilegedPod).start(privileged, seccomp(runtimeapi.SecurityProfile_Localhost, path))
		c.sh("hostname other")
		t.contains("status", c.sh("cat /proc/1/status"), "Seccomp:\t0")
	}},
	{"profiles/seccomp of the sandbox", func(t *T) {
		path := writeFile(t, filepath.Join(tempDir(t), "profile.json"), blockHostname)
		for _, s := range []*runtimeapi.SecurityProfile{nil, {ProfileType: runtimeapi.SecurityProfile_Unconfined}, {ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: path}} {
			p := t.pod(func(c *podConfig) { c.Linux.SecurityContext.Seccomp = s })
			t.equal("state", p.status().State, ready)
		}
	}},
	{"profiles/AppArmor where there is none", func(t *T) {
		if hasAppArmor() {
			return // the next case is about it
		}
		p := t.pod()
		for _, o := range []func(*containerConfig){apparmor(runtimeapi.SecurityProfile_Unconfined, ""),
			security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Apparmor = nil })} {
			p.sees("true", o)
		}
		p.fails("the runtime's profile on a kernel without AppArmor", apparmor(runtimeapi.SecurityProfile_RuntimeDefault, ""))
		p.fails("a profile of a kernel without AppArmor", apparmor(runtimeapi.SecurityProfile_Localhost, "some-profile"))
	}},
	{"profiles/AppArmor", func(t *T) {
		if !hasAppArmor() {
			return // the case before is about it
		}
		p := t.pod()
		for name, o := range map[string]func(*containerConfig){
			"of the runtime": apparmor(runtimeapi.SecurityProfile_RuntimeDefault, ""),
			"of the runtime, by its old name": security(func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Apparmor, s.ApparmorProfile = nil, "runtime/default"
			}),
			"of who asks for none": security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Apparmor = nil }),
		} {
			c := p.start(o)
			t.contains(name, c.sh("cat /proc/1/attr/current"), "(enforce)")
			t.contains(name+", of another command", c.sh("cat /proc/self/attr/current"), "(enforce)")
		}
		t.equal("none", p.sees("cat /proc/1/attr/current", apparmor(runtimeapi.SecurityProfile_Unconfined, "")), "unconfined")
		_, err := p.tryCreate(apparmor(runtimeapi.SecurityProfile_Localhost, "no-such-profile"))
		t.refused("a profile that is not loaded", err)
		p.fails("no profile", apparmor(runtimeapi.SecurityProfile_Localhost, ""))

		parser := func(how string) {
			cmd := exec.Command("apparmor_parser", how)
			cmd.Stdin = strings.NewReader("profile knarr-cri-test flags=(attach_disconnected) { file, capability, signal, deny /etc/hostname r, }")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.fatalf("apparmor_parser %s: %v: %s", how, err, out)
			}
		}
		parser("-Kr")
		t.cleanup(func() { parser("-R") })
		local := apparmor(runtimeapi.SecurityProfile_Localhost, "knarr-cri-test")
		t.equal("a profile of the machine", p.sees("cat /proc/1/attr/current", local), "knarr-cri-test (enforce)")
		t.contains("what it denies", p.run("cat /etc/hostname", local).errs, "Permission denied")

		// Mounts take more than a capability.
		admin := security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		})
		t.contains("a mount", p.run("mount -t tmpfs none /tmp", admin).errs, "ermission denied")

		p = t.pod(privilegedPod)
		t.equal("privileged", p.sees("cat /proc/1/attr/current", privileged), "unconfined")
		t.equal("privileged, of the machine", p.sees("cat /proc/1/attr/current", privileged, local), "knarr-cri-test (enforce)")
	}},
	{"profiles/SELinux options", func(t *T) {
		// Where the kernel has no SELinux they change nothing.
		if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
			t.errorf("this case knows nothing of a kernel with SELinux: write it")
			return
		}
		o := &runtimeapi.SELinuxOption{User: "system_u", Role: "system_r", Type: "container_t", Level: "s0:c4,c5"}
		p := t.pod(func(c *podConfig) { c.Linux.SecurityContext.SelinuxOptions = o })
		dir := tempDir(t)
		p.sees("touch /mnt/x", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.SelinuxOptions = o }), func(c *containerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/mnt", SelinuxRelabel: true}}
		})
		p.sees("true", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c4,c5"}
		}))
	}},
	{"profiles/SELinux options that are wrong", func(t *T) {
		t.pod().fails("a level without its colon", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.SelinuxOptions = &runtimeapi.SELinuxOption{User: "system_u", Role: "system_r", Type: "svirt_lxc_net_t", Level: "s0,c4,c5"}
		}))
	}},
	{"profiles/deprecated fields", func(t *T) {
		// Kubelets since 1.27 do not send them; a runtime may honour or refuse
		// them, but must not treat a localhost profile as no profile.
		path := writeFile(t, filepath.Join(tempDir(t), "profile.json"), blockHostname)
		c, err := t.pod().tryCreate(caps([]string{"SYS_ADMIN"}, nil, nil), security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Seccomp = nil
			s.SeccompProfilePath = "localhost/" + path //nolint:staticcheck // deprecated is what is tested
		}))
		if err != nil {
			return
		}
		t.must(c.start())
		if _, errs, code := c.exec("hostname", "other"); code == 0 {
			t.errorf("the profile is silently ignored: %s", errs)
		}
	}},
}

package cri_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// races is how often a container is started while another one changes what
	// the runtime looks at.
	races = 10
	// podSetting is one of the pod's own network, so that an attack that works
	// does no harm; podDefault is what it begins with.
	podSetting = "/proc/sys/net/ipv4/ip_default_ttl"
	podDefault = "64"
)

func at(host, path string) *runtimeapi.Mount {
	return &runtimeapi.Mount{HostPath: host, ContainerPath: path}
}

// hostDir is a directory of the host that no container may see.
func (t *T) hostDir() string {
	dir := tempDir(t)
	writeFile(t, filepath.Join(dir, "canary"), "of the host")
	return dir
}

// tryStart returns nil if the runtime refuses the container, which is as good
// as running it safely.
func (p *pod) tryStart(opts ...func(*containerConfig)) *container {
	c, err := p.tryCreate(opts...)
	if err == nil {
		err = c.start()
	}
	if err != nil {
		return nil
	}
	return c
}

// race starts containers, one after the other, while another one swaps two
// paths of a volume that they share, and returns how many were not refused.
func (p *pod) race(shared, a, b string, judge func(*container), opts ...func(*containerConfig)) (started int) {
	swapper := p.start(command("/bin/probe", "swap", "/v/"+a, "/v/"+b), mounts(at(shared, "/v")))
	swapper.says("swapping")
	for range races {
		if c := p.tryStart(opts...); c != nil {
			started++
			judge(c)
			p.t.must(c.remove())
		}
	}
	p.t.equal("the state of the one that swaps", swapper.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	return started
}

// keepsSetting reports a container that the runtime has helped to change what
// it may only read.
func (t *T) keepsSetting(what string, c *container, way string) {
	if out, _, _ := c.exec("sh", "-c", "echo 7 > "+way+"; cat "+podSetting); strings.TrimSpace(out) != podDefault {
		t.errorf("%s: a read-only setting was changed by way of %s", what, way)
	}
}

// points lists where a container has mounts that a function picks, by the
// fields of /proc/PID/mountinfo: root, mount point, and type.
func (c *container) points(pick func(root, point, kind string) bool) []string {
	var found []string
	for line := range strings.Lines(c.sh("cat /proc/self/mountinfo")) {
		left, right, _ := strings.Cut(line, " - ")
		if f := strings.Fields(left); pick(f[3], f[4], strings.Fields(right)[0]) {
			found = append(found, f[4])
		}
	}
	return found
}

// escapeCases try what has let containers out of other runtimes, or of earlier
// versions; docs/security-regressions.md names them.
var escapeCases = []testCase{
	{"escapes/CVE2019_5736", func(t *T) {
		// A command that is /proc/self/exe makes the runtime's own executable run
		// in the container, where another process opens it for writing.
		spec := t.imageWith("self", entry{name: "bin/self", text: "#!/proc/self/exe\n", mode: 0o755})
		c := t.pod().start(imageIs(spec), command("/bin/probe", "overwrite"), caps([]string{"SYS_PTRACE"}, nil, nil))
		c.says("looking")
		var found string
		t.within("the executable is found", func() bool {
			_, _ = t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"/bin/self"}})
			data, err := os.ReadFile(c.logFile())
			t.must(err)
			_, found, _ = strings.Cut(string(data), " found ")
			return found != ""
		})
		verdict, _, _ := strings.Cut(found, "\n")
		if verdict != "sealed" && !strings.HasPrefix(verdict, "refused: ") {
			t.errorf("the runtime's executable, from a container: %s", verdict)
		}
	}},
	{"escapes/CVE2021_30465", func(t *T) {
		// What a volume is mounted on becomes a link out of the container between
		// the look at it and the mount.
		p := t.pod()
		shared, inner, outside := tempDir(t), tempDir(t), t.hostDir()
		t.must(os.Mkdir(filepath.Join(shared, "target"), 0o755))
		t.must(os.Symlink(outside, filepath.Join(shared, "link")))
		started := p.race(shared, "target", "link", func(c *container) {
			mine := func(root, _, _ string) bool { return filepath.Base(root) == filepath.Base(inner) }
			if len(c.points(mine)) != 1 {
				t.errorf("a volume was mounted outside of the container")
			}
		}, mounts(at(shared, "/v"), at(inner, "/v/target")))
		if started == 0 {
			t.errorf("not one container was started")
		}
	}},
	{"escapes/CVE2024_21626", func(t *T) {
		// A descriptor of the host's cgroups was open in the container, by which
		// a working directory lay outside.
		p := t.pod()
		const list = "echo /proc/self/fd/*" // the last one is the shell's, of this directory
		const few = "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"
		t.equal("descriptors of a container", p.sees(list), few)
		t.equal("with standard input", p.sees(list, func(c *containerConfig) { c.Stdin, c.StdinOnce = true, true }), few)
		c := p.start()
		t.equal("of another command", c.sh(list), few)
		t.equal("of the first process", c.sh("ls /proc/1/fd"), "0\n1\n2")
		t.equal("of one with a terminal", p.start(func(c *containerConfig) { c.Tty = true }).sh("ls /proc/1/fd"), "0\n1\n2")

		canary := filepath.Join(t.hostDir(), "canary")
		steal := "cat ../../../../../../../.." + canary
		inside := func(what, out string) {
			if strings.Contains(out, "of the host") {
				t.errorf("%s: a file of the host can be read", what)
			}
		}
		var links []entry
		for fd := 3; fd < 13; fd++ {
			links = append(links, entry{name: fmt.Sprint("fd", fd), link: fmt.Sprint("/proc/self/fd/", fd)})
		}
		linked := t.imageWith("descriptors", links...)
		for fd := 3; fd < 13; fd++ {
			for _, dir := range []string{fmt.Sprint("/proc/self/fd/", fd), fmt.Sprint("/fd", fd)} {
				in := func(c *containerConfig) { c.WorkingDir = dir }
				if c := p.tryStart(imageIs(linked), in, shell(steal+"; true")); c != nil {
					c.wait()
					out, _ := c.output()
					inside("working directory "+dir, out)
				}
			}
		}
		// The same for a further command: what was a directory is a link now.
		dir := tempDir(t)
		cwd := filepath.Join(dir, "cwd")
		t.must(os.Mkdir(cwd, 0o755))
		c = p.start(mounts(at(dir, "/v")), func(c *containerConfig) { c.WorkingDir = "/v/cwd" })
		for fd := 3; fd < 13; fd++ {
			t.must(os.Remove(cwd))
			t.must(os.Symlink(fmt.Sprint("/proc/self/fd/", fd), cwd))
			if resp, err := t.runtime.ExecSync(t.ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", steal}}); err == nil {
				inside(fmt.Sprint("a further command in descriptor ", fd), string(resp.Stdout))
			}
		}
	}},
	{"escapes/CVE2025_31133", func(t *T) {
		// Files are masked by /dev/null, which a volume can bring: a link to what
		// shall not be written, or nothing.
		p := t.pod()
		t.contains("a path that is masked otherwise", p.sees("cat /proc/interrupts", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.MaskedPaths = nil })), "CPU0")
		judge := func(what string) func(*container) {
			return func(c *container) {
				if out, _, _ := c.exec("sh", "-c", "cat /proc/interrupts"); out != "" {
					t.errorf("%s as /dev/null: a masked path shows %.40q", what, out)
				}
				t.keepsSetting(what, c, "/proc/interrupts")
			}
		}
		for what, brings := range map[string]func(null string) error{
			"nothing": func(string) error { return nil },
			"a link":  func(null string) error { return os.Symlink(podSetting, null) },
			"a file":  func(null string) error { return os.WriteFile(null, []byte("a file"), 0o644) },
		} {
			dir := tempDir(t)
			t.must(brings(filepath.Join(dir, "null")))
			if c := p.tryStart(mounts(at(dir, "/dev"))); c != nil {
				judge(what)(c)
			}
		}
		dir := tempDir(t)
		t.must(unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		t.must(os.Symlink(podSetting, filepath.Join(dir, "link")))
		if p.race(dir, "null", "link", judge("a device that becomes a link"), mounts(at(dir, "/dev"))) == 0 {
			t.errorf("not one container was started")
		}
	}},
	{"escapes/CVE2025_52565", func(t *T) {
		// A terminal is mounted on /dev/console: both ends may be links that a
		// volume brings.
		p := t.pod()
		judge := func(what string) func(*container) {
			return func(c *container) {
				for _, point := range c.points(func(_, _, kind string) bool { return kind == "devpts" }) {
					if !strings.HasPrefix(point, "/dev/") {
						t.errorf("%s: the terminal was mounted on %s", what, point)
					}
				}
				t.keepsSetting(what, c, "/dev/console")
			}
		}
		tty := func(c *containerConfig) { c.Tty = true }
		links := func(dir string) {
			t.must(os.Mkdir(dir, 0o755))
			for i := range 4 {
				t.must(os.Symlink(podSetting, filepath.Join(dir, fmt.Sprint(i))))
			}
		}
		for what, brings := range map[string]func(dir string){
			"a console that is a link":     func(dir string) { t.must(os.Symlink(podSetting, filepath.Join(dir, "console"))) },
			"terminals that are links":     func(dir string) { links(filepath.Join(dir, "pts")) },
			"terminals that are a link":    func(dir string) { t.must(os.Symlink("/proc/sys/net/ipv4", filepath.Join(dir, "pts"))) },
			"a multiplexer that is a link": func(dir string) { t.must(os.Symlink(podSetting, filepath.Join(dir, "ptmx"))) },
		} {
			dir := tempDir(t)
			brings(dir)
			if c := p.tryStart(tty, mounts(at(dir, "/dev"))); c != nil {
				judge(what)(c)
			}
		}
		dir := tempDir(t)
		t.must(os.Mkdir(filepath.Join(dir, "pts"), 0o755))
		t.must(os.Symlink("pts/ptmx", filepath.Join(dir, "ptmx")))
		links(filepath.Join(dir, "links"))
		// All may be refused: a terminal needs more of /dev than this.
		p.race(dir, "pts", "links", judge("terminals that become links"), mounts(at(dir, "/dev"), at("/dev/pts", "/dev/pts")), tty)
	}},
	{"escapes/CVE2025_52881", func(t *T) {
		// What the runtime writes to files of /proc for a container lands in
		// others, because a path in /proc is no longer that.
		const want = "65"
		p := t.pod(func(c *podConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.ip_default_ttl": want} })
		real := func(what string) func(*container) {
			return func(c *container) {
				t.equal(what+": the setting", c.sh("cat "+podSetting), want)
				t.equal(what+": the score", c.sh("cat /proc/1/oom_score_adj"), "500")
				t.equal(what+": /proc is", strings.Join(c.points(func(_, point, kind string) bool { return point == "/proc" && kind == "proc" }), " "), "/proc")
				volumes := c.points(func(root, point, _ string) bool {
					return strings.HasPrefix(filepath.Base(root), "volume-") && strings.HasPrefix(point, "/proc/")
				})
				if len(volumes) > 0 {
					t.errorf("%s: a volume is mounted on %v", what, volumes)
				}
			}
		}
		score := resources(&runtimeapi.LinuxContainerResources{OomScoreAdj: 500})
		// A false /proc: everything that is written there is lost, or goes elsewhere.
		fake := tempDir(t)
		t.must(os.MkdirAll(filepath.Join(fake, "self", "attr"), 0o755))
		t.must(os.MkdirAll(filepath.Join(fake, "sys", "net", "ipv4"), 0o755))
		for _, f := range []string{"self/attr/exec", "self/oom_score_adj", "sys/net/ipv4/ip_default_ttl"} {
			t.must(os.Symlink("/proc/sys/kernel/domainname", filepath.Join(fake, f)))
		}
		linked := t.imageWith("proc", entry{name: "attr", link: "proc/self/attr"}, entry{name: "sysctl", link: "proc/sys"}, entry{name: "up", link: "data/../proc"})
		for _, path := range []string{"/proc", "/proc/self", "/proc/self/attr", "/proc/1", "/proc/sys", "/proc/sys/net/ipv4", "/attr", "/sysctl", "/up", "/up/self", "/data/../proc/sys"} {
			if c := p.tryStart(imageIs(linked), score, mounts(at(fake, path))); c != nil {
				real("a volume at " + path)(c)
			}
		}
		for what, link := range map[string]string{"in-the-image": "data", "out-of-it": "../../../../../../.." + fake} {
			spec := t.imageWith("proc-"+what, entry{name: "proc", link: link}, entry{name: "dev", link: link}, entry{name: "sys", link: link})
			if c := p.tryStart(imageIs(spec), score); c != nil {
				real("/proc as a link " + what)(c)
			}
		}
		shared := tempDir(t)
		t.must(os.Mkdir(filepath.Join(shared, "target"), 0o755))
		t.must(os.Symlink("/proc/sys", filepath.Join(shared, "link")))
		if p.race(shared, "target", "link", real("a directory that becomes a link"), score, mounts(at(shared, "/v"), at(fake, "/v/target"))) == 0 {
			t.errorf("not one container was started")
		}
	}},
	{"escapes/CVE2020_15257", func(t *T) {
		// Sockets without a file belong to the network: a pod in the host's can
		// connect to those of the runtime.
		others := map[string]bool{}
		list := func(text string) (names []string) {
			for line := range strings.Lines(text) {
				if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") {
					names = append(names, f[7])
				}
			}
			return names
		}
		// Where the runtime shares this machine's network, others' are there too.
		own, err := os.ReadFile("/proc/net/unix")
		t.must(err)
		for _, name := range list(string(own)) {
			others[name] = true
		}
		p := t.pod(namespaces(func(n *runtimeapi.NamespaceOption) { n.Network = runtimeapi.NamespaceMode_NODE }), func(c *podConfig) { c.Hostname = "" })
		text := p.start().sh("cat /proc/net/unix")
		t.contains("the sockets of the host", text, "/")
		for _, name := range list(text) {
			if !others[name] {
				t.errorf("a pod in the host's network can connect to %s", name)
			}
		}
	}},
	{"escapes/CVE2022_23648", func(t *T) {
		// A volume that an image declares begins with what the image has there:
		// the path leads nowhere else.
		p := t.pod()
		outside := t.hostDir()
		up := "../../../../../../../../.."
		var declared []string
		for _, path := range []string{up + outside, "/data/" + up + outside, "/out", "/out/deeper", "/data/out", "/up/canary"} {
			declared = append(declared, path)
		}
		t.must(os.Mkdir(filepath.Join(outside, "deeper"), 0o755))
		writeFile(t, filepath.Join(outside, "deeper", "canary"), "of the host")
		for i, path := range declared {
			name := fmt.Sprint("volume-out-", i)
			spec := t.pulled(name, func(base v1.Image) (v1.Image, error) {
				img, err := appendEntries(base, entry{name: "out", link: outside}, entry{name: "data/out", link: up + outside}, entry{name: "up", link: up + outside})
				if err != nil {
					return nil, err
				}
				return with(img, func(c *v1Config) { c.Volumes = map[string]struct{}{path: {}} })
			})
			c := p.tryStart(imageIs(spec))
			if c == nil {
				continue
			}
			// Where the volume is now, by whatever path.
			for _, look := range []string{path, outside, "/out", "/data/out", "/up"} {
				if out, _, _ := c.exec("sh", "-c", "cat "+look+" "+look+"/canary "+look+"/deeper/canary"); strings.Contains(out, "of the host") {
					t.errorf("volume %s: a file of the host is at %s", path, look)
				}
			}
		}
	}},
	{"escapes/root file systems of links", func(t *T) {
		// Everything that the runtime makes, mounts on or writes is a link out.
		p := t.pod()
		outside := tempDir(t)
		var links []entry
		for _, name := range []string{"dev", "proc", "sys", "etc", "tmp", "run", "mnt", "dev/console", "etc/hosts", "etc/passwd"} {
			links = append(links, entry{name: name, link: "../../../../../../../.." + outside})
			spec := t.imageWith("links-"+strings.ReplaceAll(name, "/", "-"), links[len(links)-1])
			if c := p.tryStart(imageIs(spec), mounts(at(tempDir(t), "/mnt/deep")), func(c *containerConfig) { c.Tty = name == "dev/console" }); c != nil {
				c.sh("true")
			}
			t.equal(name+" as a link: what was made outside", names(t, outside), "")
		}
	}},
	{"escapes/CVE2021_41103", func(t *T) {
		// Other users of the host could run set-user-ID programs of images, and go
		// through containers' files.
		t.pod().start()
		for _, found := range reachable(t.dir) {
			t.errorf("any user of the host can reach %s", found)
		}
	}},
}

// reachable lists what any user of the host could write to, or run with more
// rights, below a directory of the suite. Who cannot list a directory may know
// the names in it: all users see the mounts.
func reachable(top string) []string {
	var found []string
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it has gone
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if dir := filepath.Dir(path); d.IsDir() && dir == top && (strings.HasPrefix(d.Name(), "volume-") || d.Name() == "logs") {
			return fs.SkipDir // the cases'
		}
		switch mode := info.Mode(); {
		case mode&fs.ModeSymlink != 0:
		case mode.IsDir() && mode.Perm()&0o001 == 0:
			return fs.SkipDir
		case mode.Perm()&0o002 != 0, mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 && mode.Perm()&0o001 != 0 && !mode.IsDir():
			found = append(found, fmt.Sprintf("%s %s", mode, path))
		}
		return nil
	})
	return found
}

// kernelSettings are those of the whole machine by which a container would get
// out of itself.
func kernelSettings() map[string]string {
	out := map[string]string{}
	for _, name := range []string{"core_pattern", "core_pipe_limit", "modprobe", "hotplug", "poweroff_cmd", "sysrq", "panic", "domainname", "usermodehelper/bset", "usermodehelper/inheritable", "kptr_restrict"} {
		data, err := os.ReadFile("/proc/sys/kernel/" + name)
		if err == nil {
			out[name] = string(data)
		}
	}
	return out
}

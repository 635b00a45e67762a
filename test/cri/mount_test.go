package cri_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	private         = runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	hostToContainer = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	bidirectional   = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
)

func mounts(list ...*runtimeapi.Mount) func(*containerConfig) {
	return func(c *containerConfig) { c.Mounts = list }
}

// sharedDir is a directory whose mounts others can follow.
func sharedDir(t *T) string {
	dir := tempDir(t)
	t.must(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	t.must(unix.Mount("", dir, "", unix.MS_SHARED, ""))
	t.must(os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	return dir
}

// tmpfs mounts one on a directory, for the time of the case.
func tmpfs(t *T, dir string) {
	t.must(unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

var mountCases = []testCase{
	{"mounts/directory and file", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		file := writeFile(t, filepath.Join(dir, "file"), "from the host")
		c := p.start(mounts(
			&runtimeapi.Mount{HostPath: dir, ContainerPath: "/deep/new/dir"},
			&runtimeapi.Mount{HostPath: file, ContainerPath: "/deep/new/file"},
			&runtimeapi.Mount{HostPath: file, ContainerPath: "/data/file"},
		))
		t.equal("files", c.sh("cat /deep/new/dir/file; echo; cat /deep/new/file; echo; cat /data/file"), "from the host\nfrom the host\nfrom the host")
		c.sh("echo -n back > /deep/new/dir/made; echo -n changed > /deep/new/file")
		got, err := readTrim(filepath.Join(dir, "made"))
		t.must(err)
		t.equal("file that the container made", got, "back")
		got, err = readTrim(file)
		t.must(err)
		t.equal("file that the container changed", got, "changed")
	}},
	{"mounts/read-only", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		file := writeFile(t, filepath.Join(dir, "file"), "text")
		c := p.start(mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Readonly: true}, &runtimeapi.Mount{HostPath: file, ContainerPath: "/f", Readonly: true}))
		for _, script := range []string{"touch /mnt/x", "echo x > /f", "rm /mnt/file"} {
			if _, errs, code := c.exec("sh", "-c", script); code == 0 || !strings.Contains(errs, "Read-only") {
				t.errorf("%s: exit code %d: %s", script, code, errs)
			}
		}
	}},
	{"mounts/symbolic links", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		t.must(os.Mkdir(filepath.Join(dir, "real"), 0o755))
		writeFile(t, filepath.Join(dir, "real", "file"), "followed")
		t.must(os.Symlink(filepath.Join(dir, "real"), filepath.Join(dir, "link")))
		c := p.start(mounts(&runtimeapi.Mount{HostPath: filepath.Join(dir, "link"), ContainerPath: "/mnt"}))
		t.equal("file behind a link of the host", c.sh("cat /mnt/file"), "followed")
		// A link of the image leads nowhere but inside the image.
		c = p.start(mounts(&runtimeapi.Mount{HostPath: filepath.Join(dir, "real"), ContainerPath: "/escape/mnt"}), imageIs(t.linkImage()))
		t.equal("file below a link of the image", c.sh("cat /escape/mnt/file"), "followed")
		if _, err := os.Lstat("/knarr-cri-escaped"); err == nil {
			t.errorf("a mount left the container's root")
		}
	}},
	{"mounts/source that is not there", func(t *T) {
		p := t.pod()
		missing := filepath.Join(tempDir(t), "none")
		c, err := p.tryCreate(mounts(&runtimeapi.Mount{HostPath: missing, ContainerPath: "/mnt"}))
		if err == nil {
			err = c.start()
		}
		// The API says that it is an error, containerd makes a directory; what
		// nobody may do is to start the container without the mount.
		if err == nil {
			c.sh("grep -q ' /mnt ' /proc/self/mounts")
		}
	}},
	{"mounts/missing source is an error", func(t *T) {
		t.pod().fails("a source that is not there", mounts(&runtimeapi.Mount{HostPath: filepath.Join(tempDir(t), "none"), ContainerPath: "/mnt"}))
	}},
	{"mounts/refused", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		file := writeFile(t, filepath.Join(dir, "file"), "text")
		for name, m := range map[string]*runtimeapi.Mount{
			"no source":                      {ContainerPath: "/mnt"},
			"a file on a directory":          {HostPath: file, ContainerPath: "/data"},
			"a directory on a file":          {HostPath: dir, ContainerPath: "/data/file"},
			"below a file":                   {HostPath: dir, ContainerPath: "/data/file/x"},
			"an unknown propagation":         {HostPath: dir, ContainerPath: "/mnt", Propagation: 9},
			"a propagation nobody can share": {HostPath: t.privateDir(), ContainerPath: "/mnt", Propagation: bidirectional},
		} {
			c, err := p.tryCreate(mounts(m))
			if err == nil {
				err = c.start()
			}
			if err == nil && name != "an unknown propagation" {
				t.errorf("%s: the container runs", name)
			}
		}
	}},
	{"mounts/in the order of their paths", func(t *T) {
		p := t.pod()
		a, b := tempDir(t), tempDir(t)
		writeFile(t, filepath.Join(a, "outer"), "")
		writeFile(t, filepath.Join(b, "inner"), "")
		t.must(os.Mkdir(filepath.Join(a, "sub"), 0o755))
		for _, list := range [][]*runtimeapi.Mount{
			{{HostPath: a, ContainerPath: "/mnt"}, {HostPath: b, ContainerPath: "/mnt/sub"}},
			{{HostPath: b, ContainerPath: "/mnt/sub"}, {HostPath: a, ContainerPath: "/mnt"}},
		} {
			t.equal("files", p.sees("ls /mnt /mnt/sub", mounts(list...)), "/mnt:\nouter\nsub\n\n/mnt/sub:\ninner")
		}
	}},
	{"mounts/above what the runtime mounts", func(t *T) {
		dir := tempDir(t)
		writeFile(t, filepath.Join(dir, "own"), "there")
		p := t.pod(func(c *podConfig) { c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.10.10.10"}} })
		c := p.start(mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/etc"}))
		t.equal("files", c.sh("cat /etc/own; echo; cat /etc/resolv.conf"), "there\nnameserver 10.10.10.10")
	}},
	{"mounts/over what the runtime mounts", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		writeFile(t, filepath.Join(dir, "mine"), "")
		t.equal("/dev/shm", p.sees("ls /dev/shm", mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/dev/shm"})), "mine")
	}},
	{"mounts/propagation private", func(t *T) {
		p := t.pod(privilegedPod)
		dir := sharedDir(t)
		c := p.start(privileged, mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Propagation: private}))
		t.equal("in the status", c.status().Mounts[0].Propagation, private)
		tmpfs(t, filepath.Join(dir, "sub"))
		writeFile(t, filepath.Join(dir, "sub", "host"), "")
		t.equal("a later mount of the host", c.sh("ls /mnt/sub"), "")
		c.sh("mkdir /mnt/other && mount -t tmpfs none /mnt/other && touch /mnt/other/container")
		t.equal("a mount of the container, on the host", names(t, filepath.Join(dir, "other")), "")
	}},
	{"mounts/propagation from the host", func(t *T) {
		p := t.pod(privilegedPod)
		dir := sharedDir(t)
		c := p.start(privileged, mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Propagation: hostToContainer}))
		t.equal("in the status", c.status().Mounts[0].Propagation, hostToContainer)
		tmpfs(t, filepath.Join(dir, "sub"))
		writeFile(t, filepath.Join(dir, "sub", "host"), "")
		t.equal("a later mount of the host", c.sh("ls /mnt/sub"), "host")
		c.sh("mkdir /mnt/other && mount -t tmpfs none /mnt/other && touch /mnt/other/container")
		t.equal("a mount of the container, on the host", names(t, filepath.Join(dir, "other")), "")
	}},
	{"mounts/propagation both ways", func(t *T) {
		p := t.pod(privilegedPod)
		dir := sharedDir(t)
		c := p.start(privileged, mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Propagation: bidirectional}))
		t.equal("in the status", c.status().Mounts[0].Propagation, bidirectional)
		tmpfs(t, filepath.Join(dir, "sub"))
		writeFile(t, filepath.Join(dir, "sub", "host"), "")
		t.equal("a later mount of the host", c.sh("ls /mnt/sub"), "host")
		c.sh("mkdir /mnt/other && mount -t tmpfs none /mnt/other && touch /mnt/other/container")
		t.cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "other"), unix.MNT_DETACH) })
		t.equal("a mount of the container, on the host", names(t, filepath.Join(dir, "other")), "container")
	}},
	{"mounts/the host's stay", func(t *T) {
		p := t.pod(privilegedPod)
		dir := sharedDir(t)
		sub := filepath.Join(dir, "sub")
		tmpfs(t, sub) // after the runtime has begun
		writeFile(t, filepath.Join(sub, "host"), "")
		for _, kind := range []runtimeapi.MountPropagation{private, hostToContainer, bidirectional} {
			m := mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Propagation: kind})
			c := p.start(privileged, m)
			t.equal(kind.String()+": seen in the container", c.sh("ls /mnt/sub"), "host")
			t.must(c.stop(0))
			t.must(c.remove())
			p.fails(kind.String()+" with a program that is not there", privileged, m, command("nosuchprogram"))
			t.equal(kind.String()+": what is left of it", names(t, sub), "host")
		}
	}},
	{"mounts/read-only is not recursive", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		t.must(os.Mkdir(filepath.Join(dir, "sub"), 0o755))
		tmpfs(t, filepath.Join(dir, "sub"))
		c := p.start(mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Readonly: true}))
		c.sh("touch /mnt/sub/x")
		if _, _, code := c.exec("touch", "/mnt/x"); code == 0 {
			t.errorf("the mount itself is writable")
		}
	}},
	{"mounts/recursive read-only", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		t.must(os.Mkdir(filepath.Join(dir, "sub"), 0o755))
		tmpfs(t, filepath.Join(dir, "sub"))
		c := p.start(mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Readonly: true, RecursiveReadOnly: true}))
		for _, path := range []string{"/mnt/x", "/mnt/sub/x"} {
			if _, _, code := c.exec("touch", path); code == 0 {
				t.errorf("%s was written", path)
			}
		}
		t.equal("in the status", c.status().Mounts[0].RecursiveReadOnly, true)
	}},
	{"mounts/recursive read-only as the handler says", func(t *T) {
		st, err := t.runtime.Status(t.ctx, &runtimeapi.StatusRequest{})
		t.must(err)
		can := false
		for _, h := range st.RuntimeHandlers {
			if h.Name == "" {
				can = h.GetFeatures().GetRecursiveReadOnlyMounts()
			}
		}
		c, err := t.pod().tryCreate(mounts(&runtimeapi.Mount{HostPath: tempDir(t), ContainerPath: "/mnt", Readonly: true, RecursiveReadOnly: true}))
		if err == nil {
			err = c.start()
		}
		if (err == nil) != can {
			t.errorf("the handler says %t, and a container: %v", can, err)
		}
	}},
	{"mounts/recursive read-only that is refused", func(t *T) {
		p := t.pod(privilegedPod)
		dir := sharedDir(t)
		for name, m := range map[string]*runtimeapi.Mount{
			"not read-only":     {RecursiveReadOnly: true},
			"from the host":     {RecursiveReadOnly: true, Readonly: true, Propagation: hostToContainer},
			"in both direction": {RecursiveReadOnly: true, Readonly: true, Propagation: bidirectional},
		} {
			m.HostPath, m.ContainerPath = dir, "/mnt"
			_, err := p.tryCreate(mounts(m))
			t.refused(name, err)
		}
	}},
	{"mounts/options", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		c := p.start(mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", MountOptions: []string{"noexec", "nosuid", "nodev"}}))
		c.sh("cp /bin/busybox /mnt/busybox")
		if _, _, code := c.exec("/bin/sh", "-c", "/mnt/busybox true"); code == 0 {
			t.errorf("a program of a noexec mount ran")
		}
		for _, o := range []string{"noexec", "nosuid", "nodev"} {
			if !mounted(c.sh("cat /proc/self/mounts"), "/mnt", o) {
				t.errorf("no %s", o)
			}
		}
	}},
	{"mounts/volumes of the image", func(t *T) {
		p := t.pod()
		spec := t.imageOf("volume", func(c *v1Config) { c.Volumes = map[string]struct{}{"/data": {}, "/not/in/image": {}} })
		c := p.start(imageIs(spec))
		t.equal("content of the image", c.sh("cat /data/file /data/inner/deep"), "from the image\ndeep in the image")
		c.sh("touch /not/in/image/x; echo mine > /data/file")
		t.equal("another container's", p.sees("cat /data/file; ls /not/in/image", imageIs(spec)), "from the image")
		dir := tempDir(t)
		writeFile(t, filepath.Join(dir, "own"), "")
		t.equal("a mount goes before it", p.sees("ls /data", imageIs(spec), mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/data"})), "own")
		// With a read-only root they can be written.
		p.sees("touch /data/x", imageIs(spec), security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }))
	}},
	{"mounts/many", func(t *T) {
		p := t.pod()
		dir := tempDir(t)
		var list []*runtimeapi.Mount
		for i := range 100 {
			sub := filepath.Join(dir, fmt.Sprint(i))
			t.must(os.Mkdir(sub, 0o755))
			list = append(list, &runtimeapi.Mount{HostPath: sub, ContainerPath: fmt.Sprintf("/many/%d", i)})
		}
		t.equal("mounts", p.sees("grep -c ' /many/' /proc/self/mounts", mounts(list...)), "100")
	}},
}

// linkImage has a symbolic link that leads out of a root.
func (t *T) linkImage() *runtimeapi.ImageSpec {
	return t.imageWith("link", entry{name: "escape", link: "../../../../knarr-cri-escaped"})
}

// privateDir has mounts that nobody follows.
func (t *T) privateDir() string {
	dir := tempDir(t)
	t.must(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	t.must(unix.Mount("", dir, "", unix.MS_PRIVATE, ""))
	return dir
}

// names of a directory's entries.
func names(t *T, dir string) string {
	entries, err := os.ReadDir(dir)
	t.must(err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func imageMount(spec *runtimeapi.ImageSpec, sub string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: "/image", Image: spec, ImageSubPath: sub, Readonly: true}
}

var imageVolumeCases = []testCase{
	{"image volumes/mounted read-only", func(t *T) {
		p := t.pod()
		c := p.start(mounts(imageMount(t.base(), "")))
		t.equal("content", c.sh("cat /image/data/file"), "from the image")
		if _, errs, code := c.exec("touch", "/image/x"); code == 0 || !strings.Contains(errs, "Read-only") {
			t.errorf("a write: exit code %d: %s", code, errs)
		}
		c.sh("/image/bin/busybox true") // not noexec
		d := p.start(mounts(imageMount(t.base(), "")))
		t.equal("in a second container", d.sh("cat /image/data/file"), "from the image")
	}},
	{"image volumes/in the status", func(t *T) {
		spec := t.base()
		c := t.pod().start(mounts(imageMount(spec, "")))
		m := c.status().Mounts
		if len(m) != 1 || m[0].ContainerPath != "/image" {
			t.fatalf("mounts: %v", m)
		}
		t.equal("image", m[0].GetImage().GetImage(), spec.Image)
	}},
	{"image volumes/digest in the status", func(t *T) {
		c := t.pod().start(mounts(imageMount(t.base(), "")))
		if m := c.status().Mounts; len(m) != 1 || m[0].GetImage().GetImageRef() == "" {
			t.errorf("mounts: %v", m)
		}
	}},
	{"image volumes/sub path", func(t *T) {
		p := t.pod()
		t.equal("content", p.sees("cat /image/deep", mounts(imageMount(t.base(), "data/inner"))), "deep in the image")
		for _, sub := range []string{"not/there", "data/file/x", "../../../../../etc"} {
			p.fails("sub path "+sub, mounts(imageMount(t.base(), sub)))
		}
	}},
	{"image volumes/refused", func(t *T) {
		p := t.pod()
		p.fails("an image that is not there", mounts(imageMount(&runtimeapi.ImageSpec{Image: "nosuchimage"}, "")))
		m := imageMount(t.base(), "")
		m.HostPath = tempDir(t)
		p.fails("an image and a host path", mounts(m))
	}},
	{"image volumes/writable is refused", func(t *T) {
		m := imageMount(t.base(), "")
		m.Readonly = false
		t.pod().fails("an image that is not read-only", mounts(m))
	}},
}

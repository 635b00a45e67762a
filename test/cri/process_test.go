package cri_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type v1Config = v1.Config

func imageIs(spec *runtimeapi.ImageSpec) func(*containerConfig) {
	return func(c *containerConfig) { c.Image = spec }
}

func args(command, args []string) func(*containerConfig) {
	return func(c *containerConfig) { c.Command, c.Args = command, args }
}

var processCases = []testCase{
	{"process/command and arguments", func(t *T) {
		p := t.pod()
		spec := t.imageOf("entry", func(c *v1Config) {
			c.Entrypoint, c.Cmd = []string{"echo", "entrypoint"}, []string{"cmd"}
			c.Env = append(c.Env, "FROM=image", "BOTH=image")
			c.WorkingDir = "/work/dir"
		})
		for _, x := range []struct {
			command, args []string
			want          string
		}{
			{nil, nil, "entrypoint cmd"},
			{nil, []string{"mine"}, "entrypoint mine"},
			{[]string{"echo", "other"}, nil, "other"}, // without the image's arguments
			{[]string{"echo", "other"}, []string{"mine", ""}, "other mine "},
		} {
			r := p.run("", imageIs(spec), args(x.command, x.args))
			t.equal(fmt.Sprintf("output of %q %q", x.command, x.args), strings.TrimSuffix(r.out, "\n"), x.want)
		}
	}},
	{"process/image without a command", func(t *T) {
		p := t.pod()
		spec := t.imageOf("nothing", func(c *v1Config) { c.Entrypoint, c.Cmd = nil, nil })
		p.fails("neither image nor config has a command", imageIs(spec), args(nil, nil))
		r := p.run("", imageIs(spec), args(nil, []string{"echo", "only arguments"}))
		t.equal("output", r.out, "only arguments\n")
	}},
	{"process/environment", func(t *T) {
		p := t.pod()
		spec := t.imageOf("entry2", func(c *v1Config) { c.Env = append(c.Env, "FROM=image", "BOTH=image") })
		env := func(c *containerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "BOTH", Value: []byte("config")}, {Key: "EMPTY"}, {Key: "LINES", Value: []byte("a\nb=c")}, {Key: "TWICE", Value: []byte("1")}, {Key: "TWICE", Value: []byte("2")}, {Key: "odd-name.x", Value: []byte("y")}}
		}
		out := p.sees("", imageIs(spec), env, command("env"))
		t.contains("environment", out+"\n", "FROM=image\n", "BOTH=config\n", "EMPTY=\n", "LINES=a\nb=c\n", "TWICE=2\n", "odd-name.x=y\n", "PATH=/bin:/sbin:/usr/bin:/usr/sbin\n", "HOSTNAME="+p.config.Hostname+"\n")
		t.lacks("environment", out, "BOTH=image", "TWICE=1")
		c := p.start(imageIs(spec), env)
		t.equal("environment of another command", c.sh("echo $FROM $BOTH $TWICE"), "image config 2")
	}},
	{"process/HOME", func(t *T) {
		p := t.pod()
		t.equal("of root", p.sees("echo $HOME"), "/root")
		t.equal("of a user", p.sees("echo $HOME", runAs(1001)), "/home/app")
		t.equal("of somebody unknown", p.sees("echo $HOME", runAs(4321)), "/")
		t.equal("as it was set", p.sees("echo $HOME", runAs(1001), func(c *containerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "HOME", Value: []byte("/elsewhere")}}
		}), "/elsewhere")
	}},
	{"process/TERM with a terminal", func(t *T) {
		p := t.pod()
		c := p.start(func(c *containerConfig) { c.Tty = true })
		t.contains("environment of the first process", strings.ReplaceAll(c.sh("cat /proc/1/environ | tr '\\0' ' '"), "\n", " "), "TERM=xterm")
		t.equal("without", p.sees("echo $TERM"), "")
	}},
	{"process/working directory", func(t *T) {
		p := t.pod()
		spec := t.imageOf("workdir", func(c *v1Config) { c.WorkingDir = "/work/dir" })
		t.equal("of the image, made", p.sees("pwd", imageIs(spec)), "/work/dir")
		t.equal("of the config", p.sees("pwd", imageIs(spec), func(c *containerConfig) { c.WorkingDir = "/tmp" }), "/tmp")
		t.equal("that is not there", p.sees("pwd", func(c *containerConfig) { c.WorkingDir = "/not/there/yet" }), "/not/there/yet")
		t.equal("by default", p.sees("pwd"), "/")
		c := p.start(imageIs(spec))
		t.equal("of another command", c.sh("pwd"), "/work/dir")
		p.fails("a working directory that is a file", func(c *containerConfig) { c.WorkingDir = "/etc/passwd" })
	}},
	{"process/long arguments and environment", func(t *T) {
		p := t.pod()
		long := strings.Repeat("x", 100<<10) // the kernel's limit for one string is 128 KiB
		many := make([]string, 2000)
		for i := range many {
			many[i] = "argument"
		}
		r := p.run("", args([]string{"sh", "-c", "echo ${#1} ${#LONG} $#"}, append([]string{"sh", long}, many...)), func(c *containerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "LONG", Value: []byte(long)}}
		})
		t.equal("output", strings.TrimSpace(r.out), "102400 102400 2001")
		// Beyond the kernel's limit it cannot run; some notice it after the start.
		c, err := p.tryCreate(args([]string{"echo", strings.Repeat("x", 256<<10)}, nil))
		if err == nil && c.start() == nil && c.wait().ExitCode == 0 {
			t.errorf("a program ran with an argument of 256 KiB")
		}
	}},
	{"process/environment beyond ASCII", func(t *T) {
		// Values are bytes here and text in Kubernetes and in the OCI's JSON: what
		// becomes of bytes that are no text is open, but they do no harm.
		p := t.pod()
		env := func(value string) func(*containerConfig) {
			return func(c *containerConfig) {
				c.Envs = []*runtimeapi.KeyValue{{Key: "RAW", Value: []byte(value)}, {Key: "NEXT", Value: []byte("next")}}
			}
		}
		t.equal("text", p.sees("echo $RAW $NEXT", env("ü€😀")), "ü€😀 next")
		r := p.run("echo $NEXT", env("a\xff\xfeb"))
		t.equal("the next variable", r.out, "next\n")
	}},
	{"process/descriptors", func(t *T) {
		// Nothing of the runtime is open in a container.
		p := t.pod()
		c := p.start()
		t.equal("of the first process", c.sh("ls /proc/1/fd | tr '\\n' ' '"), "0 1 2")
		t.equal("of another command", c.sh("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3") // 3: the directory itself
		t.equal("standard input", c.sh("readlink /proc/1/fd/0"), "/dev/null")
	}},
	{"process/standard input that is closed", func(t *T) {
		r := t.pod().run("cat; echo end")
		t.equal("output", r.out, "end\n")
	}},
	{"process/OOM score", func(t *T) {
		p := t.pod()
		c := p.start(resources(&runtimeapi.LinuxContainerResources{OomScoreAdj: 777}))
		t.equal("of the first process", c.sh("cat /proc/1/oom_score_adj"), "777")
		t.equal("of another command", c.sh("cat /proc/self/oom_score_adj"), "777")
	}},
	{"process/device files", func(t *T) {
		p := t.pod()
		out := p.sees("ls /dev; for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done")
		t.contains("/dev", out, "null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "mqueue", "00 00 00 00", "/proc/self/fd", "/proc/self/fd/0", "pts/ptmx")
		t.lacks("/dev", out, "no ", "kmsg", "mem\n", "vda", "loop")
	}},
	{"process/files that the runtime makes", func(t *T) {
		p := t.pod()
		for _, path := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
			if p.sees("cat "+path) == "" && path != "/etc/resolv.conf" {
				t.errorf("%s is empty", path)
			}
		}
		// The kubelet's own /etc/hosts goes before.
		hosts := writeFile(t, filepath.Join(tempDir(t), "hosts"), "192.0.2.7 kubelet-made\n")
		t.equal("/etc/hosts", p.sees("cat /etc/hosts", func(c *containerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: hosts, ContainerPath: "/etc/hosts"}}
		}), "192.0.2.7 kubelet-made")
		if _, err := os.Stat(hosts); err != nil {
			t.errorf("%v", err)
		}
	}},
	{"process/its root is its own", func(t *T) {
		p := t.pod()
		a, b := p.start(), p.start()
		a.sh("echo mine > /tmp/file; rm /data/file; echo changed > /etc/passwd")
		t.equal("in another container", b.sh("ls /tmp; cat /data/file; head -n 1 /etc/passwd"), "from the image\nroot:x:0:0:root:/root:/bin/sh")
		t.must(a.stop(0))
		t.must(a.remove())
		t.equal("in a new one", p.sees("ls /tmp; cat /data/file"), "from the image")
	}},
}

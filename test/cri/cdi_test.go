package cri_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cdiDir is where the interface has files that go with a boot.
const cdiDir = "/var/run/cdi"

// deviceKind is a vendor and class of the case's own.
func (t *T) deviceKind() string {
	return "vendor.example/" + strings.ReplaceAll(t.unique(filepath.Base(t.dir)), "_", "-")
}

// describe writes a file of devices that goes with the case, and returns its path.
func (t *T) describe(kind string, edits map[string]string) string {
	var devices []any
	for name, e := range edits {
		devices = append(devices, map[string]any{"name": name, "containerEdits": json.RawMessage(e)})
	}
	data, err := json.Marshal(map[string]any{"cdiVersion": "1.1.0", "kind": kind, "devices": devices})
	t.must(err)
	return t.cdiFile(string(data))
}

func (t *T) cdiFile(text string) string {
	t.must(os.MkdirAll(cdiDir, 0o755))
	path := filepath.Join(cdiDir, t.unique(filepath.Base(t.dir))+".json")
	t.must(os.WriteFile(path, []byte(text), 0o644))
	t.cleanup(func() {
		t.must(os.Remove(path))
	})
	return path
}

func devices(ids ...string) func(*containerConfig) {
	return func(c *containerConfig) {
		for _, id := range ids {
			c.CDIDevices = append(c.CDIDevices, &runtimeapi.CDIDevice{Name: id})
		}
	}
}

var cdiCases = []testCase{
	{"cdi/environment, groups and mounts", func(t *T) {
		kind, dir := t.deviceKind(), t.privateDir()
		t.must(os.WriteFile(filepath.Join(dir, "driver"), []byte("of the driver"), 0o644))
		t.describe(kind, map[string]string{
			"0": `{"env":["DEVICE=0","ONLY0=a=b"],"additionalGids":[777],"mounts":[{"hostPath":"` + dir + `","containerPath":"/opt/driver","options":["ro","nosuid","rbind"]},
				{"hostPath":"tmpfs","containerPath":"/opt/scratch","type":"tmpfs","options":["size=1m"]}]}`,
			"1": `{"env":["DEVICE=1"]}`,
		})
		c := t.pod().start(devices(kind+"=0", kind+"=1"), func(c *containerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "DEVICE", Value: []byte("none")}}
		})
		t.equal("environment", c.sh("echo $DEVICE $ONLY0"), "1 a=b")
		t.contains("groups", " "+c.sh("id -G")+" ", " 777 ")
		t.equal("a file of the driver's", c.sh("cat /opt/driver/driver"), "of the driver")
		t.equal("a read-only mount", c.sh("touch /opt/driver/x 2>/dev/null || echo refused"), "refused")
		t.contains("a mount of another type", c.sh("grep ' /opt/scratch ' /proc/mounts"), "tmpfs", "size=1024k")
	}},
	{"cdi/device nodes", func(t *T) {
		kind := t.deviceKind()
		t.describe(kind, map[string]string{
			"0": `{"deviceNodes":[{"path":"/dev/messages","hostPath":"/dev/kmsg","permissions":"r","fileMode":288,"uid":5,"gid":6},{"path":"/dev/zero2","type":"c","major":1,"minor":5}]}`,
		})
		c := t.pod().start(devices(kind + "=0"))
		t.equal("owner and mode", c.sh("stat -c '%u %g %a %t %T' /dev/messages"), "5 6 440 1 b")
		t.equal("a node of which all is said", c.sh("head -c 3 /dev/zero2 | wc -c"), "3")
		t.equal("more than its permissions", c.sh("echo x 2>/dev/null >/dev/messages || echo refused"), "refused")
	}},
	{"cdi/node that is the user's", func(t *T) {
		kind := t.deviceKind()
		t.describe(kind, map[string]string{"0": `{"deviceNodes":[{"path":"/dev/mine","hostPath":"/dev/zero","permissions":"rw"}]}`})
		c := t.pod().start(devices(kind+"=0"), security(func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.RunAsGroup = &runtimeapi.Int64Value{Value: 1234}, &runtimeapi.Int64Value{Value: 1235}
		}))
		t.equal("owner", c.sh("stat -c '%u %g' /dev/mine"), "1234 1235")
	}},
	{"cdi/hooks", func(t *T) {
		kind, dir := t.deviceKind(), t.privateDir()
		t.must(os.Chmod(dir, 0o777))
		var hooks []string
		for _, name := range []string{"createRuntime", "createContainer", "poststart", "poststop"} {
			hooks = append(hooks, `{"hookName":"`+name+`","path":"/bin/sh","args":["sh","-c","read -r state; echo \"$MARK $state\" >>`+dir+`/`+name+`"],"env":["MARK=`+name+`"]}`)
		}
		hooks = append(hooks, `{"hookName":"startContainer","path":"/bin/sh","args":["sh","-c","echo inside >/inside"]}`)
		t.describe(kind, map[string]string{"0": `{"hooks":[` + strings.Join(hooks, ",") + `]}`})
		ran := func(name string) string {
			out, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.fatalf("%v", err)
			}
			return string(out)
		}
		p := t.pod()
		c := p.start(devices(kind + "=0"))
		t.equal("startContainer, in the container", c.sh("cat /inside"), "inside")
		for _, name := range []string{"createRuntime", "createContainer", "poststart"} {
			t.contains(name, ran(name), name+" {", `"id":"`+c.id+`"`, `"bundle":"/`)
			t.equal("times that "+name+" ran", strings.Count(ran(name), "\n"), 1)
		}
		t.equal("poststop before the end", ran("poststop"), "")
		t.must(c.stop(0))
		t.must(c.remove())
		t.within("poststop has run", func() bool { return strings.Contains(ran("poststop"), `"id":"`+c.id+`"`) })
		alone := t.deviceKind()
		t.describe(alone, map[string]string{"0": `{"hooks":[` + hooks[2] + `]}`})
		c = p.start(devices(alone + "=0"))
		t.contains("poststart without others", ran("poststart"), `"id":"`+c.id+`"`)
	}},
	{"cdi/a hook that fails", func(t *T) {
		kind := t.deviceKind()
		t.describe(kind, map[string]string{"0": `{"hooks":[{"hookName":"createRuntime","path":"/bin/sh","args":["sh","-c","exit 3"]}]}`})
		t.pod().fails("a hook that fails", devices(kind+"=0"))
	}},
	{"cdi/network device", func(t *T) {
		kind := t.deviceKind()
		p := t.pod()
		// The other end stays with the node, and goes when the pod's does.
		n := strconv.FormatInt(t.counter.Add(1), 10)
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cdi" + n + "a"}, PeerName: "cdi" + n + "b"}
		t.must(t.in(func() error { return netlink.LinkAdd(link) }))
		t.cleanup(func() {
			t.must(t.in(func() error {
				if l, err := netlink.LinkByName(link.PeerName); err == nil {
					return netlink.LinkDel(l)
				}
				return nil
			}))
		})
		t.describe(kind, map[string]string{"0": `{"netDevices":[{"hostInterfaceName":"` + link.Name + `","name":"fast0"}]}`})
		c := p.start(devices(kind + "=0"))
		t.contains("interfaces", c.sh("ip link"), "fast0")
		host := t.pod(func(c *podConfig) {
			c.Hostname, c.Linux.SecurityContext.NamespaceOptions.Network = "", runtimeapi.NamespaceMode_NODE
		})
		host.fails("a network device in the node's network", devices(kind+"=0"))
	}},
	{"cdi/resource control that is not there", func(t *T) {
		if _, err := os.Stat("/sys/fs/resctrl/schemata"); err == nil {
			return
		}
		kind := t.deviceKind()
		t.describe(kind, map[string]string{"0": `{"intelRdt":{"closID":"x"}}`})
		t.pod().fails("resource control", devices(kind+"=0"))
	}},
	{"cdi/annotations", func(t *T) {
		kind := t.deviceKind()
		t.describe(kind, map[string]string{"0": `{"env":["ZERO=0"]}`, "1": `{"env":["ONE=1"]}`, "2": `{"env":["TWO=2"]}`})
		p := t.pod()
		c := p.start(devices(kind+"=2"), func(c *containerConfig) {
			c.Annotations = map[string]string{"cdi.k8s.io/plugin_0": kind + "=0," + kind + "=1", "cdi.k8s.io/plugin_1": kind + "=2"}
		})
		t.equal("environment", c.sh("echo $ZERO $ONE $TWO"), "0 1 2")
		p.fails("an annotation that names no device", func(c *containerConfig) {
			c.Annotations = map[string]string{"cdi.k8s.io/plugin": "gpu"}
		})
	}},
	{"cdi/refused by name", func(t *T) {
		p := t.pod()
		for what, id := range t.badDevices() {
			_, err := p.tryCreate(devices(id.id))
			t.refused(what, err)
			if err != nil {
				t.contains(what, err.Error(), id.says)
			}
		}
		p.start()
	}},
	{"cdi/refused with the file", func(t *T) {
		p := t.pod()
		for what, id := range t.badDevices() {
			if _, err := p.tryCreate(devices(id.id)); err != nil {
				t.contains(what, err.Error(), id.files...)
			} else {
				t.errorf("%s was accepted", what)
			}
		}
	}},
	{"cdi/bad files of others", func(t *T) {
		kind := t.deviceKind()
		t.describe(kind, map[string]string{"0": `{"env":["ZERO=0"]}`})
		t.badDevices()
		t.equal("environment", t.pod().start(devices(kind+"=0")).sh("echo $ZERO"), "0")
	}},
}

// badDevice cannot be given, because of these files.
type badDevice struct {
	id, says string
	files    []string
}

func (t *T) badDevices() map[string]badDevice {
	broken, twice, lost, old := t.deviceKind(), t.deviceKind(), t.deviceKind(), t.deviceKind()
	one := map[string]string{"0": `{"env":["A=b"]}`}
	return map[string]badDevice{
		"a broken file":                   {broken + "=0", broken + "=0", []string{t.cdiFile(`{"cdiVersion":"1.1.0","kind":"` + broken + `","devices":[{"name":"0","containerEdits":{"env":["no equals sign"]}}]}`)}},
		"a device of two files":           {twice + "=0", twice + "=0", []string{t.describe(twice, one), t.describe(twice, one)}},
		"a device without its node":       {lost + "=0", "/dev/nosuchdevice", []string{t.describe(lost, map[string]string{"0": `{"deviceNodes":[{"path":"/dev/nosuchdevice"}]}`})}},
		"a file of a version that is not": {old + "=0", old + "=0", []string{t.cdiFile(`{"cdiVersion":"99.0.0","kind":"` + old + `","devices":[{"name":"0","containerEdits":{"env":["A=b"]}}]}`)}},
	}
}

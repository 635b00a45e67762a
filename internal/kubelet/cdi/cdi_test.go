package cdi

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestApply(t *testing.T) {
	low, high := t.TempDir(), t.TempDir()
	write(t, low, "a.json", `{"cdiVersion":"0.7.0","kind":"v.example/gpu","containerEdits":{"env":["ALL=yes"]},"devices":[
		{"name":"0","containerEdits":{"env":["GPU=0=x"],"deviceNodes":[{"path":"/dev/gpu0"},{"path":"/dev/b","hostPath":"/dev/c","permissions":"r"}],
			"mounts":[{"hostPath":"/lib/x","containerPath":"/x","options":["ro","rbind","rslave"]}],"additionalGids":[7]}},
		{"name":"replaced","containerEdits":{"env":["FROM=low"]}}]}`)
	write(t, low, "note.txt", "no file of devices")
	write(t, high, "b.yaml", "cdiVersion: 0.6.0\nkind: v.example/gpu\ndevices:\n- name: replaced\n  containerEdits:\n    env: [FROM=high]\n")
	for name, edit := range map[string]string{"hooks": `"hooks":[{"hookName":"createContainer","path":"/x"}]`, "net": `"netDevices":[{"hostInterfaceName":"x","name":"y"}]`, "rdt": `"intelRdt":{}`,
		"option": `"mounts":[{"hostPath":"/h","containerPath":"/c","options":["nosuid"]}]`, "type": `"mounts":[{"hostPath":"/h","containerPath":"/c","type":"tmpfs"}]`, "owner": `"deviceNodes":[{"path":"/dev/x","uid":1}]`} {
		write(t, high, name+".json", `{"cdiVersion":"1.1.0","kind":"bad.example/`+name+`","devices":[{"name":"x","containerEdits":{`+edit+`}}]}`)
	}
	c := &runtimeapi.ContainerConfig{Envs: []*runtimeapi.KeyValue{{Key: "ALL", Value: []byte("no")}, {Key: "OWN", Value: []byte("1")}},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}}}
	if err := Apply(c, []string{"v.example/gpu=0", "v.example/gpu=replaced"}, low, high, filepath.Join(low, "none")); err != nil {
		t.Fatal(err)
	}
	var env []string
	for _, kv := range c.Envs {
		env = append(env, kv.Key+"="+string(kv.Value))
	}
	if got := strings.Join(env, " "); got != "OWN=1 ALL=yes GPU=0=x FROM=high" {
		t.Errorf("environment: %s", got)
	}
	if len(c.Devices) != 2 || c.Devices[0].HostPath != "/dev/gpu0" || c.Devices[0].Permissions != "rwm" || c.Devices[1].HostPath != "/dev/c" || c.Devices[1].Permissions != "r" {
		t.Errorf("devices: %v", c.Devices)
	}
	if m := c.Mounts; len(m) != 1 || m[0].HostPath != "/lib/x" || m[0].ContainerPath != "/x" || !m[0].Readonly || m[0].Propagation != runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER {
		t.Errorf("mounts: %v", m)
	}
	if g := c.Linux.SecurityContext.SupplementalGroups; fmt.Sprint(g) != "[7]" {
		t.Errorf("groups: %v", g)
	}

	for id, want := range map[string]string{
		"bad.example/hooks=x": "it needs hooks", "bad.example/net=x": "it needs network devices", "bad.example/rdt=x": "it needs intelRdt",
		"bad.example/option=x": "the mount option nosuid", "bad.example/type=x": "mounts of type tmpfs", "bad.example/owner=x": "owners and modes",
		"v.example/gpu=1": "unresolvable CDI device v.example/gpu=1",
	} {
		if err := Apply(c, []string{id}, low, high); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
}

func TestBroken(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	apply := func(id string) error { return Apply(&runtimeapi.ContainerConfig{}, []string{id}, dir, other) }
	write(t, dir, "good.json", `{"cdiVersion":"0.6.0","kind":"v.example/gpu","devices":[{"name":"0","containerEdits":{"env":["A=b"]}}]}`)
	for name, c := range map[string]struct{ text, want string }{
		"nothing":         {"{", "error"},
		"unknown field":   {`{"cdiVersion":"0.6.0","kind":"v.example/x","colour":1,"devices":[{"name":"1"}]}`, "colour"},
		"version":         {`{"cdiVersion":"9.0.0","kind":"v.example/x","devices":[{"name":"1"}]}`, "9.0.0"},
		"too old for it":  {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"additionalGids":[1]}}]}`, "0.7.0"},
		"kind":            {`{"cdiVersion":"0.6.0","kind":"v.example","devices":[{"name":"1"}]}`, "vendor/class"},
		"no devices":      {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[]}`, "no devices"},
		"device's name":   {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"a b"}]}`, "a b"},
		"device twice":    {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"1"},{"name":"1"}]}`, "twice"},
		"environment":     {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"env":["x"]}}]}`, "invalid environment variable"},
		"node":            {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"deviceNodes":[{"path":""}]}}]}`, "without a path"},
		"type of node":    {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"deviceNodes":[{"path":"/d","type":"x"}]}}]}`, "unknown type"},
		"permissions":     {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"deviceNodes":[{"path":"/d","permissions":"rx"}]}}]}`, "permissions"},
		"mount":           {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"mounts":[{"hostPath":"/h"}]}}]}`, "a mount without"},
		"hook":            {`{"cdiVersion":"0.6.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"hooks":[{"hookName":"later","path":"/h"}]}}]}`, "unknown hook"},
		"network device":  {`{"cdiVersion":"1.1.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"netDevices":[{"hostInterfaceName":"a","name":""}]}}]}`, "a network device without"},
		"resource class":  {`{"cdiVersion":"0.7.0","kind":"v.example/x","devices":[{"name":"1","containerEdits":{"intelRdt":{"closID":"../x"}}}]}`, "closID"},
		"edits for whole": {`{"cdiVersion":"0.6.0","kind":"v.example/x","containerEdits":{"env":["=x"]},"devices":[{"name":"1"}]}`, "invalid environment variable"},
	} {
		write(t, dir, "broken.json", c.text)
		if err := apply("v.example/x=1"); err == nil || !strings.Contains(err.Error(), "v.example/x=1") || !strings.Contains(err.Error(), "broken.json") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want the device, the file and %q", name, err, c.want)
		}
		if err := apply("v.example/gpu=0"); err != nil {
			t.Errorf("%s: a broken file of others: %v", name, err)
		}
	}
	write(t, dir, "twice.json", `{"cdiVersion":"0.6.0","kind":"v.example/gpu","devices":[{"name":"0"},{"name":"1"}]}`)
	if err := apply("v.example/gpu=0"); err == nil || !strings.Contains(err.Error(), "conflicting CDI device v.example/gpu=0") || !strings.Contains(err.Error(), "good.json") || !strings.Contains(err.Error(), "twice.json") {
		t.Errorf("a device of two files: %v", err)
	}
	if err := apply("v.example/gpu=1"); err != nil {
		t.Errorf("another device of those files: %v", err)
	}
	write(t, other, "decides.json", `{"cdiVersion":"0.6.0","kind":"v.example/gpu","devices":[{"name":"0"}]}`)
	if err := apply("v.example/gpu=0"); err != nil {
		t.Errorf("two files, and one of a later directory: %v", err)
	}
}

func TestFromAnnotations(t *testing.T) {
	got, err := FromAnnotations(map[string]string{"cdi.k8s.io/b": "v.example/gpu=2", "cdi.k8s.io/a": "v.example/gpu=0,v.example/gpu=1", "other": "x"})
	if err != nil || strings.Join(got, " ") != "v.example/gpu=0 v.example/gpu=1 v.example/gpu=2" {
		t.Errorf("%v, %v", got, err)
	}
	for _, value := range []string{"", "gpu=0", "v.example/gpu", "v.example/gpu=", "v.example/gpu=0, v.example/gpu=1", "v.example/gpu=0,"} {
		if _, err := FromAnnotations(map[string]string{"cdi.k8s.io/x": value}); err == nil || !strings.Contains(err.Error(), "cdi.k8s.io/x") {
			t.Errorf("%q: %v", value, err)
		}
	}
}

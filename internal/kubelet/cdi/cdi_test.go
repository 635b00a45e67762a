package cdi

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestApply(t *testing.T) {
	low, high := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(low, "a.json", `{"cdiVersion":"0.6.0","kind":"v.example/gpu","containerEdits":{"env":["ALL=yes"]},"devices":[
		{"name":"0","containerEdits":{"env":["GPU=0=x"],"deviceNodes":[{"path":"/dev/gpu0"},{"path":"/dev/b","hostPath":"/dev/c","permissions":"r"}],
			"mounts":[{"hostPath":"/lib/x","containerPath":"/x","options":["ro","rbind","rslave"]}],"additionalGids":[7]}},
		{"name":"replaced","containerEdits":{"env":["FROM=low"]}}]}`)
	write(low, "note.txt", "no file of devices")
	write(high, "b.yaml", "kind: v.example/gpu\ndevices:\n- name: replaced\n  containerEdits:\n    env: [FROM=high]\n")
	for name, edit := range map[string]string{"hooks": `"hooks":[{"hookName":"createContainer","path":"/x"}]`, "net": `"netDevices":[{"hostInterfaceName":"x","name":"y"}]`, "rdt": `"intelRdt":{}`,
		"option": `"mounts":[{"options":["nosuid"]}]`, "type": `"mounts":[{"type":"tmpfs"}]`, "owner": `"deviceNodes":[{"path":"/dev/x","uid":1}]`, "env": `"env":["x"]`} {
		write(high, name+".json", `{"kind":"bad.example/`+name+`","devices":[{"name":"x","containerEdits":{`+edit+`}}]}`)
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
		"bad.example/option=x": "the mount option nosuid", "bad.example/type=x": "mounts of type tmpfs", "bad.example/owner=x": "owners and modes", "bad.example/env=x": "invalid environment variable",
		"v.example/gpu=1": "unresolvable CDI device v.example/gpu=1",
	} {
		if err := Apply(c, []string{id}, low, high); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
	write(high, "broken.json", "{")
	if err := Apply(c, []string{"v.example/gpu=0"}, low, high); err != nil {
		t.Errorf("a broken file of others: %v", err)
	}
	if err := Apply(c, []string{"v.example/gpu=1"}, low, high); err == nil || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("a broken file is not named: %v", err)
	}
	write(low, "twice.json", `{"kind":"v.example/gpu","devices":[{"name":"0"}]}`)
	if err := Apply(c, []string{"v.example/gpu=0"}, low, high); err == nil || !strings.Contains(err.Error(), "conflicting CDI device v.example/gpu=0") {
		t.Errorf("a device that is there twice: %v", err)
	}
}

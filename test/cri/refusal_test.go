package cri_test

import (
	"reflect"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// alive: after whatever was sent, the runtime answers.
func (t *T) alive() {
	_, err := t.runtime.Version(t.ctx, &runtimeapi.VersionRequest{})
	t.must(err)
}

// harmless are the calls that an empty request may be sent to while other cases
// run, with whether it must be refused.
var harmless = map[string]bool{
	"RunPodSandbox": true, "PodSandboxStatus": true, "CreateContainer": true, "StartContainer": true, "ContainerStatus": true,
	"UpdateContainerResources": true, "ReopenContainerLog": true, "ExecSync": true, "Exec": true, "Attach": true, "PortForward": true,
	"ContainerStats": true, "PodSandboxStats": true, "CheckpointContainer": true, "CheckpointPod": true, "RestorePod": true, "UpdatePodSandboxResources": true,
	"PullImage": true,
	// What is not there is removed already, and a list has no must.
	"StopPodSandbox": false, "RemovePodSandbox": false, "StopContainer": false, "RemoveContainer": false, "ImageStatus": false,
	"Version": false, "Status": false, "RuntimeConfig": false, "UpdateRuntimeConfig": false, "ListPodSandbox": false, "ListContainers": false,
	"ListContainerStats": false, "ListPodSandboxStats": false, "ListMetricDescriptors": false, "ListPodSandboxMetrics": false, "ListImages": false, "ImageFsInfo": false,
}

// lastCases run when the others have ended: a runtime that fails them does harm.
var lastCases = []testCase{
	{"last/removal of no image", func(t *T) {
		before := len(t.listImages(nil))
		for _, spec := range []*runtimeapi.ImageSpec{nil, {}} {
			_, err := t.images.RemoveImage(t.ctx, &runtimeapi.RemoveImageRequest{Image: spec})
			if code := status.Code(err); code == codes.Unavailable {
				t.errorf("RemoveImage: %v", err)
			}
		}
		t.equal("images afterwards", len(t.listImages(nil)), before)
		t.alive()
	}},
}

var refusalCases = []testCase{
	{"refusals/empty requests", func(t *T) {
		for _, client := range []any{t.runtime, t.images} {
			v := reflect.ValueOf(client)
			for i := range v.NumMethod() {
				name := v.Type().Method(i).Name
				must, known := harmless[name]
				if !known {
					continue // streams: they have cases of their own
				}
				req := reflect.New(v.Method(i).Type().In(1).Elem())
				out := v.Method(i).Call([]reflect.Value{reflect.ValueOf(t.ctx), req})
				err, _ := out[1].Interface().(error)
				if must && err == nil {
					t.errorf("an empty %s was accepted", name)
				}
				switch status.Code(err) {
				case codes.Unavailable, codes.DeadlineExceeded:
					t.errorf("an empty %s: %v", name, err)
				}
			}
		}
		t.alive()
	}},
	{"refusals/identifiers that are none", func(t *T) {
		p := t.pod()
		for _, id := range []string{"", " ", "../../etc", strings.Repeat("0", 64), strings.Repeat("a", 5000), "ü", p.id + "0", "x\ny"} {
			_, err := t.runtime.ContainerStatus(t.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
			t.refused("ContainerStatus", err)
			_, err = t.runtime.PodSandboxStatus(t.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
			t.refused("PodSandboxStatus", err)
			_, err = t.runtime.StartContainer(t.ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
			t.refused("StartContainer", err)
			_, err = t.runtime.CreateContainer(t.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: p.containerConfig(), SandboxConfig: p.config})
			t.refused("CreateContainer", err)
		}
		t.alive()
	}},
	{"refusals/codes of what is not there", func(t *T) {
		const none = "0123456789012345678901234567890123456789012345678901234567890123"
		_, err := t.runtime.PodSandboxStatus(t.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: none})
		t.refused("PodSandboxStatus", err, codes.NotFound)
		_, err = t.runtime.ContainerStatus(t.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: none})
		t.refused("ContainerStatus", err, codes.NotFound)
		_, err = t.runtime.StartContainer(t.ctx, &runtimeapi.StartContainerRequest{ContainerId: none})
		t.refused("StartContainer", err, codes.NotFound)
		p := t.pod()
		_, err = t.runtime.CreateContainer(t.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: none, Config: p.containerConfig(), SandboxConfig: p.config})
		t.refused("CreateContainer", err, codes.NotFound)
	}},
	{"refusals/sandbox configs", func(t *T) {
		for name, change := range map[string]func(*podConfig){
			"no metadata":      func(c *podConfig) { c.Metadata = nil },
			"a cgroup of dots": func(c *podConfig) { c.Linux.CgroupParent = "../../../outside" },
			"a target of a sandbox": func(c *podConfig) {
				c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
			},
			"a path that is a file for logs": func(c *podConfig) { c.LogDirectory = "/etc/passwd/logs" },
		} {
			c := t.podConfig(change)
			resp, err := t.runtime.RunPodSandbox(t.ctx, &runtimeapi.RunPodSandboxRequest{Config: c})
			if err != nil {
				continue
			}
			// Who accepts it has to remove it again, and cannot have left its place.
			t.made(resp.PodSandboxId)
			if name == "no metadata" {
				t.errorf("%s: accepted", name)
			}
			for _, call := range []func() error{(&pod{t: t, id: resp.PodSandboxId}).stop, (&pod{t: t, id: resp.PodSandboxId}).remove} {
				t.must(call())
			}
		}
		t.alive()
	}},
	{"refusals/little configs", func(t *T) {
		// All that is not metadata may be missing.
		name := t.unique("little")
		c := &podConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Uid: t.cgroup[1:] + name, Namespace: "cri"}, Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: t.cgroup + "/pod-" + name}}
		p, err := t.tryPodOf(c, "")
		t.must(err)
		resp, err := t.runtime.CreateContainer(t.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: c,
			Config: &containerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: t.base().Image}, Command: []string{"sleep", "1000000"}}})
		t.must(err)
		t.made(resp.ContainerId)
		k := &container{t: t, p: p, id: resp.ContainerId}
		t.must(k.start())
		t.equal("state", k.status().State, running)
		t.equal("a command", k.sh("echo fine"), "fine")
	}},
	{"refusals/container configs", func(t *T) {
		p := t.pod()
		for name, change := range map[string]func(*containerConfig){
			"no metadata": func(c *containerConfig) { c.Metadata = nil },
			"an image nobody has": func(c *containerConfig) {
				c.Image = &runtimeapi.ImageSpec{Image: t.registry.host + "/nosuchrepository:1"}
			},
			"an image that is no name": func(c *containerConfig) { c.Image = &runtimeapi.ImageSpec{Image: "UPPER case"} },
		} {
			_, err := p.tryCreate(change)
			t.refused(name, err)
		}
		_, err := t.runtime.CreateContainer(t.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id})
		t.refused("no configs", err)
		_, err = t.runtime.CreateContainer(t.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config})
		t.refused("no config of the container", err)
		t.alive()
	}},
	{"refusals/container of no image", func(t *T) {
		_, err := t.pod().tryCreate(func(c *containerConfig) { c.Image = &runtimeapi.ImageSpec{} })
		t.refused("no image", err)
	}},
	{"refusals/a log path that leaves its directory", func(t *T) {
		p := t.pod()
		c, err := p.tryCreate(func(c *containerConfig) { c.LogPath = "../../outside-" + p.id + ".log" })
		if err != nil {
			return
		}
		// containerd trusts the kubelet with it.
		t.lacks("log path", c.status().LogPath, "/etc/")
	}},
	{"refusals/a device of CDI that nobody knows", func(t *T) {
		t.pod().fails("an unknown CDI device", func(c *containerConfig) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.example/device=none"}} })
	}},
}

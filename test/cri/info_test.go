package cri_test

import (
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var infoCases = []testCase{
	{"info/version", func(t *T) {
		for _, asked := range []string{"", "v1", "0.1.0"} {
			v, err := t.runtime.Version(t.ctx, &runtimeapi.VersionRequest{Version: asked})
			t.must(err)
			t.equal("version", v.Version, "0.1.0") // that of the kubelet's runtime API, never changed
			t.equal("API version", v.RuntimeApiVersion, "v1")
			if v.RuntimeName == "" || v.RuntimeVersion == "" {
				t.errorf("no name or version: %v", v)
			}
		}
	}},
	{"info/status", func(t *T) {
		st, err := t.runtime.Status(t.ctx, &runtimeapi.StatusRequest{})
		t.must(err)
		for _, c := range []string{runtimeapi.RuntimeReady, runtimeapi.NetworkReady} {
			if !condition(st, c) {
				t.errorf("%s does not hold: %v", c, st.Status)
			}
		}
		if len(st.Info) > 0 {
			t.errorf("information that nobody asked for: %v", st.Info)
		}
		st, err = t.runtime.Status(t.ctx, &runtimeapi.StatusRequest{Verbose: true})
		t.must(err)
		t.documents("verbose status", st.Info)
	}},
	{"info/runtime handlers", func(t *T) {
		st, err := t.runtime.Status(t.ctx, &runtimeapi.StatusRequest{})
		t.must(err)
		names := map[string]bool{}
		for _, h := range st.RuntimeHandlers {
			if names[h.Name] {
				t.errorf("two handlers %q", h.Name)
			}
			names[h.Name] = true
		}
		if !names[""] {
			t.errorf("the default handler is not listed: %v", st.RuntimeHandlers)
		}
	}},
	{"info/features", func(t *T) {
		st, err := t.runtime.Status(t.ctx, &runtimeapi.StatusRequest{})
		t.must(err)
		if !st.GetFeatures().GetSupplementalGroupsPolicy() {
			t.errorf("no policy of supplemental groups: %v", st.Features)
		}
	}},
	{"info/runtime config", func(t *T) {
		c, err := t.runtime.RuntimeConfig(t.ctx, &runtimeapi.RuntimeConfigRequest{})
		t.must(err)
		if c.Linux == nil {
			t.errorf("no cgroup driver: %v", c)
		}
		t.equal("cgroup driver", c.GetLinux().GetCgroupDriver(), runtimeapi.CgroupDriver_CGROUPFS)
	}},
	{"info/update of the runtime config", func(t *T) {
		// The kubelet sends the node's range, or nothing.
		for _, c := range []*runtimeapi.RuntimeConfig{nil, {}, {NetworkConfig: &runtimeapi.NetworkConfig{}}, {NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.244.3.0/24"}}} {
			_, err := t.runtime.UpdateRuntimeConfig(t.ctx, &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: c})
			t.must(err)
		}
	}},
	{"info/metric descriptors", func(t *T) {
		m, err := t.runtime.ListMetricDescriptors(t.ctx, &runtimeapi.ListMetricDescriptorsRequest{})
		t.must(err)
		seen := map[string]bool{}
		for _, d := range m.Descriptors {
			if d.Name == "" || d.Help == "" || len(d.LabelKeys) == 0 || seen[d.Name] {
				t.errorf("twice, or without name, help or labels: %v", d)
			}
			seen[d.Name] = true
		}
		var missing []string
		for _, name := range metricNames {
			if !seen[name] {
				missing = append(missing, name)
			}
		}
		if missing != nil {
			t.errorf("no descriptors of %s", strings.Join(missing, " "))
		}
	}},
	{"info/checkpoints are refused", func(t *T) {
		p := t.pod()
		c := p.start()
		_, err := t.runtime.CheckpointContainer(t.ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: c.id, Location: t.dir + "/checkpoint.tar", Timeout: 10})
		t.checkpointRefused("CheckpointContainer", err)
		_, err = t.runtime.CheckpointPod(t.ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: tempDir(t), ContainerIds: []string{c.id}})
		t.checkpointRefused("CheckpointPod", err)
		_, err = t.runtime.RestorePod(t.ctx, &runtimeapi.RestorePodRequest{CheckpointPath: tempDir(t), Config: t.podConfig()})
		t.checkpointRefused("RestorePod", err)
		t.equal("state afterwards", c.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	}},
}

// checkpointRefused: nothing here has CRIU, and a call must say that it does
// nothing.
func (t *T) checkpointRefused(what string, err error) {
	if err == nil || status.Convert(err).Message() == "" {
		t.errorf("%s: %v", what, err)
	}
	switch status.Code(err) {
	case codes.OK, codes.DeadlineExceeded, codes.Unavailable:
		t.errorf("%s: code %s", what, status.Code(err))
	}
}

// documents checks the verbose part of an answer: JSON under every key.
func (t *T) documents(what string, info map[string]string) {
	if len(info) == 0 {
		t.errorf("%s has no information", what)
	}
	for key, doc := range info {
		// containerd has a plain string among them.
		if !json.Valid([]byte(doc)) && strings.ContainsAny(doc, "{}[]") {
			t.errorf("%s: %s is not JSON: %.80s", what, key, doc)
		}
	}
}

// since reports a time that does not lie between two others.
func (t *T) since(what string, nanos int64, from, to time.Time) {
	// Clocks of the same machine; a runtime may round.
	if at := time.Unix(0, nanos); at.Before(from.Add(-time.Second)) || at.After(to.Add(time.Second)) {
		t.errorf("%s is %s, not between %s and %s", what, at, from, to)
	}
}

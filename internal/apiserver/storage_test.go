package apiserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const storageURL = "/apis/storage.k8s.io/v1/"

// cells are the first cells of all rows of a table.
func (a answer) cells() []string {
	rows, _ := a.at("rows").([]any)
	var out []string
	for _, r := range rows {
		m, _ := r.(map[string]any)
		if cells, _ := m["cells"].([]any); len(cells) > 0 {
			out = append(out, fmt.Sprint(cells[0]))
		}
	}
	return out
}

func TestStorageClasses(t *testing.T) {
	w := newWorld(t)
	const classes = storageURL + "storageclasses"
	body := func(name, isDefault string) string {
		return `{"metadata": {"name": "` + name + `", "annotations": {"storageclass.kubernetes.io/is-default-class": "` + isDefault + `"}}, "provisioner": "p.example"}`
	}
	a := w.must(t, 201, "POST", classes, body("b", "true"))
	if a.at("reclaimPolicy") != "Delete" || a.at("volumeBindingMode") != "Immediate" || a.header.Get("Warning") != "" {
		t.Errorf("created: %s %v", a.raw, a.header)
	}
	w.must(t, 201, "POST", classes, body("a", "true"))
	w.must(t, 201, "POST", classes, body("c", "false"))
	a = w.must(t, 200, "GET", classes, "", "Accept", tableType)
	if got := a.cells(); !slices.Equal(got, []string{"a (default)", "b", "c"}) && !slices.Equal(got, []string{"a", "b (default)", "c"}) {
		t.Errorf("list: %q", got)
	}
	if a = w.must(t, 200, "GET", classes+"/a", "", "Accept", tableType); !slices.Equal(a.cells(), []string{"a"}) {
		t.Errorf("one: %q", a.cells())
	}
	a = w.must(t, 422, "PATCH", classes+"/a", `{"provisioner": "q.example"}`, "Content-Type", mergeType)
	if !strings.Contains(a.raw, "provisioner: Invalid value: \\\"q.example\\\": field is immutable") {
		t.Errorf("immutable: %s", a.raw)
	}
}

func TestVolumeStatus(t *testing.T) {
	w := newWorld(t)
	const volumes = "/api/v1/persistentvolumes"
	a := w.must(t, 201, "POST", volumes, `{"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}, "status": {"phase": "Bound"}}`)
	if a.at("status.phase") != "Pending" || a.at("status.lastPhaseTransitionTime") != a.at("metadata.creationTimestamp") {
		t.Errorf("created: %s", a.raw)
	}
	past := time.Unix(1, 0).UTC().Format(time.RFC3339)
	a = w.must(t, 200, "PATCH", volumes+"/v/status", `{"status": {"phase": "Bound", "lastPhaseTransitionTime": "`+past+`"}}`, "Content-Type", mergeType)
	if a.at("status.lastPhaseTransitionTime") != past {
		t.Errorf("a time of its own: %s", a.raw)
	}
	a = w.must(t, 200, "PATCH", volumes+"/v/status", `{"status": {"phase": "Released"}}`, "Content-Type", mergeType)
	if at := a.at("status.lastPhaseTransitionTime"); at == past || at == nil {
		t.Errorf("released: %s", a.raw)
	}
	if a = w.must(t, 200, "GET", volumes+"?fieldSelector=name%3Dv", ""); len(a.at("items").([]any)) != 1 {
		t.Errorf("by its old field: %s", a.raw)
	}
	// An update that says nothing of what it replaces is refused.
	const attachments = storageURL + "volumeattachments"
	body := `{"metadata": {"name": "a"}, "spec": {"attacher": "d.example", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}`
	w.must(t, 201, "POST", attachments, body)
	if a = w.must(t, 422, "PUT", attachments+"/a", body); !strings.Contains(a.raw, "must be specified for an update") {
		t.Errorf("without a version: %s", a.raw)
	}
	if a = w.must(t, 200, "PATCH", attachments+"/a/status", `{"metadata": {"labels": {"a": "b"}}, "status": {"attached": true}}`, "Content-Type", mergeType); a.at("status.attached") != true || a.at("metadata.labels") != nil {
		t.Errorf("status: %s", a.raw)
	}
}

func TestDevices(t *testing.T) {
	w := newWorld(t)
	const devices = "/apis/resource.k8s.io/v1/"
	slice := func(name, node string) string {
		return `{"metadata": {"name": "` + name + `"}, "spec": {"driver": "gpu.example", "pool": {"name": "p", "resourceSliceCount": 1}, "nodeName": "` + node + `", "devices": [{"name": "a", "taints": [{"key": "k", "effect": "NoSchedule"}]}]}}`
	}
	w.must(t, 201, "POST", devices+"resourceslices", slice("s1", "n1"))
	a := w.must(t, 201, "POST", devices+"resourceslices", slice("s2", "n2"))
	made, _ := a.at("metadata.creationTimestamp").(string)
	if a.at("metadata.generation") != float64(1) || !strings.Contains(a.raw, `"timeAdded":"`+made+`"`) {
		t.Errorf("created: %s", a.raw)
	}
	a = w.must(t, 200, "GET", devices+"resourceslices?fieldSelector=spec.nodeName%3Dn2", "", "Accept", tableType)
	if !slices.Equal(a.cells(), []string{"s2"}) {
		t.Errorf("by node: %q", a.cells())
	}
	claim := func(expression string) string {
		return `{"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "selectors": [{"cel": {"expression": "` + expression + `"}}]}}]}}}`
	}
	const claims = devices + "namespaces/default/resourceclaims"
	if a = w.must(t, 422, "POST", claims, claim("device.drivr == 'x'")); !strings.Contains(a.raw, "undefined field 'drivr'") {
		t.Errorf("expression: %s", a.raw)
	}
	if a = w.must(t, 201, "POST", claims, claim("device.driver == 'gpu.example'")); !strings.Contains(a.raw, `"allocationMode":"ExactCount","count":1`) {
		t.Errorf("claim: %s", a.raw)
	}
	if a = w.must(t, 422, "PATCH", claims+"/c", `{"spec": {"devices": {"requests": []}}}`, "Content-Type", mergeType); !strings.Contains(a.raw, "field is immutable") {
		t.Errorf("immutable: %s", a.raw)
	}
	allocation := `{"status": {"allocation": {"devices": {"results": [{"request": "r", "driver": "gpu.example", "pool": "p", "device": "a"}]}}}}`
	if a = w.must(t, 200, "PATCH", claims+"/c/status", allocation, "Content-Type", mergeType); a.at("status.allocation") == nil {
		t.Errorf("status: %s", a.raw)
	}
}

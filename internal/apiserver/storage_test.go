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
	if a.at("reclaimPolicy") != "Delete" || a.at("volumeBindingMode") != "Immediate" || !strings.Contains(a.header.Get("Warning"), "does not act on them yet") {
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

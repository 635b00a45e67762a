package apiserver_test

import (
	"strings"
	"testing"
)

// TestPodResize: the subresource changes resources and nothing else, counts
// the generation and keeps account of who owns what.
func TestPodResize(t *testing.T) {
	w := newWorld(t)
	const body = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"r"},"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1","memory":"1Gi"}}}]}}`
	w.must(t, 201, "POST", podURL, body)
	patch := []string{"Content-Type", "application/strategic-merge-patch+json"}
	a := w.must(t, 200, "PATCH", podURL+"/r/resize?fieldManager=me", `{"metadata":{"labels":{"a":"b"}},"spec":{"activeDeadlineSeconds":5,"containers":[{"name":"c","image":"other","resources":{"requests":{"cpu":"2"}}}]}}`, patch...)
	if a.at("metadata.generation") != float64(2) || !strings.Contains(a.raw, `"requests":{"cpu":"2","memory":"1Gi"}`) {
		t.Errorf("resized: %s", a.raw)
	}
	if strings.Contains(a.raw, `"other"`) || strings.Contains(a.raw, `"activeDeadlineSeconds"`) || a.at("metadata.labels") != nil {
		t.Errorf("more than resources: %s", a.raw)
	}
	if !strings.Contains(a.raw, `"subresource":"resize"`) {
		t.Errorf("nobody owns it: %s", a.raw)
	}
	if a := w.must(t, 422, "PATCH", podURL+"/r", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"3"}}}]}}`, patch...); !strings.Contains(a.raw, "pod updates may not change fields other than") {
		t.Errorf("past the subresource: %s", a.raw)
	}
	a = w.must(t, 200, "PUT", podURL+"/r/resize", strings.Replace(body, `"cpu":"1"`, `"cpu":"500m"`, 1))
	if a.at("metadata.generation") != float64(3) || !strings.Contains(a.raw, `"requests":{"cpu":"500m","memory":"1Gi"}`) {
		t.Errorf("replaced: %s", a.raw)
	}
	a = w.must(t, 200, "PATCH", podURL+"/r/resize?fieldManager=other&force=true", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"r"},"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"700m"}}}]}}`, applyType...)
	if !strings.Contains(a.raw, `"requests":{"cpu":"700m","memory":"1Gi"}`) || !strings.Contains(a.raw, `"manager":"other","operation":"Apply"`) {
		t.Errorf("applied: %s", a.raw)
	}
	a = w.must(t, 422, "PATCH", podURL+"/r/resize", `{"spec":{"containers":[{"name":"d","image":"i"}]}}`, patch...)
	if !strings.Contains(a.raw, "containers may not be added or removed on resize") {
		t.Errorf("one more: %s", a.raw)
	}
}

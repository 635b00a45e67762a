package discovery

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
)

func get(t *testing.T, path, accept string, into any) *httptest.ResponseRecorder {
	t.Helper()
	h, err := New(kinds.Builtin(), "192.0.2.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return w
}

func TestLegacy(t *testing.T) {
	var list metav1.APIResourceList
	get(t, "/apis/apps/v1", "application/json", &list)
	found := false
	for _, r := range list.APIResources {
		found = found || r.Name == "deployments" && r.Kind == "Deployment" && r.Namespaced
	}
	if !found || list.GroupVersion != "apps/v1" {
		t.Errorf("deployments missing in %+v", list)
	}
	var groups metav1.APIGroupList
	get(t, "/apis", "application/json", &groups)
	if len(groups.Groups) == 0 || groups.Groups[0].Name == "" {
		t.Errorf("the core group has no place in /apis: %+v", groups)
	}
	if w := get(t, "/apis/nope", "", nil); w.Code != 404 {
		t.Errorf("unknown group: %d", w.Code)
	}
}

func TestAggregated(t *testing.T) {
	accept := aggregatedType + ",application/json"
	var core, named apidiscoveryv2.APIGroupDiscoveryList
	if w := get(t, "/api", accept, &core); w.Header().Get("Content-Type") != aggregatedType {
		t.Errorf("content type %q", w.Header().Get("Content-Type"))
	}
	if len(core.Items) != 1 || core.Items[0].Name != "" {
		t.Errorf("/api: %+v", core.Items)
	}
	get(t, "/apis", accept, &named)
	total := 0
	for _, l := range [][]apidiscoveryv2.APIGroupDiscovery{core.Items, named.Items} {
		for _, g := range l {
			for _, v := range g.Versions {
				total += len(v.Resources)
			}
		}
	}
	if want := len(kinds.Builtin().All()); total != want {
		t.Errorf("%d resources, the table has %d", total, want)
	}
	if w := get(t, "/apis", "application/json,"+aggregatedType, nil); w.Header().Get("Content-Type") == aggregatedType {
		t.Error("plain JSON came first in Accept")
	}
}

// TestFollowsTheTable: a kind is in the documents as soon as it is in the
// table, and no longer; what has not changed is not made again.
func TestFollowsTheTable(t *testing.T) {
	table := kinds.Builtin()
	h, err := New(table, "192.0.2.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept", aggregatedType)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	before := ask("/apis").Header().Get("Etag")
	gvk := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Foo"}
	table.SetCustom([]*kinds.Kind{{GVK: gvk, Resource: "foos", Singular: "foo", Namespaced: true}})
	if w := ask("/apis/example.com/v1"); w.Code != 200 || !strings.Contains(w.Body.String(), `"foos"`) {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	if w := ask("/apis"); !strings.Contains(w.Body.String(), `"foos"`) || w.Header().Get("Etag") == before {
		t.Error("the custom kind is not in the aggregated document")
	}
	made := h.made.Load()
	if ask("/apis"); h.made.Load() != made {
		t.Error("the documents were made again")
	}
	table.SetCustom(nil)
	if w := ask("/apis/example.com/v1"); w.Code != 404 || !strings.Contains(w.Body.String(), `"NotFound"`) {
		t.Errorf("a group that is gone: %d: %s", w.Code, w.Body)
	}
	if ask("/apis").Header().Get("Etag") != before {
		t.Error("the document is not what it was before")
	}
}

package discovery

import (
	"context"
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
	h, err := New(kinds.Builtin(), nil, "192.0.2.1:6443")
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
	h, err := New(table, nil, "192.0.2.1:6443")
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

// TestRemote: what another server answers for is listed, and its own list of
// resources is left to it; what is ours stays so. Newer versions come first.
func TestRemote(t *testing.T) {
	table := kinds.Builtin()
	var remote *Remotes
	h, err := New(table, func() *Remotes { return remote }, "")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path, accept string, into any) int {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
		return w.Code
	}
	custom := func(version string) *kinds.Kind {
		return &kinds.Kind{GVK: schema.GroupVersionKind{Group: "x.example", Version: version, Kind: "Thing"}, Resource: "things",
			Load: func(context.Context, []byte) (kinds.Object, error) { return nil, nil }}
	}
	table.SetCustom([]*kinds.Kind{custom("v1beta1"), custom("v2"), custom("v1")})
	remote = &Remotes{[]Remote{
		{GV: schema.GroupVersion{Group: "wardle.example", Version: "v1"}, Resources: apidiscoveryv2.APIVersionDiscovery{Version: "v1", Freshness: "Stale"}},
		{GV: schema.GroupVersion{Group: "apps", Version: "v1"}, Resources: apidiscoveryv2.APIVersionDiscovery{Version: "v1", Freshness: "Stale"}}}}
	var g metav1.APIGroup
	ask("/apis/x.example", "application/json", &g)
	if len(g.Versions) != 3 || g.PreferredVersion.Version != "v2" || g.Versions[1].Version != "v1" {
		t.Errorf("%+v", g)
	}
	if code := ask("/apis/wardle.example", "application/json", &g); code != 200 || g.PreferredVersion.Version != "v1" {
		t.Errorf("%d %+v", code, g)
	}
	if code := ask("/apis/wardle.example/v1", "application/json", &metav1.Status{}); code != 404 {
		t.Errorf("the other server's resources: %d", code)
	}
	var all apidiscoveryv2.APIGroupDiscoveryList
	ask("/apis", aggregatedType, &all)
	var names []string
	for _, g := range all.Items {
		names = append(names, g.Name+"/"+string(g.Versions[0].Freshness))
	}
	if got := strings.Join(names[len(names)-2:], " "); got != "wardle.example/Stale x.example/Current" || names[0] != "apps/Current" {
		t.Errorf("order: %v", names)
	}
}

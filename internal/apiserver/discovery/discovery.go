// Package discovery tells clients which groups, versions and resources are
// served: the legacy documents (/api, /apis, /apis/<group>/<version>) and the
// aggregated ones that clients ask for by media type.
package discovery

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	machineryversion "k8s.io/apimachinery/pkg/version"

	"knarr.dev/knarr/internal/kinds"
)

const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// allVerbs is what a Kind without Verbs serves, in discovery's order.
var allVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// Handler answers the discovery paths from documents that are made once, and
// again when the table has changed.
type Handler struct {
	table   *kinds.Table
	remote  func() *Remotes
	address string

	making sync.Mutex
	made   atomic.Pointer[documents]
}

// documents of the table as it was at one moment.
type documents struct {
	of         *kinds.Set
	remote     *Remotes
	plain      map[string]document // by path
	aggregated map[string]document // "/api" and "/apis"
}

type document struct {
	body []byte
	etag string
}

// Remotes are what other servers answer for. They never change: when something
// does, another one takes their place.
type Remotes struct{ Versions []Remote }

// Remote is a group and version that another server answers for, in the order
// of their priority.
type Remote struct {
	GV        schema.GroupVersion
	Resources apidiscoveryv2.APIVersionDiscovery
}

// New makes the documents of the table, and of what other servers answer for;
// remote may be nil, and may return nil. Address is the server's own address
// as legacy clients read it from /api, "host:port".
func New(table *kinds.Table, remote func() *Remotes, address string) (*Handler, error) {
	if remote == nil {
		remote = func() *Remotes { return nil }
	}
	h := &Handler{table: table, remote: remote, address: address}
	_, err := h.documents()
	return h, err
}

// Paths that the handler answers: those that end in a slash with all below.
func (h *Handler) Paths() []string { return []string{"/api", "/api/", "/apis", "/apis/"} }

func (h *Handler) documents() (*documents, error) {
	if d := h.made.Load(); d != nil && d.of == h.table.Now() && d.remote == h.remote() {
		return d, nil
	}
	h.making.Lock()
	defer h.making.Unlock()
	now, remote := h.table.Now(), h.remote()
	if d := h.made.Load(); d != nil && d.of == now && d.remote == remote {
		return d, nil
	}
	d, err := describe(now, remote, h.address)
	if err == nil {
		h.made.Store(d)
	}
	return d, err
}

func describe(table *kinds.Set, remote *Remotes, address string) (*documents, error) {
	h := &documents{of: table, remote: remote, plain: map[string]document{}, aggregated: map[string]document{}}
	groups := groupsOf(table, remote)

	core := &metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}},
	}
	if err := put(h.plain, "/api", core); err != nil {
		return nil, err
	}
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	var coreGroup, named []apidiscoveryv2.APIGroupDiscovery
	for _, g := range groups {
		for _, v := range g.versions {
			if v.remote != nil {
				continue // its server answers itself
			}
			path := "/apis/" + g.name + "/" + v.gv.Version
			if g.name == "" {
				path = "/api/" + v.gv.Version
			}
			if err := put(h.plain, path, resourceList(v)); err != nil {
				return nil, err
			}
		}
		if g.name == "" {
			coreGroup = append(coreGroup, aggregatedGroup(g))
			continue
		}
		legacy := legacyGroup(g)
		list.Groups = append(list.Groups, legacy)
		legacy.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
		if err := put(h.plain, "/apis/"+g.name, legacy); err != nil {
			return nil, err
		}
		named = append(named, aggregatedGroup(g))
	}
	if err := put(h.plain, "/apis", list); err != nil {
		return nil, err
	}
	for path, items := range map[string][]apidiscoveryv2.APIGroupDiscovery{"/api": coreGroup, "/apis": named} {
		doc := &apidiscoveryv2.APIGroupDiscoveryList{
			TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"}, Items: items,
		}
		if err := put(h.aggregated, path, doc); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func put(docs map[string]document, path string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	docs[path] = document{body: append(body, '\n'), etag: `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`}
	return nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := "/" + strings.Trim(r.URL.Path, "/")
	docs, err := h.documents()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	doc, ok := docs.plain[path]
	if !ok {
		notFound(w)
		return
	}
	w.Header().Set("Vary", "Accept")
	contentType := "application/json"
	if agg, ok := docs.aggregated[path]; ok && wantsAggregated(r.Header.Get("Accept")) {
		doc, contentType = agg, aggregatedType
	}
	w.Header().Set("Etag", doc.etag)
	if r.Header.Get("If-None-Match") == doc.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(doc.body)
}

func notFound(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource"})
}

// wantsAggregated reports whether the first acceptable JSON entry asks for the
// aggregated list; clients name it before plain JSON.
func wantsAggregated(accept string) bool {
	for entry := range strings.SplitSeq(accept, ",") {
		params := map[string]string{}
		for i, p := range strings.Split(entry, ";") {
			p = strings.TrimSpace(p)
			if i == 0 {
				params[""] = p
				continue
			}
			k, v, _ := strings.Cut(p, "=")
			params[k] = v
		}
		if params["g"] == "apidiscovery.k8s.io" && params["v"] == "v2" && params["as"] == "APIGroupDiscoveryList" {
			return true
		}
		if params[""] == "application/json" && params["as"] == "" {
			return false
		}
	}
	return false
}

type group struct {
	name     string
	versions []version
}

type version struct {
	gv     schema.GroupVersion
	kinds  []*kinds.Kind
	remote *Remote // another server answers
}

// groupsOf keeps the order of the built-in groups, the core group first. Those
// of other servers follow, then those of custom resources, with their versions
// from the newest on.
func groupsOf(table *kinds.Set, remote *Remotes) []*group {
	var groups []*group
	at := func(gv schema.GroupVersion) *version {
		i := slices.IndexFunc(groups, func(g *group) bool { return g.name == gv.Group })
		if i < 0 {
			groups = append(groups, &group{name: gv.Group})
			i = len(groups) - 1
		}
		g := groups[i]
		j := slices.IndexFunc(g.versions, func(v version) bool { return v.gv == gv })
		if j < 0 {
			g.versions = append(g.versions, version{gv: gv})
			j = len(g.versions) - 1
		}
		return &g.versions[j]
	}
	add := func(k *kinds.Kind) {
		v := at(k.GVK.GroupVersion())
		v.kinds = append(v.kinds, k)
	}
	var custom []*kinds.Kind
	for _, k := range table.All() {
		if k.Load != nil {
			custom = append(custom, k)
			continue
		}
		add(k)
	}
	if remote != nil {
		for i, r := range remote.Versions {
			v := at(r.GV)
			if table.Yields(r.GV) {
				v.kinds = nil
			}
			if len(v.kinds) == 0 { // what is ours we answer ourselves
				v.remote = &remote.Versions[i]
			}
		}
	}
	slices.SortStableFunc(custom, func(a, b *kinds.Kind) int {
		return cmp.Or(cmp.Compare(a.GVK.Group, b.GVK.Group), -machineryversion.CompareKubeAwareVersionStrings(a.GVK.Version, b.GVK.Version))
	})
	for _, k := range custom {
		add(k)
	}
	return groups
}

func legacyGroup(g *group) metav1.APIGroup {
	out := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: v.gv.String(), Version: v.gv.Version})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

func verbsOf(k *kinds.Kind) []string {
	if k.Verbs == nil {
		return allVerbs
	}
	return k.Verbs
}

func resourceList(v version) *metav1.APIResourceList {
	list := &metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: v.gv.String(),
	}
	for _, k := range v.kinds {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.GVK.Kind,
			Verbs: verbsOf(k), ShortNames: k.ShortNames, Categories: k.Categories,
		})
		for _, name := range subresourcesOf(k) {
			gvk := subresourceGVK(k, name)
			r := metav1.APIResource{Name: k.Resource + "/" + name, Namespaced: k.Namespaced, Kind: gvk.Kind, Verbs: k.Subresources[name].Verbs}
			if gvk.GroupVersion() != v.gv {
				r.Group, r.Version = gvk.Group, gvk.Version
			}
			list.APIResources = append(list.APIResources, r)
		}
	}
	return list
}

func aggregatedGroup(g *group) apidiscoveryv2.APIGroupDiscovery {
	out := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
	for _, v := range g.versions {
		if v.remote != nil {
			out.Versions = append(out.Versions, v.remote.Resources)
			continue
		}
		av := apidiscoveryv2.APIVersionDiscovery{Version: v.gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		for _, k := range v.kinds {
			av.Resources = append(av.Resources, aggregatedResource(k))
		}
		out.Versions = append(out.Versions, av)
	}
	return out
}

func aggregatedResource(k *kinds.Kind) apidiscoveryv2.APIResourceDiscovery {
	scope := apidiscoveryv2.ScopeCluster
	if k.Namespaced {
		scope = apidiscoveryv2.ScopeNamespace
	}
	r := apidiscoveryv2.APIResourceDiscovery{
		Resource: k.Resource, ResponseKind: gvkOf(k.GVK), Scope: scope, SingularResource: k.Singular,
		Verbs: verbsOf(k), ShortNames: k.ShortNames, Categories: k.Categories,
	}
	for _, name := range subresourcesOf(k) {
		r.Subresources = append(r.Subresources, apidiscoveryv2.APISubresourceDiscovery{
			Subresource: name, ResponseKind: gvkOf(subresourceGVK(k, name)), Verbs: k.Subresources[name].Verbs,
		})
	}
	return r
}

func gvkOf(gvk schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}

func subresourcesOf(k *kinds.Kind) []string {
	names := make([]string, 0, len(k.Subresources))
	for n := range k.Subresources {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func subresourceGVK(k *kinds.Kind, name string) schema.GroupVersionKind {
	if gvk := k.Subresources[name].GVK; !gvk.Empty() {
		return gvk
	}
	return k.GVK
}

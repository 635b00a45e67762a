package apiserver_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/codec"
)

// must asks and expects a code.
func (w *world) must(t testing.TB, code int, method, path, body string, header ...string) answer {
	t.Helper()
	a := w.do(t, method, path, body, header...)
	if a.code != code {
		t.Fatalf("%s %s: %d %s", method, path, a.code, a.raw)
	}
	return a
}

const mergeType, jsonPatchType, strategicType = "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json"

func TestFormats(t *testing.T) {
	w := newWorld(t)
	yamlPod := "apiVersion: v1\nkind: Pod\nmetadata: {name: yam}\nspec: {containers: [{name: c, image: i}]}\n"
	a := w.must(t, 201, "POST", podURL, yamlPod, "Content-Type", "application/yaml", "Accept", "application/yaml")
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(a.raw), &pod); err != nil || pod.Name != "yam" || a.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("yaml: %v %s", err, a.raw)
	}
	pod = corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	data, err := codec.Encode(codec.Protobuf, &pod)
	if err != nil {
		t.Fatal(err)
	}
	const proto = "application/vnd.kubernetes.protobuf"
	for _, tc := range []struct{ method, path, body string }{{"POST", podURL, string(data)}, {"GET", podURL + "/p", ""}} {
		a = w.do(t, tc.method, tc.path, tc.body, "Content-Type", proto, "Accept", proto)
		out := &corev1.Pod{}
		if _, err := codec.DecodeBody(codec.Protobuf, []byte(a.raw), out); err != nil || out.Name != "p" || out.UID == "" {
			t.Errorf("%s: %v %d %q", tc.method, err, a.code, a.raw)
		}
	}
	a = w.must(t, 200, "GET", podURL, "", "Accept", proto)
	list := &corev1.PodList{}
	if _, err := codec.DecodeBody(codec.Protobuf, []byte(a.raw), list); err != nil || len(list.Items) != 2 || list.ResourceVersion == "" {
		t.Errorf("protobuf list: %v %v", err, list)
	}
	a = w.must(t, 200, "GET", podURL, "", "Accept", "application/yaml")
	if err := yaml.Unmarshal([]byte(a.raw), list); err != nil || len(list.Items) != 2 || list.Kind != "PodList" {
		t.Errorf("yaml list: %v", err)
	}
	a = w.must(t, 200, "GET", podURL+"/p?pretty=true", "")
	if !strings.Contains(a.raw, "\n  \"metadata\": {\n") {
		t.Errorf("not pretty: %s", a.raw)
	}
	if a = w.do(t, "GET", podURL+"/zzz", "", "Accept", "application/yaml"); !strings.Contains(a.raw, "kind: Status\n") {
		t.Errorf("error in yaml: %s", a.raw)
	}
	if a = w.do(t, "GET", podURL+"/zzz", "", "Accept", proto); !strings.HasPrefix(a.raw, "k8s\x00") {
		t.Errorf("error in protobuf: %q", a.raw)
	}
	if a = w.must(t, 200, "GET", podURL+"/p", "", "Accept", "image/png, application/*;q=0.8"); a.at("kind") != "Pod" || a.at("apiVersion") != "v1" {
		t.Errorf("second choice: %s", a.raw)
	}
	for _, accept := range []string{"application/yaml;q=0.5, application/json", "application/*, application/yaml;q=0.9", "*/*;q=0.1, application/json"} {
		if a = w.must(t, 200, "GET", podURL+"/p", "", "Accept", accept); a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v", accept, a.header)
		}
	}
	for query, agent := range map[string]string{"": "curl/8.1", "?pretty=1": "x", "?pretty=T": "x"} {
		if a = w.must(t, 200, "GET", podURL+"/p"+query, "", "User-Agent", agent); !strings.HasPrefix(a.raw, "{\n  \"") {
			t.Errorf("%s by %s is not pretty: %s", query, agent, a.raw)
		}
	}
	if a = w.must(t, 200, "GET", podURL+"/p?pretty=0", "", "User-Agent", "Mozilla/5.0 (X11)"); strings.HasPrefix(a.raw, "{\n  ") {
		t.Errorf("pretty although it must not: %s", a.raw)
	}
}

const tableType = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

func TestTables(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) { c.Measured = gauges{} })
	w.must(t, 201, "POST", podURL, podBody)
	for _, path := range []string{podURL, podURL + "/a"} {
		a := w.must(t, 200, "GET", path, "", "Accept", tableType)
		rows, _ := a.at("rows").([]any)
		columns, _ := a.at("columnDefinitions").([]any)
		if a.at("kind") != "Table" || a.at("apiVersion") != "meta.k8s.io/v1" || len(rows) != 1 || len(columns) < 5 {
			t.Fatalf("%s: %s", path, a.raw)
		}
		row, _ := rows[0].(map[string]any)
		cells, _ := row["cells"].([]any)
		object, _ := row["object"].(map[string]any)
		if len(cells) != len(columns) || cells[0] != "a" || cells[1] != "0/1" || cells[2] != "Pending" || object["kind"] != "PartialObjectMetadata" || object["spec"] != nil {
			t.Errorf("%s: row %v", path, row)
		}
		if meta, _ := object["metadata"].(map[string]any); meta["name"] != "a" || meta["uid"] == nil {
			t.Errorf("%s: object %v", path, object)
		}
		if a.at("metadata.resourceVersion") == nil {
			t.Errorf("%s: no resourceVersion", path)
		}
	}
	if a := w.must(t, 200, "GET", podURL+"?includeObject=Object", "", "Accept", tableType); !strings.Contains(a.raw, `"object":{"kind":"Pod","apiVersion":"v1","metadata":`) {
		t.Errorf("includeObject=Object: %s", a.raw)
	}
	if a := w.must(t, 200, "GET", podURL+"?includeObject=None", "", "Accept", tableType); strings.Contains(a.raw, `"metadata":{"name"`) {
		t.Errorf("includeObject=None: %s", a.raw)
	}
	partial := "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	if a := w.must(t, 200, "GET", podURL+"/a", "", "Accept", partial); a.at("kind") != "PartialObjectMetadata" || a.at("metadata.name") != "a" || a.at("spec") != nil {
		t.Errorf("partial: %s", a.raw)
	}
	a := w.must(t, 200, "GET", podURL, "", "Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
	items, _ := a.at("items").([]any)
	if a.at("kind") != "PartialObjectMetadataList" || len(items) != 1 {
		t.Errorf("partial list: %s", a.raw)
	}
	if a := w.must(t, 201, "POST", podURL, strings.Replace(podBody, `"a"`, `"b"`, 1), "Accept", tableType); a.at("kind") != "Table" {
		t.Errorf("created as a table: %s", a.raw)
	}
	// Every kind that can be listed can be shown as a table.
	for _, k := range w.table.All() {
		if k.NewList == nil {
			continue
		}
		prefix := "/api/" + k.GVK.Version
		if k.GVK.Group != "" {
			prefix = "/apis/" + k.GVK.Group + "/" + k.GVK.Version
		}
		a := w.must(t, 200, "GET", prefix+"/"+k.Resource, "", "Accept", tableType)
		if c, _ := a.at("columnDefinitions").([]any); a.at("kind") != "Table" || len(c) == 0 {
			t.Errorf("%s: %s", k, a.raw)
		}
	}
}

func TestFieldValidation(t *testing.T) {
	w := newWorld(t)
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s"},"nope":1,"data":{"a":"1","a":"2"}}`
	a := w.must(t, 201, "POST", cmURL, fmt.Sprintf(body, "warn"))
	if got := a.header.Values("Warning"); len(got) != 2 || !strings.Contains(strings.Join(got, " "), `299 - "unknown field \"nope\""`) || !strings.Contains(strings.Join(got, " "), `duplicate field \"data.a\"`) {
		t.Errorf("warnings %q", got)
	}
	a = w.must(t, 201, "POST", cmURL+"?fieldValidation=Ignore", fmt.Sprintf(body, "ignore"))
	if got := a.header.Values("Warning"); len(got) != 0 {
		t.Errorf("warnings %q", got)
	}
	w.must(t, 400, "POST", cmURL+"?fieldValidation=Strict", fmt.Sprintf(body, "strict"))
	a = w.must(t, 200, "PATCH", cmURL+"/warn", `{"huh":1,"data":{"b":"1","b":"2"}}`, "Content-Type", mergeType)
	if got := a.header.Values("Warning"); len(got) != 2 {
		t.Errorf("warnings of a patch %q", got)
	}
	many := strings.Builder{}
	for i := range 1000 {
		fmt.Fprintf(&many, `,"%s%d":1`, strings.Repeat("x", 1000), i)
	}
	a = w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"many"}`+many.String()+`}`)
	total := 0
	for _, v := range a.header.Values("Warning") {
		total += len(v)
	}
	if total == 0 || total > 20<<10 {
		t.Errorf("%d bytes of warnings", total)
	}
}

func TestDryRun(t *testing.T) {
	w := newWorld(t)
	a := w.must(t, 201, "POST", podURL+"?dryRun=All", podBody)
	if a.at("metadata.uid") == nil || a.at("metadata.resourceVersion") != nil {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 404, "GET", podURL+"/a", "")
	w.must(t, 201, "POST", podURL, podBody)
	w.must(t, 409, "POST", podURL+"?dryRun=All", podBody)
	before := w.must(t, 200, "GET", podURL+"/a", "").raw
	if a := w.must(t, 200, "PATCH", podURL+"/a?dryRun=All", `{"metadata":{"labels":{"x":"y"}}}`, "Content-Type", mergeType); a.at("metadata.labels.x") != "y" {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 200, "DELETE", podURL+"/a?dryRun=All", "")
	w.must(t, 200, "DELETE", podURL+"/a", `{"dryRun":["All"]}`)
	w.must(t, 200, "DELETE", podURL+"?dryRun=All", "")
	w.must(t, 201, "POST", podURL+"/a/binding?dryRun=All", `{"target":{"name":"n"}}`)
	w.must(t, 201, "POST", podURL+"/a/eviction?dryRun=All", `{"metadata":{"name":"a"}}`)
	w.must(t, 201, "POST", podURL+"/a/eviction", `{"metadata":{"name":"a"},"deleteOptions":{"dryRun":["All"]}}`)
	if after := w.must(t, 200, "GET", podURL+"/a", "").raw; after != before {
		t.Errorf("changed by dry runs:\n%s\n%s", before, after)
	}
}

func TestDeletions(t *testing.T) {
	w := newWorld(t)
	cm := func(name, meta string) {
		t.Helper()
		w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"`+name+`"`+meta+`}}`)
	}

	cm("a", "")
	a := w.must(t, 200, "DELETE", cmURL+"/a", "")
	if a.at("kind") != "Status" || a.at("status") != "Success" || a.at("details.name") != "a" || a.at("details.kind") != "configmaps" || a.at("details.uid") == nil {
		t.Errorf("removed at once: %s", a.raw)
	}

	cm("fin", `,"finalizers":["example.com/x"]`)
	a = w.must(t, 200, "DELETE", cmURL+"/fin", "")
	if a.at("kind") != "ConfigMap" || a.at("metadata.deletionTimestamp") == nil || a.at("metadata.deletionGracePeriodSeconds") != 0.0 {
		t.Errorf("held by a finalizer: %s", a.raw)
	}
	version := a.at("metadata.resourceVersion")
	if a = w.must(t, 200, "DELETE", cmURL+"/fin", ""); a.at("metadata.resourceVersion") != version {
		t.Errorf("the second delete wrote: %s", a.raw)
	}
	if a := w.must(t, 409, "POST", cmURL, `{"metadata":{"name":"fin"}}`); !strings.Contains(a.raw, `object is being deleted: configmaps \"fin\" already exists`) {
		t.Errorf("created again: %s", a.raw)
	}
	w.must(t, 422, "PATCH", cmURL+"/fin", `{"metadata":{"finalizers":["example.com/x","example.com/y"]}}`, "Content-Type", mergeType)
	w.must(t, 200, "PATCH", cmURL+"/fin", `{"metadata":{"finalizers":null}}`, "Content-Type", mergeType)
	w.must(t, 404, "GET", cmURL+"/fin", "")

	for policy, finalizer := range map[string]string{"Foreground": "foregroundDeletion", "Orphan": "orphan"} {
		cm("p", "")
		a = w.must(t, 200, "DELETE", cmURL+"/p?propagationPolicy="+policy, "")
		if f, _ := a.at("metadata.finalizers").([]any); len(f) != 1 || f[0] != finalizer {
			t.Errorf("%s: %s", policy, a.raw)
		}
		a = w.must(t, 200, "DELETE", cmURL+"/p", `{"propagationPolicy":"Background"}`)
		w.must(t, 404, "GET", cmURL+"/p", "")
	}

	for _, n := range []string{"x", "y", "z"} {
		cm(n, `,"labels":{"del":"`+n+`"}`)
	}
	a = w.must(t, 200, "DELETE", cmURL+"?labelSelector=del%20in%20(x,y)", "")
	if items, _ := a.at("items").([]any); a.at("kind") != "ConfigMapList" || len(items) != 2 {
		t.Errorf("collection: %s", a.raw)
	}
	a = w.must(t, 200, "GET", cmURL, "")
	if items, _ := a.at("items").([]any); len(items) != 1 {
		t.Errorf("left: %s", a.raw)
	}
	w.must(t, 405, "DELETE", "/api/v1/configmaps", "")
}

func TestPodDeletion(t *testing.T) {
	w := newWorld(t)
	w.must(t, 201, "POST", podURL, podBody)
	w.must(t, 201, "POST", podURL+"/a/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"a"},"target":{"kind":"Node","name":"n"}}`)
	a := w.must(t, 200, "DELETE", podURL+"/a?gracePeriodSeconds=20", "")
	if a.at("metadata.deletionGracePeriodSeconds") != 20.0 {
		t.Errorf("%s", a.raw)
	}
	first := a.at("metadata.deletionTimestamp")
	if a = w.must(t, 200, "DELETE", podURL+"/a", ""); a.at("metadata.deletionGracePeriodSeconds") != 20.0 || a.at("metadata.deletionTimestamp") != first {
		t.Errorf("a longer grace moved the deletion: %s", a.raw)
	}
	a = w.must(t, 200, "DELETE", podURL+"/a", `{"gracePeriodSeconds":5}`)
	if at, ok := a.at("metadata.deletionTimestamp").(string); a.at("metadata.deletionGracePeriodSeconds") != 5.0 || !ok || at > first.(string) {
		t.Errorf("a shorter grace: %s", a.raw)
	}
	w.must(t, 409, "POST", podURL+"/a/binding", `{"target":{"name":"m"}}`)
	if a = w.must(t, 200, "DELETE", podURL+"/a", `{"gracePeriodSeconds":0}`); a.at("kind") != "Pod" {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 404, "GET", podURL+"/a", "")

	w.must(t, 201, "POST", podURL, podBody)
	a = w.must(t, 201, "POST", podURL+"/a/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"a","namespace":"default"}}`)
	if a.at("kind") != "Status" || a.at("status") != "Success" {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 404, "GET", podURL+"/a", "")
}

func TestNamespaceDeletion(t *testing.T) {
	w := newWorld(t)
	a := w.must(t, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"team"}}`)
	if f, _ := a.at("spec.finalizers").([]any); len(f) != 1 || f[0] != "kubernetes" || a.at("status.phase") != "Active" || a.at("metadata.labels") == nil {
		t.Errorf("%s", a.raw)
	}
	a = w.must(t, 200, "DELETE", "/api/v1/namespaces/team", "")
	if a.at("status.phase") != "Terminating" || a.at("metadata.deletionTimestamp") == nil {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 200, "PUT", "/api/v1/namespaces/team/finalize", `{"metadata":{"name":"team"},"spec":{"finalizers":[]}}`)
	w.must(t, 404, "GET", "/api/v1/namespaces/team", "")
}

func TestSubresources(t *testing.T) {
	w := newWorld(t)
	w.must(t, 201, "POST", podURL, podBody)
	a := w.must(t, 200, "PATCH", podURL+"/a/status", `{"metadata":{"labels":{"l":"1"}},"spec":{"nodeName":"x"},"status":{"phase":"Running"}}`, "Content-Type", mergeType)
	if a.at("status.phase") != "Running" || a.at("spec.nodeName") != nil {
		t.Errorf("status: %s", a.raw)
	}
	a = w.must(t, 200, "PATCH", podURL+"/a", `{"metadata":{"labels":{"l":"2"}},"status":{"phase":"Failed"}}`, "Content-Type", mergeType)
	if a.at("status.phase") != "Running" || a.at("metadata.labels.l") != "2" {
		t.Errorf("main resource: %s", a.raw)
	}
	if a = w.must(t, 200, "GET", podURL+"/a/status", ""); a.at("status.phase") != "Running" {
		t.Errorf("status read: %s", a.raw)
	}
	a = w.must(t, 200, "PATCH", podURL+"/a/ephemeralcontainers", `{"spec":{"ephemeralContainers":[{"name":"e","image":"i"}]}}`, "Content-Type", strategicType)
	if !strings.Contains(a.raw, `"ephemeralContainers":[{"name":"e"`) {
		t.Errorf("ephemeral: %s", a.raw)
	}
	w.must(t, 422, "POST", podURL+"/a/binding", `{"target":{"kind":"Pod","name":"x"}}`)
	w.must(t, 409, "POST", podURL+"/a/binding", `{"metadata":{"name":"a","uid":"other"},"target":{"name":"x"}}`)
	w.must(t, 400, "POST", podURL+"/a/binding", `{"metadata":{"name":"b"},"target":{"name":"x"}}`)
	w.must(t, 404, "POST", podURL+"/zzz/binding", `{"target":{"name":"x"}}`)
	w.must(t, 201, "POST", "/api/v1/namespaces/default/bindings", `{"metadata":{"name":"a","annotations":{"by":"me"}},"target":{"kind":"Node","name":"x"}}`)
	a = w.must(t, 200, "GET", podURL+"/a", "")
	if a.at("spec.nodeName") != "x" || a.at("metadata.annotations.by") != "me" || !strings.Contains(a.raw, `{"type":"PodScheduled"`) {
		t.Errorf("bound: %s", a.raw)
	}
	csr := "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	if a := w.do(t, "POST", csr, `{"metadata":{"name":"c"},"spec":{"request":"eA==","signerName":"example.com/x","usages":["client auth"]}}`); a.code != 422 && a.code != 201 {
		t.Errorf("csr: %s", a.raw)
	}
	w.must(t, 501, "GET", podURL+"/a/log", "")
}

// recording tells what it is shown, and changes what it may.
type recording struct {
	requests []admission.Request
	refuse   error
}

func (*recording) Name() string { return "Recording" }

func (p *recording) Mutate(_ context.Context, r *admission.Request) error {
	if cm, ok := r.Object.(*corev1.ConfigMap); ok {
		metav1.SetMetaDataAnnotation(&cm.ObjectMeta, "seen", "yes")
	}
	return nil
}

func (p *recording) Validate(_ context.Context, r *admission.Request) error {
	p.requests = append(p.requests, *r)
	r.Warn("recorded")
	return p.refuse
}

func TestAdmission(t *testing.T) {
	p := &recording{}
	w := newWorld(t, func(c *apiserver.Config) { c.Admission = []admission.Plugin{p} })
	a := w.must(t, 201, "POST", cmURL+"?dryRun=All", `{"metadata":{"generateName":"g-"}}`)
	if a.at("metadata.annotations.seen") != "yes" || a.header.Get("Warning") != `299 - "recorded"` {
		t.Errorf("%s %v", a.raw, a.header)
	}
	if r := p.requests[0]; r.Operation != admission.Create || !r.DryRun || r.User.GetName() != "admin" || r.Ref.Namespace != "default" {
		t.Errorf("%+v", r)
	}
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"a"}}`)
	p.requests = nil
	w.must(t, 200, "PATCH", cmURL+"/a", `{"data":{"k":"v"}}`, "Content-Type", mergeType)
	r := p.requests[0]
	if old, ok := r.Old.(*corev1.ConfigMap); r.Operation != admission.Update || !ok || old.Data != nil || r.Object.(*corev1.ConfigMap).Data["k"] != "v" {
		t.Errorf("%+v", r)
	}
	p.requests = nil
	w.must(t, 200, "DELETE", cmURL+"/a", "")
	if r := p.requests[0]; r.Operation != admission.Delete || r.Object != nil || r.Old == runtime.Object(nil) || r.Delete == nil {
		t.Errorf("%+v", r)
	}
	p.requests = nil
	w.must(t, 201, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}`)
	if len(p.requests) != 1 {
		t.Error("a review was not admitted")
	}
	if _, err := w.server.Client(admin).Create(t.Context(), refOf("configmaps", ""), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"}}); err != nil {
		t.Errorf("in process: %v", err)
	}
	p.refuse = &statusError{http.StatusTeapot, "no"}
	if a := w.do(t, "POST", cmURL, `{"metadata":{"name":"c"}}`); a.code != http.StatusTeapot || a.at("message") != "no" {
		t.Errorf("%d %s", a.code, a.raw)
	}
}

// TestLists: revisions, pages and selections.
func TestLists(t *testing.T) {
	w := newWorld(t)
	names := func(a answer) string {
		t.Helper()
		items, _ := a.at("items").([]any)
		var out []string
		for _, it := range items {
			meta, _ := it.(map[string]any)["metadata"].(map[string]any)
			out = append(out, fmt.Sprint(meta["name"]))
		}
		return strings.Join(out, " ")
	}
	for _, n := range []string{"a", "ab", "abc", "b", "c-1", "c-2"} {
		w.putConfigMap(t, n, "1", n)
	}
	w.must(t, 201, "POST", "/api/v1/namespaces/other/configmaps", `{"metadata":{"name":"ab"}}`)
	w.must(t, 200, "GET", cmURL, "") // from here on the cache knows them all, which revision 0 does not ask for
	for query, want := range map[string]string{
		"":                                      "a ab abc b c-1 c-2",
		"?resourceVersion=0":                    "a ab abc b c-1 c-2",
		"?fieldSelector=metadata.name=ab":       "ab",
		"?fieldSelector=metadata.name=c":        "",
		"?fieldSelector=metadata.name%3D%3Dc-2": "c-2",
		"?fieldSelector=metadata.name!=ab":      "a abc b c-1 c-2",
		"?fieldSelector=metadata.name=ab,metadata.namespace=default": "ab",
		"?fieldSelector=metadata.name=ab,metadata.namespace=other":   "",
		"?labelSelector=l%20in%20(a,b)":                              "a b",
		"?labelSelector=l%20notin%20(a,b)&limit=2":                   "ab abc",
		"?labelSelector=!l":                                          "",
	} {
		if got := names(w.must(t, 200, "GET", cmURL+query, "")); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if got := names(w.must(t, 200, "GET", "/api/v1/configmaps?fieldSelector=metadata.name=ab", "")); got != "ab ab" {
		t.Errorf("all namespaces: %q", got)
	}
	w.must(t, 201, "POST", "/api/v1/nodes", `{"metadata":{"name":"n"}}`)
	if got := names(w.must(t, 200, "GET", "/api/v1/nodes?fieldSelector=metadata.name=n", "")); got != "n" {
		t.Errorf("cluster-scoped: %q", got)
	}

	// A page goes on at its revision, also when this is known only to the store.
	first := w.must(t, 200, "GET", cmURL+"?limit=2", "")
	if names(first) != "a ab" || first.at("metadata.remainingItemCount") != 4.0 {
		t.Errorf("%s", first.raw)
	}
	next := fmt.Sprint(first.at("metadata.continue"))
	w.must(t, 200, "DELETE", cmURL+"/b", "")
	version := fmt.Sprint(first.at("metadata.resourceVersion"))
	for _, forget := range []bool{false, true} {
		if forget {
			apiserver.ForgetPages(w.server)
		}
		a := w.must(t, 200, "GET", cmURL+"?limit=2&continue="+next, "")
		if names(a) != "abc b" || a.at("metadata.resourceVersion") != version {
			t.Errorf("forgotten %v: %s", forget, a.raw)
		}
		a = w.must(t, 200, "GET", cmURL+"?continue="+fmt.Sprint(a.at("metadata.continue")), "")
		if names(a) != "c-1 c-2" || a.at("metadata.continue") != nil || a.at("metadata.remainingItemCount") != nil {
			t.Errorf("forgotten %v: %s", forget, a.raw)
		}
	}
	if a := w.must(t, 200, "GET", cmURL+"?limit=2&labelSelector=l", ""); a.at("metadata.continue") == nil || a.at("metadata.remainingItemCount") != nil {
		t.Errorf("with a selector nobody knows how many there are: %s", a.raw)
	}
	for _, query := range []string{"?resourceVersionMatch=Exact&resourceVersion=" + version, "?limit=100&resourceVersion=" + version} {
		if a := w.must(t, 200, "GET", cmURL+query, ""); names(a) != "a ab abc b c-1 c-2" || a.at("metadata.resourceVersion") != version {
			t.Errorf("%s: %s", query, a.raw)
		}
	}
	if a := w.must(t, 200, "GET", cmURL+"?resourceVersionMatch=NotOlderThan&resourceVersion="+version, ""); names(a) != "a ab abc c-1 c-2" {
		t.Errorf("not older: %s", a.raw)
	}
	w.must(t, 400, "GET", cmURL+"?continue="+next+"&resourceVersion=5", "")

	// What has been compacted is gone, but the rest can be had as it is now.
	rev, err := w.store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	apiserver.ForgetPages(w.server)
	a := w.must(t, 410, "GET", cmURL+"?limit=2&continue="+next, "")
	if a.at("reason") != "Expired" || a.at("metadata.continue") == nil {
		t.Fatalf("%s", a.raw)
	}
	if a = w.must(t, 200, "GET", cmURL+"?continue="+fmt.Sprint(a.at("metadata.continue")), ""); names(a) != "abc c-1 c-2" {
		t.Errorf("%s", a.raw)
	}
	if a := w.must(t, 410, "GET", cmURL+"?resourceVersionMatch=Exact&resourceVersion="+version, ""); a.at("reason") != "Expired" {
		t.Errorf("%s", a.raw)
	}
}

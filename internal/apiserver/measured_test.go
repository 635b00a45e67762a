package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/apiserver/usage"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// gauges are fixed measurements.
type gauges struct{}

func (gauges) all(k *kinds.Kind) (out []kinds.Object) {
	at, window := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), metav1.Duration{Duration: 15 * time.Second}
	use := corev1.ResourceList{"cpu": resource.MustParse("250m"), "memory": resource.MustParse("4Mi")}
	if k == kinds.NodeMetrics {
		return []kinds.Object{&metricsv1beta1.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Timestamp: at, Window: window, Usage: use}}
	}
	for _, name := range []string{"default/a", "default/b", "other/a"} {
		ns, name, _ := strings.Cut(name, "/")
		out = append(out, &metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"is": name}}, Timestamp: at, Window: window,
			Containers: []metricsv1beta1.ContainerMetrics{{Name: "c", Usage: use}, {Name: "d", Usage: use}}})
	}
	return out
}

func (g gauges) Get(_ context.Context, k *kinds.Kind, ns, name string) (kinds.Object, error) {
	for _, o := range g.all(k) {
		if o.GetNamespace() == ns && o.GetName() == name {
			return o, nil
		}
	}
	return nil, apierrors.NewNotFound(k.GroupResource(), name)
}

func (g gauges) List(_ context.Context, k *kinds.Kind, ns string) (out []kinds.Object, err error) {
	for _, o := range g.all(k) {
		if ns == "" || o.GetNamespace() == ns {
			out = append(out, o)
		}
	}
	return out, nil
}

const metricsAPI = "/apis/metrics.k8s.io/v1beta1"

func TestMeasured(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) {
		c.Measured = gauges{}
		c.Authn = named{}
		c.Authz = rights(func(a authorizer.Attributes) bool {
			return a.GetUser().GetName() == "u" && a.GetAPIGroup() == "metrics.k8s.io" && a.GetResource() == "pods" || a.GetUser().GetName() == "all"
		})
	})
	names := func(path string) (out string) {
		t.Helper()
		a := w.must(t, 200, "GET", metricsAPI+path, "", "X-Test-User", "all")
		l := &metricsv1beta1.PodMetricsList{}
		if err := json.Unmarshal([]byte(a.raw), l); err != nil {
			t.Fatal(err)
		}
		for _, m := range l.Items {
			out += m.Namespace + "/" + m.Name + " "
		}
		return out
	}
	for path, want := range map[string]string{
		"/pods":                    "default/a default/b other/a ",
		"/namespaces/default/pods": "default/a default/b ",
		"/namespaces/default/pods?labelSelector=is%3Db":           "default/b ",
		"/pods?fieldSelector=metadata.namespace%3Dother":          "other/a ",
		"/pods?fieldSelector=metadata.name%3Da&labelSelector=!is": "",
	} {
		if got := names(path); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	list := w.must(t, 200, "GET", metricsAPI+"/nodes", "", "X-Test-User", "all")
	if list.at("kind") != "NodeMetricsList" || !strings.Contains(list.raw, `"metadata":{}`) {
		t.Error(list.raw)
	}
	one := w.must(t, 200, "GET", metricsAPI+"/namespaces/default/pods/a", "", "X-Test-User", "u")
	if one.at("kind") != "PodMetrics" || one.at("window") != "15s" || one.at("timestamp") != "2026-01-01T00:00:00Z" || !strings.Contains(one.raw, `"usage":{"cpu":"250m","memory":"4Mi"}`) {
		t.Error(one.raw)
	}
	table := w.must(t, 200, "GET", metricsAPI+"/pods?limit=1", "", "X-Test-User", "all", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	if !strings.Contains(table.raw, `{"cells":["a","500m","8Mi","15s"]`) || !strings.Contains(table.raw, `"name":"Window","type":"string","format":"duration"`) {
		t.Error(table.raw)
	}
	binary := w.must(t, 200, "GET", metricsAPI+"/pods", "", "X-Test-User", "all", "Accept", "application/vnd.kubernetes.protobuf")
	decoded, err := codec.Decode(codec.Protobuf, []byte(binary.raw))
	if l, ok := decoded.(*metricsv1beta1.PodMetricsList); err != nil || !ok || len(l.Items) != 3 || l.Items[0].Containers[1].Name != "d" {
		t.Errorf("%v %+v", err, decoded)
	}
	if a := w.must(t, 200, "GET", metricsAPI, "", "X-Test-User", "all"); !strings.Contains(a.raw, `"name":"nodes","singularName":"","namespaced":false,"kind":"NodeMetrics","verbs":["get","list"]`) {
		t.Error(a.raw)
	}
	for path, code := range map[string]int{"/nodes": 403, "/nodes/n1": 403, "/pods": 200} {
		if a := w.do(t, "GET", metricsAPI+path, "", "X-Test-User", "u"); a.code != code {
			t.Errorf("%s: %d", path, a.code)
		}
	}
	for what, code := range map[string]int{
		"GET /namespaces/default/pods/zzz": 404, "GET /namespaces/default/nodes": 404, "POST /namespaces/default/pods": 405, "DELETE /namespaces/default/pods/a": 405,
		"GET /pods?watch=true": 405, "GET /pods?fieldSelector=spec.nodeName%3Dx": 400,
	} {
		method, path, _ := strings.Cut(what, " ")
		if a := w.do(t, method, metricsAPI+path, "", "X-Test-User", "all"); a.code != code {
			t.Errorf("%s: %d %s", what, a.code, a.raw)
		}
	}
	// In process, with the rights of whoever asks.
	c := w.server.Client(&user.DefaultInfo{Name: "u"})
	o, err := c.List(t.Context(), kinds.PodMetrics, "default", metav1.ListOptions{LabelSelector: "is=a"})
	if l, ok := o.(*metricsv1beta1.PodMetricsList); err != nil || !ok || len(l.Items) != 1 {
		t.Errorf("%v %v", o, err)
	}
	if o, err := c.Get(t.Context(), kinds.Ref{Kind: kinds.PodMetrics, Namespace: "other", Name: "a"}); err != nil || o.(kinds.Object).GetNamespace() != "other" {
		t.Errorf("%v %v", o, err)
	}
	data, err := c.Fetch(t.Context(), metricsAPI+"/namespaces/default/pods", url.Values{"labelSelector": {"is=b"}})
	if err != nil || !strings.Contains(string(data), `"name":"b"`) || strings.Contains(string(data), `"name":"a"`) {
		t.Errorf("%s %v", data, err)
	}
	if _, err := c.Fetch(t.Context(), metricsAPI+"/nodes", nil); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "u" cannot list resource "nodes" in API group "metrics.k8s.io"`) {
		t.Error(err)
	}
	if _, err := c.Fetch(t.Context(), metricsAPI+"/namespaces/default/pods/zzz", nil); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

// TestScrapedNode: from the kubelet's text to kubectl's figures.
func TestScrapedNode(t *testing.T) {
	v := view.New([]*kinds.Kind{kinds.Node, kinds.Pod})
	var s *usage.Sampler
	w, n := newWorldWithNode(t, func(c *apiserver.Config) {
		c.Cache.Feed(v)
		c.Measured = sampled{&s}
	})
	began := time.Now().Add(-time.Minute)
	n.says(func(w http.ResponseWriter, _ *http.Request) {
		now := time.Now()
		for _, c := range []string{"c", "d"} {
			fmt.Fprintf(w, "container_cpu_usage_seconds_total{container=%q,namespace=\"default\",pod=\"a\"} %v %d\n", c, now.Sub(began).Seconds()/4, now.UnixMilli())
			fmt.Fprintf(w, "container_memory_working_set_bytes{container=%q,namespace=\"default\",pod=\"a\"} 1048576 %d\n", c, now.UnixMilli())
		}
		fmt.Fprintf(w, "node_cpu_usage_seconds_total %v %d\nnode_memory_working_set_bytes 4194304 %[2]d\n", now.Sub(began).Seconds(), now.UnixMilli())
	})
	s, err := usage.New(usage.Config{View: v, Scrape: w.server.Scrape})
	if err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		snap := v.Snapshot()
		return view.Get[*corev1.Node](snap, kinds.Node, "", "n1") != nil && view.Get[*corev1.Pod](snap, kinds.Pod, "default", "a") != nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	pod := w.must(t, 200, "GET", metricsAPI+"/namespaces/default/pods/a", "")
	if n.last() != "GET /metrics/resource" || !strings.Contains(pod.raw, `"name":"d","usage":{"cpu":"2`) || !strings.Contains(pod.raw, `"memory":"1Mi"`) {
		t.Errorf("%s %s", n.last(), pod.raw)
	}
	if node := w.must(t, 200, "GET", metricsAPI+"/nodes/n1", ""); node.at("usage.memory") != "4Mi" {
		t.Error(node.raw)
	}
	n.says(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	if _, err := w.server.Scrape(ctx, "n1"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Error(err)
	}
	if _, err := w.server.Scrape(ctx, "n2"); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

// sampled is a sampler that is made after the server.
type sampled struct{ s **usage.Sampler }

func (x sampled) Get(ctx context.Context, k *kinds.Kind, ns, name string) (kinds.Object, error) {
	return (*x.s).Get(ctx, k, ns, name)
}

func (x sampled) List(ctx context.Context, k *kinds.Kind, ns string) ([]kinds.Object, error) {
	return (*x.s).List(ctx, k, ns)
}

// TestMetricsServer: who registers another server for the metrics is given it,
// in process too, and ours answers again when that is gone.
func TestMetricsServer(t *testing.T) {
	w, b, _ := newAggregated(t, func(c *apiserver.Config) { c.Measured = gauges{} })
	w.must(t, 201, "POST", apiURL, `{"metadata":{"name":"v1beta1.metrics.k8s.io","labels":{"kube-aggregator.kubernetes.io/automanaged":"onstart"}},
		"spec":{"group":"metrics.k8s.io","version":"v1beta1","groupPriorityMinimum":100,"versionPriority":100}}`)
	c := w.server.Client(admin)
	ours := func() bool { return strings.Contains(w.must(t, 200, "GET", metricsAPI+"/nodes", "").raw, `"n1"`) }
	if !ours() {
		t.Error("not served")
	}
	w.addService(t)
	w.addSlice(t)
	b.says(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case metricsAPI:
			fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"metrics.k8s.io/v1beta1","resources":[]}`)
			return
		case metricsAPI + "/none":
			w.WriteHeader(http.StatusTeapot)
		}
		fmt.Fprintf(w, "theirs for %s", r.Header.Get("X-Remote-User"))
	})
	const name = apiURL + "/v1beta1.metrics.k8s.io"
	w.must(t, 200, "PATCH", name, `{"spec":{"caBundle":"`+b.bundle+`","service":{"namespace":"default","name":"api"}}}`, "Content-Type", mergeType)
	until(t, func() bool { return strings.Contains(w.must(t, 200, "GET", name, "").raw, `"reason":"Passed"`) })
	if a := w.must(t, 200, "GET", metricsAPI+"/nodes", ""); a.raw != "theirs for admin" {
		t.Error(a.raw)
	}
	if data, err := c.Fetch(t.Context(), metricsAPI+"/nodes", nil); err != nil || string(data) != "theirs for admin" {
		t.Errorf("%s %v", data, err)
	}
	if _, err := c.Fetch(t.Context(), metricsAPI+"/none", nil); err == nil || !strings.Contains(err.Error(), "unexpected answer 418") {
		t.Error(err)
	}
	if _, err := c.Fetch(t.Context(), "/apis/custom.metrics.k8s.io", nil); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	w.must(t, 200, "DELETE", name, "")
	until(t, ours)
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-t.Context().Done():
			t.Fatal("never")
		case <-time.After(10 * time.Millisecond): // there is no other sign
		}
	}
}

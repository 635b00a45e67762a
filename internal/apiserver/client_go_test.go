package apiserver_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"net/http"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/apiserver/discovery"
	"knarr.dev/knarr/internal/kinds"
	storecache "knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/store/mem"
)

type allowAll struct{}

func (allowAll) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// asAdmin takes everybody for the administrator, but "Bearer bad".
type asAdmin struct{}

func (asAdmin) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.Header.Get("Authorization") == "Bearer bad" {
		return nil, false, errors.New("bad token")
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: "admin", Groups: []string{"system:masters"}}}, true, nil
}

type world struct {
	table  *kinds.Table
	store  *mem.Store // unless the test has its own
	server *apiserver.Server
	http   *httptest.Server
	client kubernetes.Interface
}

func newWorld(t testing.TB, edit ...func(*apiserver.Config)) *world {
	t.Helper()
	return newWorldWith(t, storecache.Config{}, edit...)
}

func newWorldWith(t testing.TB, cc storecache.Config, edit ...func(*apiserver.Config)) *world {
	t.Helper()
	table := kinds.Builtin()
	s := mem.New()
	if cc.Store == nil {
		cc.Store = s
	}
	cc.Kinds, cc.Decoded = table.All(), table.All()
	c, err := storecache.New(cc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-c.Ready()
	d, err := discovery.New(table, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	extra := map[string]http.Handler{}
	for _, p := range d.Paths() {
		extra[p] = d
	}
	cfg := apiserver.Config{Kinds: table, Store: cc.Store, Cache: c, Authn: asAdmin{}, Authz: allowAll{}, Extra: extra, ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16")}
	for _, e := range edit {
		e(&cfg)
	}
	srv, err := apiserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(srv.Handler())
	t.Cleanup(func() {
		hs.CloseClientConnections()
		hs.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &world{table: table, store: s, server: srv, http: hs, client: kubernetes.NewForConfigOrDie(&rest.Config{Host: hs.URL, QPS: 1e6, Burst: 1e6})}
}

func testPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func TestTypedClient(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	pods := w.client.CoreV1().Pods("default")
	created, err := pods.Create(ctx, testPod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if created.UID == "" || created.ResourceVersion == "" || created.Status.Phase != corev1.PodPending || created.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("created %+v", created)
	}
	if _, err := pods.Create(ctx, testPod("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("again: %v", err)
	}
	gen := testPod("")
	gen.GenerateName = "gen-"
	if p, err := pods.Create(ctx, gen, metav1.CreateOptions{}); err != nil || !strings.HasPrefix(p.Name, "gen-") || len(p.Name) != 9 {
		t.Errorf("generateName: %v %v", p, err)
	}
	got, err := pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.UID != created.UID {
		t.Fatalf("get: %v", err)
	}
	if _, err := pods.Get(ctx, "zzz", metav1.GetOptions{}); !apierrors.IsNotFound(err) || err.Error() != `pods "zzz" not found` {
		t.Errorf("get of nothing: %v", err)
	}
	got.Labels["x"] = "y"
	updated, err := pods.Update(ctx, got, metav1.UpdateOptions{})
	if err != nil || updated.Labels["x"] != "y" {
		t.Fatalf("update: %v", err)
	}
	if _, err := pods.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale update: %v", err)
	}
	same, err := pods.Update(ctx, updated, metav1.UpdateOptions{})
	if err != nil || same.ResourceVersion != updated.ResourceVersion {
		t.Errorf("an update that changes nothing was written: %v", err)
	}
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "x=y"})
	if err != nil || len(list.Items) != 1 || list.ResourceVersion == "" {
		t.Errorf("list: %v %v", list, err)
	}
	list, err = pods.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=a,spec.nodeName="})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("list by fields: %v %v", list, err)
	}
	if _, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nope=1"}); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown field: %v", err)
	}
	if err := pods.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an unscheduled pod stays after its deletion: %v", err)
	}
}

func TestPatchTypes(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	replicas := int32(2)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}, {Name: "d", Image: "j"}}}}}}
	deps := w.client.AppsV1().Deployments("default")
	if _, err := deps.Create(ctx, d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		t    types.PatchType
		data string
		want func(*appsv1.Deployment) bool
	}{
		{types.JSONPatchType, `[{"op":"replace","path":"/spec/replicas","value":3}]`, func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 3 && d.Generation == 2 }},
		{types.MergePatchType, `{"metadata":{"labels":{"m":"1"}}}`, func(d *appsv1.Deployment) bool { return d.Labels["m"] == "1" }},
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"d","image":"k"}]}}}}`, func(d *appsv1.Deployment) bool {
			return len(d.Spec.Template.Spec.Containers) == 2 && d.Spec.Template.Spec.Containers[1].Image == "k" && d.Spec.Template.Spec.Containers[0].Image == "i"
		}},
	} {
		got, err := deps.Patch(ctx, "d", tc.t, []byte(tc.data), metav1.PatchOptions{})
		if err != nil || !tc.want(got) {
			t.Errorf("%s: %v %+v", tc.t, err, got)
		}
	}
	applied, err := deps.Apply(ctx, appsac.Deployment("d", "default").WithSpec(appsac.DeploymentSpec().WithReplicas(5)), metav1.ApplyOptions{FieldManager: "x"})
	if !apierrors.IsConflict(err) {
		t.Errorf("apply: %v", err)
	}
	applied, err = deps.Apply(ctx, appsac.Deployment("d", "default").WithSpec(appsac.DeploymentSpec().WithReplicas(5)), metav1.ApplyOptions{FieldManager: "x", Force: true})
	if err != nil || *applied.Spec.Replicas != 5 || len(applied.Spec.Template.Spec.Containers) != 2 {
		t.Errorf("apply: %v %+v", err, applied)
	}
	if _, err := deps.Patch(ctx, "d", types.MergePatchType, []byte(`{"spec":{"replicas":-1}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("invalid result: %v", err)
	}
	if _, err := deps.Patch(ctx, "d", types.MergePatchType, []byte(`{"metadata":{"resourceVersion":"1"}}`), metav1.PatchOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale patch: %v", err)
	}
	sc, err := deps.GetScale(ctx, "d", metav1.GetOptions{})
	if err != nil || sc.Spec.Replicas != 5 || sc.Status.Selector != "a=b" {
		t.Fatalf("scale: %+v %v", sc, err)
	}
	sc.Spec.Replicas = 7
	if sc, err = deps.UpdateScale(ctx, "d", sc, metav1.UpdateOptions{}); err != nil || sc.Spec.Replicas != 7 {
		t.Errorf("scaled: %+v %v", sc, err)
	}
	d2, err := deps.Get(ctx, "d", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d2.Status.Replicas, d2.Spec.Paused = 5, true
	if d2, err = deps.UpdateStatus(ctx, d2, metav1.UpdateOptions{}); err != nil || d2.Status.Replicas != 5 || d2.Spec.Paused {
		t.Errorf("status: %+v %v", d2, err)
	}
}

func TestBindAndDeleteGracefully(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	pods := w.client.CoreV1().Pods("default")
	p, err := pods.Create(ctx, testPod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: p.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := pods.Bind(ctx, b, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(ctx, b, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("bound twice: %v", err)
	}
	if err := pods.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err = pods.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 || p.Spec.NodeName != "n1" {
		t.Fatalf("%+v %v", p, err)
	}
	zero := int64(0)
	if err := pods.Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, err = pods.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("still there: %v", err)
	}
}

func TestInformer(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	cms := w.client.CoreV1().ConfigMaps("default")
	if _, err := cms.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f := informers.NewSharedInformerFactory(w.client, 0)
	events := make(chan string, 10)
	inf := f.Core().V1().ConfigMaps().Informer()
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { events <- "add " + o.(*corev1.ConfigMap).Name },
		UpdateFunc: func(_, o any) { events <- "update " + o.(*corev1.ConfigMap).Name },
		DeleteFunc: func(o any) { events <- "delete " + o.(*corev1.ConfigMap).Name },
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	f.Start(stop)
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-events:
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("no %q", want)
		}
	}
	expect("add a")
	if _, err := cms.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"k":"v"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("update a")
	if err := cms.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("delete a")
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	cms := w.client.CoreV1().ConfigMaps("default")
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		if _, err := cms.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	first, err := cms.List(ctx, metav1.ListOptions{Limit: 2})
	if err != nil || len(first.Items) != 2 || first.Continue == "" || *first.RemainingItemCount != 3 {
		t.Fatalf("%+v %v", first, err)
	}
	if err := cms.Delete(ctx, "d", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	rest, err := cms.List(ctx, metav1.ListOptions{Limit: 10, Continue: first.Continue})
	if err != nil || len(rest.Items) != 3 || rest.ResourceVersion != first.ResourceVersion || rest.Continue != "" {
		t.Errorf("the second page is not of the first one's revision: %+v %v", rest, err)
	}
	exact, err := cms.List(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err != nil || len(exact.Items) != 5 {
		t.Errorf("exact: %d items %v", len(exact.Items), err)
	}
	if _, err := cms.List(ctx, metav1.ListOptions{Continue: "nonsense"}); !apierrors.IsBadRequest(err) {
		t.Errorf("broken token: %v", err)
	}
}

func TestServices(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	svcs := w.client.CoreV1().Services("default")
	svc := func(name, ip string, typ corev1.ServiceType, port int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: typ, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}}}
	}
	a, err := svcs.Create(ctx, svc("a", "", corev1.ServiceTypeNodePort, 0), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(a.Spec.ClusterIP, "10.96.") || a.Spec.ClusterIPs[0] != a.Spec.ClusterIP || a.Spec.Ports[0].NodePort < 30000 {
		t.Errorf("%+v", a.Spec)
	}
	if _, err := svcs.Create(ctx, svc("b", a.Spec.ClusterIP, "", 0), metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("taken address: %v", err)
	}
	if _, err := svcs.Create(ctx, svc("b", "192.0.2.1", "", 0), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("address outside: %v", err)
	}
	if _, err := svcs.Create(ctx, svc("b", "", corev1.ServiceTypeNodePort, a.Spec.Ports[0].NodePort), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("taken port: %v", err)
	}
	h, err := svcs.Create(ctx, svc("h", "None", "", 0), metav1.CreateOptions{})
	if err != nil || h.Spec.ClusterIP != "None" {
		t.Errorf("headless: %v %v", h, err)
	}
	a.Labels = map[string]string{"x": "y"}
	again, err := svcs.Update(ctx, a, metav1.UpdateOptions{})
	if err != nil || again.Spec.ClusterIP != a.Spec.ClusterIP || again.Spec.Ports[0].NodePort != a.Spec.Ports[0].NodePort {
		t.Errorf("an update moved the service: %+v %v", again, err)
	}
}

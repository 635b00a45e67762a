package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
)

var _ client.Client = (*apiserver.Client)(nil)

// TestInProcessSharesNothing: what a component gives is neither changed nor
// kept, and what it gets from a write is its own.
func TestInProcessSharesNothing(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.server.Client(admin), t.Context()
	given := testPod("a")
	given.Namespace = "default"
	before := given.DeepCopy()
	out, err := c.Create(ctx, refOf("pods", ""), given)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(given, before) {
		t.Errorf("the pipeline changed what it was given:\n%+v", given)
	}
	spoil := func(o any) {
		p := o.(*corev1.Pod)
		p.Labels["app"], p.Spec.Containers[0].Image = "spoiled", "spoiled"
	}
	spoil(given)
	spoil(out)
	stored := func() *corev1.Pod {
		t.Helper()
		a := w.must(t, 200, "GET", podURL+"/a", "")
		p := &corev1.Pod{}
		if err := json.Unmarshal([]byte(a.raw), p); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(a.raw, "spoiled") {
			t.Fatalf("shared: %s", a.raw)
		}
		return p
	}
	next := stored()
	next.Labels["x"] = "y"
	before = next.DeepCopy()
	out, err = c.Update(ctx, refOf("pods", "a"), next)
	if err != nil || !reflect.DeepEqual(next, before) {
		t.Fatalf("update: %v %+v", err, next)
	}
	spoil(out)
	spoil(next)
	stored()
	if out, err = c.Patch(ctx, refOf("pods", "a"), types.MergePatchType, []byte(`{"metadata":{"labels":{"z":"1"}}}`)); err != nil {
		t.Fatal(err)
	}
	spoil(out)
	stored()
	binding := &corev1.Binding{Target: corev1.ObjectReference{Name: "n"}}
	if _, err := c.Create(ctx, refOf("pods", "a").WithSub("binding"), binding); err != nil || !reflect.DeepEqual(binding, &corev1.Binding{Target: corev1.ObjectReference{Name: "n"}}) {
		t.Errorf("binding: %v %+v", err, binding)
	}
	if out, err = c.Delete(ctx, refOf("pods", "a"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	spoil(out)
	stored()
}

// TestInProcess: the same answers as over HTTP.
func TestInProcess(t *testing.T) {
	s, on := audited(t, audit.Blocking, "omitStages: [RequestReceived]\nrules: [{level: Metadata}]")
	w := newWorld(t, func(c *apiserver.Config) {
		on(c)
		c.Authz = rights(func(a authorizer.Attributes) bool {
			of, _ := a.GetFieldSelector()
			return a.GetUser().GetName() == "admin" || len(of) == 1 && of[0].Field == "spec.nodeName" && of[0].Value == a.GetUser().GetName()
		})
	})
	ctx := t.Context()
	nobody := w.server.Client(&user.DefaultInfo{Name: "nobody"})
	_, err := nobody.Get(ctx, refOf("pods", "a"))
	if !apierrors.IsForbidden(err) || err.Error() != `pods "a" is forbidden: User "nobody" cannot get resource "pods" in API group "" in the namespace "default"` {
		t.Errorf("%v", err)
	}
	if e := s.next(t, complete); e.ResponseStatus.Code != 403 || e.User.Username != "nobody" || e.ObjectRef.Resource != "pods" || e.ObjectRef.Name != "a" || e.Verb != "get" {
		t.Errorf("audit: %+v", e)
	}
	c := w.server.Client(admin)
	if _, err := c.Get(ctx, refOf("pods", "a")); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	if _, err := c.Create(ctx, refOf("pods", ""), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "other"}}); !apierrors.IsBadRequest(err) {
		t.Errorf("namespace: %v", err)
	}
	if _, err := c.Create(ctx, refOf("pods", ""), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}}); !apierrors.IsInvalid(err) {
		t.Errorf("invalid: %v", err)
	}
	if _, err := c.Update(ctx, refOf("pods", "a").WithSub("log"), testPod("a")); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("method: %v", err)
	}
	if _, err := c.Patch(ctx, refOf("pods", "a"), types.ApplyCBORPatchType, nil); !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("apply: %v", err)
	}
	out, err := c.Create(ctx, refOf("pods", ""), testPod("a"))
	if err != nil {
		t.Fatal(err)
	}
	pod := out.(*corev1.Pod)
	if _, err := c.Delete(ctx, refOf("pods", "a"), metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("x")}); !apierrors.IsConflict(err) {
		t.Errorf("precondition: %v", err)
	}
	list, err := c.List(ctx, refOf("pods", "").Kind, "default", metav1.ListOptions{LabelSelector: "app=a"})
	if l, ok := list.(*corev1.PodList); err != nil || !ok || len(l.Items) != 1 || l.Items[0].UID != pod.UID || l.ResourceVersion == "" {
		t.Errorf("list: %v %v", list, err)
	}
	if _, err := c.List(ctx, refOf("pods", "").Kind, "", metav1.ListOptions{FieldSelector: "nope=1"}); !apierrors.IsBadRequest(err) {
		t.Errorf("selector: %v", err)
	}
	for selector, forbidden := range map[string]bool{"spec.nodeName=nobody": false, "spec.nodeName=else": true, "": true, "broken": true} {
		if _, err := nobody.List(ctx, refOf("pods", "").Kind, "", metav1.ListOptions{FieldSelector: selector}); apierrors.IsForbidden(err) != forbidden {
			t.Errorf("a right by what is selected, %q: %v", selector, err)
		}
	}
	answer, err := c.Create(ctx, kinds.Ref{Kind: kinds.SelfSubjectReview}, &authenticationv1.SelfSubjectReview{})
	if r, ok := answer.(*authenticationv1.SelfSubjectReview); err != nil || !ok || r.Status.UserInfo.Username != "admin" || len(r.Status.UserInfo.Groups) != 1 {
		t.Errorf("self: %v %v", answer, err)
	}
}

// TestTwoForms: events are one object under two groups.
func TestTwoForms(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.server.Client(admin), t.Context()
	core := refOf("events", "e")
	if _, err := c.Create(ctx, refOf("events", ""), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Namespace: "default", Kind: "Pod", Name: "p"}, Message: "hi"}); err != nil {
		t.Fatal(err)
	}
	k := w.table.ByGVK(eventsv1.SchemeGroupVersion.WithKind("Event"))
	got, err := c.Get(ctx, kinds.Ref{Kind: k, Namespace: "default", Name: "e"})
	if e, ok := got.(*eventsv1.Event); err != nil || !ok || e.Note != "hi" || e.Regarding.Name != "p" || e.ResourceVersion == "" {
		t.Fatalf("%v %v", got, err)
	}
	const url = "/apis/events.k8s.io/v1/namespaces/default/events/e"
	watch := w.watch(t, "/apis/events.k8s.io/v1/events?watch=1")
	if e, _ := watch.next(); e.Type != "ADDED" || e.Object.Metadata.Name != "e" {
		t.Errorf("%v", e)
	}
	a := w.must(t, 200, "PATCH", url, `{"metadata":{"labels":{"a":"b"}}}`, "Content-Type", mergeType)
	if a.at("kind") != "Event" || a.at("apiVersion") != "events.k8s.io/v1" || a.at("note") != "hi" {
		t.Errorf("%s", a.raw)
	}
	if e, _ := watch.next(); e.Type != "MODIFIED" || e.Object.Metadata.Labels["a"] != "b" {
		t.Errorf("%v", e)
	}
	w.must(t, 200, "DELETE", url, "")
	if _, err := c.Get(ctx, core); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}

func TestReviews(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) {
		c.Authz = rights(func(a authorizer.Attributes) bool {
			f, _ := a.GetFieldSelector()
			return a.GetUser().GetName() == "admin" || a.GetVerb() == "list" && len(f) == 1 && f[0].Value == "n1" || a.GetPath() == "/version"
		})
		c.ReviewToken = nil
	})
	c, ctx := w.server.Client(admin), t.Context()
	sar := kinds.Ref{Kind: kinds.SubjectAccessReview}
	for name, tc := range map[string]struct {
		spec authorizationv1.SubjectAccessReviewSpec
		want bool
	}{
		"refused": {authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods"}}, false},
		"by field": {authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods",
			FieldSelector: &authorizationv1.FieldSelectorAttributes{RawSelector: "spec.nodeName=n1"}}}, true},
		"by requirement": {authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods",
			FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{"n1"}}}}}}, true},
		"path": {authorizationv1.SubjectAccessReviewSpec{User: "u", NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/version"}}, true},
	} {
		out, err := c.Create(ctx, sar, &authorizationv1.SubjectAccessReview{Spec: tc.spec})
		if r, ok := out.(*authorizationv1.SubjectAccessReview); err != nil || !ok || r.Status.Allowed != tc.want {
			t.Errorf("%s: %v %v", name, out, err)
		}
	}
	const base = "/apis/authorization.k8s.io/v1/"
	w.must(t, 422, "POST", base+"subjectaccessreviews", `{"spec":{"resourceAttributes":{"verb":"get"}}}`)
	w.must(t, 422, "POST", base+"selfsubjectaccessreviews", `{"spec":{}}`)
	w.must(t, 422, "POST", base+"namespaces/default/localsubjectaccessreviews", `{"spec":{"user":"u","resourceAttributes":{"namespace":"other"}}}`)
	a := w.must(t, 201, "POST", base+"namespaces/default/localsubjectaccessreviews", `{"spec":{"user":"admin","resourceAttributes":{"namespace":"default","verb":"get"}},"status":{"allowed":false}}`)
	if a.at("status.allowed") != true {
		t.Errorf("%s", a.raw)
	}
	// What a client claims as the answer does not stay.
	a = w.must(t, 201, "POST", base+"subjectaccessreviews", `{"spec":{"user":"u","resourceAttributes":{"verb":"get"}},"status":{"allowed":true,"reason":"mine"}}`)
	if a.at("status.allowed") != false || a.at("status.reason") != nil {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 501, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"x"}}`)
	w.must(t, 201, "POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"s"}}`)
	w.must(t, 501, "POST", "/api/v1/namespaces/default/serviceaccounts/s/token", `{"spec":{}}`)
}

func TestScaleInProcess(t *testing.T) {
	w := newWorld(t)
	c, ctx := w.server.Client(admin), t.Context()
	w.must(t, 201, "POST", "/apis/apps/v1/namespaces/default/deployments", `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	ref := kinds.Ref{Kind: kinds.Deployment, Namespace: "default", Name: "d", Sub: "scale"}
	out, err := c.Get(ctx, ref)
	s, ok := out.(*autoscalingv1.Scale)
	if err != nil || !ok || s.Spec.Replicas != 1 {
		t.Fatalf("%v %v", out, err)
	}
	s.Spec.Replicas = 4
	if _, err := c.Update(ctx, ref, s); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Update(ctx, ref, s); !apierrors.IsConflict(err) {
		t.Errorf("stale: %v", err)
	}
	for field, value := range map[string]string{"uid": `"x"`, "resourceVersion": `"1"`} {
		if _, err := c.Patch(ctx, ref, types.MergePatchType, []byte(`{"metadata":{"`+field+`":`+value+`}}`)); !apierrors.IsConflict(err) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := c.Patch(ctx, ref, types.MergePatchType, []byte(`{"spec":{"replicas":-1}}`)); !apierrors.IsInvalid(err) {
		t.Errorf("%v", err)
	}
	if a := w.must(t, 200, "GET", "/apis/apps/v1/namespaces/default/deployments/d", ""); a.at("spec.replicas") != 4.0 || a.at("metadata.generation") != 2.0 {
		t.Errorf("%s", a.raw)
	}
}

// TestAllocations: whoever asks at the same time, nobody gets what another has.
func TestAllocations(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) {
		c.ServiceCIDR, c.NodePorts = netip.MustParsePrefix("10.96.0.0/26"), [2]int{30000, 30029}
	})
	c, ctx := w.server.Client(admin), t.Context()
	ref := refOf("services", "")
	service := func(name, ip string, port int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}}}
	}
	var mu sync.Mutex
	ips, ports := map[string]int{}, map[int32]int{}
	var wg sync.WaitGroup
	full := 0
	for i := range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			out, err := c.Create(ctx, ref, service(fmt.Sprintf("s%d", i), "", 0))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if !strings.Contains(err.Error(), "range is full") {
					t.Error(err)
				}
				full++
				return
			}
			svc := out.(*corev1.Service)
			ips[svc.Spec.ClusterIP]++
			ports[svc.Spec.Ports[0].NodePort]++
		}()
	}
	wg.Wait()
	// Without a request for an address, the first 16 of such a range wait for one.
	if len(ips) != 30 || len(ports) != 30 || full != 10 {
		t.Errorf("%d addresses, %d ports, %d were told that it is full", len(ips), len(ports), full)
	}
	for ip := range ips {
		if a := netip.MustParseAddr(ip); a.Compare(netip.MustParseAddr("10.96.0.17")) < 0 || a.Compare(netip.MustParseAddr("10.96.0.62")) > 0 {
			t.Errorf("address %s", ip)
		}
	}
	// What a deletion frees can be had at once, and only once.
	var freed *corev1.Service
	for i := 0; freed == nil; i++ {
		out, err := c.Delete(ctx, refOf("services", fmt.Sprintf("s%d", i)), metav1.DeleteOptions{})
		if err == nil {
			freed = out.(*corev1.Service)
		}
	}
	got := 0
	for i := range 10 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := c.Create(ctx, ref, service(fmt.Sprintf("again%d", i), freed.Spec.ClusterIP, freed.Spec.Ports[0].NodePort))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got++
			} else if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if got != 1 {
		t.Errorf("%d services got the same address", got)
	}
}

func TestServiceUpdates(t *testing.T) {
	w := newWorld(t)
	const url = "/api/v1/namespaces/default/services"
	a := w.must(t, 201, "POST", url+"?dryRun=All", `{"metadata":{"name":"s"},"spec":{"clusterIP":"10.96.0.9","ports":[{"port":80}]}}`)
	if a.at("spec.clusterIP") != "10.96.0.9" {
		t.Errorf("%s", a.raw)
	}
	a = w.must(t, 201, "POST", url, `{"metadata":{"name":"s"},"spec":{"clusterIP":"10.96.0.9","ports":[{"port":80}]}}`)
	if a.at("spec.ports") == nil || strings.Contains(a.raw, "nodePort") {
		t.Errorf("%s", a.raw)
	}
	patch := func(code int, body string) answer {
		t.Helper()
		return w.must(t, code, "PATCH", url+"/s", body, "Content-Type", strategicType)
	}
	a = patch(200, `{"spec":{"type":"NodePort"}}`)
	if !strings.Contains(a.raw, `"nodePort":3`) || a.at("spec.clusterIP") != "10.96.0.9" {
		t.Errorf("%s", a.raw)
	}
	port := a.raw[strings.Index(a.raw, `"nodePort":`)+11:][:5]
	a = w.must(t, 200, "PUT", url+"/s", `{"metadata":{"name":"s"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`)
	if !strings.Contains(a.raw, `"nodePort":`+port) || a.at("spec.clusterIP") != "10.96.0.9" {
		t.Errorf("an update without what was allocated lost it: %s", a.raw)
	}
	w.must(t, 422, "POST", url, `{"metadata":{"name":"u"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":`+port+`}]}}`)
	w.must(t, 422, "POST", url, `{"metadata":{"name":"u"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":80}]}}`)
	for _, ip := range []string{"10.96.0.0", "10.96.255.255", "192.0.2.1", "10.96.0.9"} {
		w.must(t, 422, "POST", url, `{"metadata":{"name":"u"},"spec":{"clusterIP":"`+ip+`","ports":[{"port":80}]}}`)
	}
	a = patch(200, `{"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local"}}`)
	if health, _ := a.at("spec.healthCheckNodePort").(float64); health < 30000 {
		t.Errorf("%s", a.raw)
	}
	a = patch(200, `{"spec":{"type":"ClusterIP","externalTrafficPolicy":null}}`)
	if strings.Contains(fmt.Sprint(a.at("spec")), "odePort") {
		t.Errorf("%s", a.raw)
	}
	a = patch(200, `{"spec":{"type":"ExternalName","externalName":"example.com"}}`)
	if a.at("spec.clusterIP") != nil {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 201, "POST", url, `{"metadata":{"name":"u"},"spec":{"clusterIP":"10.96.0.9","ports":[{"name":"u","port":80,"protocol":"UDP"},{"name":"t","port":80,"protocol":"TCP"}]}}`)
}

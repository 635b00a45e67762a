package endpoints

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func ptr[T any](v T) *T { return &v }

func service(opts ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "svc", Labels: map[string]string{"team": "x"}},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, ClusterIP: "10.96.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

// slice of the service; endpoints are "name address state" with state r(eady),
// n(ot ready), t(erminating) or p(ublished although terminating).
func slice(name string, port int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(service(), kinds.Service.GVK)},
			Labels: map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: sliceManager}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	if port != 0 {
		s.Ports = []discoveryv1.EndpointPort{{Name: ptr("http"), Port: &port, Protocol: ptr(corev1.ProtocolTCP)}}
	}
	for _, e := range endpoints {
		f := strings.Fields(e)
		ready, terminating := f[2] == "r" || f[2] == "p", f[2] == "t" || f[2] == "p"
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{f[1]}, NodeName: ptr("n1"), TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: f[0]},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: &terminating},
		})
	}
	return s
}

func show(e *corev1.Endpoints) string {
	var lines []string
	for _, s := range e.Subsets {
		var text []string
		for _, a := range s.Addresses {
			text = append(text, a.TargetRef.Name+"="+a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			text = append(text, "!"+a.TargetRef.Name+"="+a.IP)
		}
		for _, p := range s.Ports {
			text = append(text, fmt.Sprintf("%s:%d/%s", p.Name, p.Port, p.Protocol))
		}
		lines = append(lines, strings.Join(text, " "))
	}
	return strings.Join(lines, "\n")
}

func TestEndpointsSayWhatSlicesSay(t *testing.T) {
	headless := service(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	foreign := slice("f", 80, "x 10.0.0.9 r")
	foreign.Labels[discoveryv1.LabelManagedBy] = "me"
	other := slice("o", 80, "x 10.0.0.9 r")
	other.OwnerReferences[0].UID = "former"
	v6 := slice("v6", 80, "x fd00::1 r")
	v6.AddressType = discoveryv1.AddressTypeIPv6
	for _, tt := range []struct {
		name   string
		svc    *corev1.Service
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{"nothing", service(), nil, ""},
		{"placeholder", service(), []*discoveryv1.EndpointSlice{slice("a", 0)}, ""},
		{"states", service(), []*discoveryv1.EndpointSlice{slice("a", 80, "c 10.0.0.3 r", "a 10.0.0.1 n", "b 10.0.0.2 r", "d 10.0.0.4 t", "e 10.0.0.5 p")}, "b=10.0.0.2 c=10.0.0.3 e=10.0.0.5 !a=10.0.0.1 http:80/TCP"},
		{"two ports", service(), []*discoveryv1.EndpointSlice{slice("a", 81, "a 10.0.0.1 r"), slice("b", 80, "b 10.0.0.2 r"), slice("c", 80, "c 10.0.0.3 r")}, "b=10.0.0.2 c=10.0.0.3 http:80/TCP\na=10.0.0.1 http:81/TCP"},
		{"in two slices for a moment", service(), []*discoveryv1.EndpointSlice{slice("a", 80, "a 10.0.0.1 r"), slice("b", 80, "a 10.0.0.1 r")}, "a=10.0.0.1 http:80/TCP"},
		{"no ports", headless, []*discoveryv1.EndpointSlice{slice("a", 0, "a 10.0.0.1 r")}, "a=10.0.0.1"},
		{"not ours", service(), []*discoveryv1.EndpointSlice{foreign, other, v6}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := Plan(Observed{Service: tt.svc, Slices: tt.slices})
			if len(res.Actions) != 1 || res.Actions[0].Verb != plan.Create {
				t.Fatalf("actions %+v", res.Actions)
			}
			e := res.Actions[0].Object.(*corev1.Endpoints)
			if got := show(e); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			_, isHeadless := e.Labels[corev1.IsHeadlessService]
			if e.Labels["team"] != "x" || e.Labels[labelManagedBy] != managedBy || isHeadless != (tt.svc == headless) {
				t.Errorf("labels %v", e.Labels)
			}
			if again := Plan(Observed{Service: tt.svc, Slices: tt.slices, Have: e}).Actions; len(again) > 0 {
				t.Errorf("planning again gives %+v", again)
			}
			reversed := slices.Clone(tt.slices)
			slices.Reverse(reversed)
			if again := Plan(Observed{Service: tt.svc, Slices: reversed, Have: e}).Actions; len(again) > 0 {
				t.Errorf("the order of the slices matters: %+v", again)
			}
		})
	}
}

func TestAtMostAThousand(t *testing.T) {
	var list []*discoveryv1.EndpointSlice
	for i, n := range []int{600, 600, 3} {
		var eps []string
		for j := range n {
			eps = append(eps, fmt.Sprintf("p 10.%d.%d.%d r", i, j/250, j%250+1))
		}
		eps = append(eps, fmt.Sprintf("q 10.%d.9.9 n", i))
		list = append(list, slice(fmt.Sprint(i), int32(80+i), eps...))
	}
	e := Plan(Observed{Service: service(), Slices: list}).Actions[0].Object.(*corev1.Endpoints)
	total, least := 0, 1000
	for _, s := range e.Subsets {
		total += len(s.Addresses) + len(s.NotReadyAddresses)
		least = min(least, len(s.Addresses))
	}
	if total != 1000 || len(e.Subsets) != 3 || least == 0 || e.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("%d addresses in %d subsets, the least has %d, annotations %v", total, len(e.Subsets), least, e.Annotations)
	}
	e = Plan(Observed{Service: service(), Slices: list[:1], Have: e}).Actions[0].Object.(*corev1.Endpoints)
	if _, over := e.Annotations[corev1.EndpointsOverCapacity]; over {
		t.Error("the annotation stays although all fit")
	}
}

func TestWhoseEndpointsAre(t *testing.T) {
	mine := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "e", Labels: map[string]string{labelManagedBy: managedBy}}}
	theirs := mine.DeepCopy()
	theirs.Labels = nil
	for _, tt := range []struct {
		name string
		o    Observed
		want string
	}{
		{"service gone", Observed{Have: mine}, "delete"},
		{"never had a service", Observed{Have: theirs}, ""},
		{"a name elsewhere", Observed{Have: mine, Service: service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName })}, "delete"},
		{"no selector", Observed{Have: theirs, Service: service(func(s *corev1.Service) { s.Spec.Selector = nil })}, ""},
		{"taken over", Observed{Have: theirs, Service: service()}, "update"},
		{"neither", Observed{}, ""},
	} {
		var got []string
		for _, a := range Plan(tt.o).Actions {
			got = append(got, string(a.Verb))
			if a.Verb == plan.Delete && a.UID != "e" {
				t.Errorf("%s: no precondition", tt.name)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, got, tt.want)
		}
	}
}

func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Service, kinds.EndpointSlice, kinds.Endpoints}, view.SlicesByService)
	rest := func() string {
		t.Helper()
		if _, err := w.Drive(1, 100, 0, Controller()); err != nil {
			t.Fatal(err)
		}
		if e, ok := w.Object(kinds.Endpoints, "default", "web").(*corev1.Endpoints); ok {
			return show(e)
		}
		return "none"
	}
	w.Put(kinds.Service, service())
	w.Put(kinds.EndpointSlice, slice("a", 80, "a 10.0.0.1 r"))
	if got := rest(); got != "a=10.0.0.1 http:80/TCP" {
		t.Error(got)
	}
	w.Put(kinds.EndpointSlice, slice("a", 80, "a 10.0.0.1 n"))
	if got := rest(); got != "!a=10.0.0.1 http:80/TCP" {
		t.Error(got)
	}
	broken := w.Object(kinds.Endpoints, "default", "web").DeepCopyObject().(*corev1.Endpoints)
	broken.Subsets = nil
	w.Put(kinds.Endpoints, broken)
	if got := rest(); got != "!a=10.0.0.1 http:80/TCP" {
		t.Error(got)
	}
	w.Remove(kinds.Service, "default", "web")
	if got := rest(); got != "none" {
		t.Error(got)
	}
}

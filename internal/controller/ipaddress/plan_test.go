package ipaddress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

var noon = time.Unix(1_700_000_000, 0)

func service(name string, age time.Duration) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, CreationTimestamp: metav1.NewTime(noon.Add(-age))},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIPs: []string{"10.0.0.1"}}}
}

func address(parent string, age time.Duration, change ...func(*networkingv1.IPAddress)) *networkingv1.IPAddress {
	a := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.0.0.1", UID: "u", CreationTimestamp: metav1.NewTime(noon.Add(-age)),
		Labels: map[string]string{networkingv1.LabelManagedBy: manager, networkingv1.LabelIPAddressFamily: "IPv4"}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "n", Name: parent}}}
	for _, c := range change {
		c(a)
	}
	return a
}

func says(res plan.Result) string {
	var out []string
	for _, a := range res.Actions {
		s := string(a.Verb)
		if obj, ok := a.Object.(*networkingv1.IPAddress); ok {
			s += " for " + obj.Spec.ParentRef.Name
		}
		if a.Event != nil {
			s += " " + a.Event.Reason
		}
		out = append(out, s)
	}
	for _, e := range res.Events {
		out = append(out, e.Reason+" "+e.Regarding.Name)
	}
	if res.After > 0 {
		out = append(out, fmt.Sprint("wait ", res.After))
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	foreign := func(a *networkingv1.IPAddress) { a.Labels = nil }
	gateway := func(a *networkingv1.IPAddress) { a.Spec.ParentRef.Resource = "gateways" }
	ending := func(a *networkingv1.IPAddress) { a.DeletionTimestamp = &metav1.Time{Time: noon} }
	outside := service("a", time.Hour)
	outside.Spec.Type, outside.Spec.ClusterIPs = corev1.ServiceTypeExternalName, nil
	other := service("a", time.Hour)
	other.Spec.ClusterIPs = []string{"10.0.0.2"}
	for _, tt := range []struct {
		name string
		o    Observed
		want string
	}{
		{"nothing", Observed{}, ""},
		{"right", Observed{Address: address("a", 0), Services: []*corev1.Service{service("a", 0)}}, ""},
		{"missing", Observed{Services: []*corev1.Service{service("a", 0)}}, "create for a ClusterIPNotAllocated"},
		{"missing for two", Observed{Services: []*corev1.Service{service("a", 0), service("b", time.Hour)}}, "create for b ClusterIPNotAllocated"},
		{"shared", Observed{Address: address("a", 0), Services: []*corev1.Service{service("b", time.Hour), service("a", 0)}}, "ClusterIPAlreadyAllocated b"},
		{"another's", Observed{Address: address("c", 0), Services: []*corev1.Service{service("a", 0)}}, "delete ClusterIPNotAllocated"},
		{"a gateway's", Observed{Address: address("a", 0, gateway), Services: []*corev1.Service{service("a", 0)}}, "delete ClusterIPNotAllocated"},
		{"labels", Observed{Address: address("a", 0, foreign), Services: []*corev1.Service{service("a", 0)}}, "delete"},
		{"on its way out", Observed{Address: address("c", 0, ending), Services: []*corev1.Service{service("a", 0)}}, ""},
		{"not ours", Observed{Address: address("a", time.Hour, foreign)}, ""},
		{"bent", Observed{Address: address("a", 0, gateway)}, "delete IPAddressNotAllocated"},
		{"its service is being written", Observed{Address: address("a", 20*time.Second)}, "wait 41s"},
		{"left behind", Observed{Address: address("a", 61*time.Second)}, "delete IPAddressNotAllocated"},
		{"its service turns inside", Observed{Address: address("a", 20*time.Second), Parent: outside}, "wait 41s"},
		{"its service has turned outside", Observed{Address: address("a", 61*time.Second), Parent: outside}, "delete IPAddressWrongReference"},
		{"its service has another, just now", Observed{Address: address("a", 2*time.Second), Parent: other}, "wait 5s"},
		{"its service has another", Observed{Address: address("a", 6*time.Second), Parent: other}, "delete IPAddressWrongReference"},
	} {
		tt.o.IP, tt.o.Now, tt.o.InRange = netip.MustParseAddr("10.0.0.1"), noon, true
		res := Plan(tt.o)
		if got := says(res); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		slices.Reverse(tt.o.Services)
		if got := says(Plan(tt.o)); got != tt.want {
			t.Errorf("%s: the order of the input matters: %q", tt.name, got)
		}
		if len(res.Actions) > 1 {
			t.Errorf("%s: %d actions", tt.name, len(res.Actions))
		}
		for _, a := range res.Actions {
			if a.Ref.Kind != kinds.IPAddress || a.Ref.Name != "10.0.0.1" || a.Verb == plan.Delete && a.UID != "u" {
				t.Errorf("%s: it touches %+v", tt.name, a.Ref)
			}
		}
	}
	out := Observed{IP: netip.MustParseAddr("10.0.0.1"), Now: noon, Services: []*corev1.Service{service("a", 0)}}
	if got := says(Plan(out)); got != "ClusterIPOutOfRange a" {
		t.Errorf("out of range: %q", got)
	}
}

// TestThroughTheRuntime: however services and addresses are bent, each service
// has its address in the end and nobody else has one.
func TestThroughTheRuntime(t *testing.T) {
	for seed := range uint64(20) {
		w := reconciletest.New([]*kinds.Kind{kinds.Service, kinds.ServiceCIDR, kinds.IPAddress}, view.ServicesByAddress)
		w.Put(kinds.ServiceCIDR, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.0.0.0/24"}}})
		for i := range 4 {
			svc := service(fmt.Sprint("s", i), 0)
			svc.Spec.ClusterIPs = []string{fmt.Sprint("10.0.0.", i+1)}
			w.Put(kinds.Service, svc)
		}
		bent := func(ip, parent string) {
			a := address(parent, 0)
			a.Name, a.UID, a.CreationTimestamp = ip, "", metav1.Time{}
			w.Put(kinds.IPAddress, a)
		}
		bent("10.0.0.1", "s0")
		bent("10.0.0.2", "s0") // another's
		bent("10.0.0.3", "gone")
		bent("10.0.0.99", "gone")
		if _, err := w.Drive(seed, 100, 2*time.Minute, Controller()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range w.Objects(kinds.IPAddress) {
			got = append(got, o.GetName()+"="+o.(*networkingv1.IPAddress).Spec.ParentRef.Name)
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != "10.0.0.1=s0 10.0.0.2=s1 10.0.0.3=s2 10.0.0.4=s3" {
			t.Errorf("seed %d: %s", seed, s)
		}
	}
}

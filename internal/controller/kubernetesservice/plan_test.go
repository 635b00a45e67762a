package kubernetesservice

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func addresses(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Service, kinds.EndpointSlice, kinds.Endpoints})
	servers := addresses("192.168.0.2")
	c, err := Controller(Config{IP: netip.MustParseAddr("10.96.0.1"), Servers: func() []netip.Addr { return servers }, Port: 6443})
	if err != nil {
		t.Fatal(err)
	}
	rest := func() (svc *corev1.Service, ends string) {
		t.Helper()
		if _, err := w.Drive(1, 50, 0, c); err != nil {
			t.Fatal(err)
		}
		svc = w.Object(kinds.Service, "default", "kubernetes").(*corev1.Service)
		s := w.Object(kinds.EndpointSlice, "default", "kubernetes").(*discoveryv1.EndpointSlice)
		e := w.Object(kinds.Endpoints, "default", "kubernetes").(*corev1.Endpoints)
		var a, b []string
		for _, x := range s.Endpoints {
			a = append(a, x.Addresses...)
		}
		for _, x := range e.Subsets[0].Addresses {
			b = append(b, x.IP)
		}
		if strings.Join(a, " ") != strings.Join(b, " ") || *s.Ports[0].Port != e.Subsets[0].Ports[0].Port || s.Labels[discoveryv1.LabelServiceName] != "kubernetes" {
			t.Fatalf("slice %+v and endpoints %+v differ", s, e)
		}
		return svc, strings.Join(a, " ")
	}
	svc, ends := rest()
	if svc.Spec.ClusterIP != "10.96.0.1" || svc.Spec.Ports[0].Port != 443 || svc.Spec.Ports[0].TargetPort.IntVal != 6443 || len(svc.Spec.Selector) > 0 || ends != "192.168.0.2" {
		t.Errorf("service %+v, endpoints %s", svc.Spec, ends)
	}
	n := len(w.Writes)
	if rest(); len(w.Writes) != n {
		t.Errorf("at rest it still writes %v", w.Writes[n:])
	}
	servers = addresses("192.168.0.3", "192.168.0.2", "192.168.0.3")
	if _, ends = rest(); ends != "192.168.0.2 192.168.0.3" {
		t.Errorf("endpoints %s", ends)
	}
	servers = nil
	if _, ends = rest(); ends != "192.168.0.2 192.168.0.3" {
		t.Errorf("endpoints %s, want the old ones while no server is known", ends)
	}
	servers = addresses("192.168.0.9")
	w.Remove(kinds.Service, "default", "kubernetes")
	w.Remove(kinds.EndpointSlice, "default", "kubernetes")
	w.Remove(kinds.Endpoints, "default", "kubernetes")
	if _, ends = rest(); ends != "192.168.0.9" {
		t.Errorf("endpoints %s", ends)
	}
	bent := svc.DeepCopy()
	bent.Spec.Selector, bent.Spec.Ports[0].TargetPort.IntVal, bent.Labels["mine"] = map[string]string{"app": "evil"}, 1234, "stays"
	bent.UID = w.Object(kinds.Service, "default", "kubernetes").GetUID()
	w.Put(kinds.Service, bent)
	if svc, _ = rest(); len(svc.Spec.Selector) > 0 || svc.Spec.Ports[0].TargetPort.IntVal != 6443 || svc.Labels["mine"] != "stays" {
		t.Errorf("service %+v", svc)
	}
	servers = addresses("fd00::9")
	if _, ends = rest(); ends != "fd00::9" {
		t.Errorf("endpoints %s", ends)
	}
}

func TestIdempotent(t *testing.T) {
	o := Observed{IP: netip.MustParseAddr("10.96.0.1"), Servers: addresses("10.0.0.1"), Port: 6443}
	for _, a := range Plan(o).Actions {
		switch obj := a.Object.(type) {
		case *corev1.Service:
			o.Service = obj
		case *discoveryv1.EndpointSlice:
			o.Slice = obj
		case *corev1.Endpoints:
			o.Endpoints = obj
		}
	}
	if again := Plan(o).Actions; len(again) > 0 {
		t.Errorf("planning again gives %+v", again)
	}
	o.Service.DeletionTimestamp = &metav1.Time{}
	o.Service.Spec.Ports = nil
	if as := Plan(o).Actions; len(as) > 0 {
		t.Errorf("a service that is being deleted is repaired: %+v", as)
	}
}

func TestConfig(t *testing.T) {
	some := func() []netip.Addr { return nil }
	for _, c := range []Config{{}, {IP: netip.MustParseAddr("10.96.0.1"), Port: 1}, {IP: netip.MustParseAddr("10.96.0.1"), Servers: some}, {Servers: some, Port: 1}} {
		if _, err := Controller(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

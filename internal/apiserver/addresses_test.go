package apiserver_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/apiserver"
)

// TestAddresses: each address of a service is an object, whatever becomes of
// the service.
func TestAddresses(t *testing.T) {
	w := newWorld(t)
	const services, addresses = "/api/v1/namespaces/default/services", "/apis/networking.k8s.io/v1/ipaddresses"
	taken := func() string {
		t.Helper()
		list, err := w.client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, a := range list.Items {
			ref := a.Spec.ParentRef
			if a.Labels[networkingv1.LabelManagedBy] != "ipallocator.k8s.io" || a.Labels[networkingv1.LabelIPAddressFamily] != "IPv4" || ref.Group != "" || ref.Resource != "services" || ref.Namespace != "default" {
				t.Errorf("%+v", a)
			}
			out = append(out, a.Name+"="+ref.Name)
		}
		return strings.Join(out, " ")
	}
	expect := func(want string) {
		t.Helper()
		if got := taken(); got != want {
			t.Errorf("taken are %q, want %q", got, want)
		}
	}
	create := func(code int, name, ip string) answer {
		t.Helper()
		return w.must(t, code, "POST", services, `{"metadata":{"name":"`+name+`"},"spec":{"clusterIP":"`+ip+`","ports":[{"port":80}]}}`)
	}
	w.must(t, 201, "POST", services+"?dryRun=All", `{"metadata":{"name":"d"},"spec":{"ports":[{"port":80}]}}`)
	create(201, "headless", "None")
	expect("")
	create(201, "a", "10.96.0.9")
	expect("10.96.0.9=a")
	create(422, "b", "10.96.0.9")
	create(409, "a", "10.96.0.10") // what was taken for it is given back
	create(422, "b", "192.0.2.1")
	expect("10.96.0.9=a")
	w.must(t, 201, "POST", addresses, `{"metadata":{"name":"10.96.0.11"},"spec":{"parentRef":{"group":"e.io","resource":"gateways","name":"g"}}}`)
	create(422, "b", "10.96.0.11")
	w.must(t, 200, "DELETE", addresses+"/10.96.0.11", "")
	w.must(t, 200, "PATCH", services+"/a", `{"spec":{"type":"ExternalName","externalName":"example.com"}}`, "Content-Type", mergeType)
	expect("")
	w.must(t, 200, "PATCH", services+"/a", `{"spec":{"type":"ClusterIP","externalName":null,"clusterIP":"10.96.0.12"}}`, "Content-Type", mergeType)
	expect("10.96.0.12=a")
	w.must(t, 200, "DELETE", services+"/a", "")
	expect("")
	free := create(201, "c", "").at("spec.clusterIP")
	expect(fmt.Sprintf("%s=c", free))
	// Somebody has given the address to another service by hand.
	w.must(t, 200, "DELETE", fmt.Sprintf("%s/%s", addresses, free), "")
	create(201, "e", fmt.Sprint(free))
	w.must(t, 200, "DELETE", services+"/c", "")
	expect(fmt.Sprintf("%s=e", free))
}

// TestServiceCIDRs: addresses come from every range that is ready.
func TestServiceCIDRs(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) { c.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/27") })
	const services, cidrs = "/api/v1/namespaces/default/services", "/apis/networking.k8s.io/v1/servicecidrs"
	n := 0
	create := func(code int, ip string) answer {
		t.Helper()
		n++
		return w.must(t, code, "POST", services, fmt.Sprintf(`{"metadata":{"name":"s%d"},"spec":{"clusterIP":%q,"ports":[{"port":80}]}}`, n, ip))
	}
	change := func(code int, method, path, body string, headers ...string) {
		t.Helper()
		w.must(t, code, method, path, body, headers...)
		w.must(t, 200, "GET", cidrs, "") // which waits for the cache, as addresses do not
	}
	status := func(name, value string) {
		t.Helper()
		change(200, "PATCH", cidrs+"/"+name+"/status", `{"status":{"conditions":[{"type":"Ready","status":"`+value+`","reason":"R","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, "Content-Type", mergeType)
	}
	for range 30 {
		create(201, "")
	}
	if a := create(500, ""); !strings.Contains(a.raw, "failed to allocate a serviceIP for Service") || !strings.Contains(a.raw, "range is full") {
		t.Errorf("%s", a.raw)
	}
	if a := create(422, "203.0.113.10"); !strings.Contains(a.raw, "failed to allocate IP 203.0.113.10: the provided network does not match the current range") {
		t.Errorf("%s", a.raw)
	}
	change(201, "POST", cidrs, `{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/27"]}}`)
	change(201, "POST", cidrs, `{"metadata":{"name":"more"},"spec":{"cidrs":["203.0.113.0/29","fd00::/112"]}}`)
	if a := create(201, "").at("spec.clusterIP"); !strings.HasPrefix(fmt.Sprint(a), "203.0.113.") {
		t.Errorf("address %v", a)
	}
	create(422, "203.0.113.0")
	create(422, "203.0.113.7")
	status("more", "False")
	create(422, "203.0.113.5")
	create(500, "")
	status("more", "True")
	for range 5 {
		create(201, "")
	}
	create(500, "")
	// What holds a range is the controller's; here nothing does.
	change(201, "POST", cidrs, `{"metadata":{"name":"held","finalizers":["a/b"]},"spec":{"cidrs":["198.51.100.0/24"]}}`)
	change(200, "DELETE", cidrs+"/held", "")
	create(422, "198.51.100.5")
}

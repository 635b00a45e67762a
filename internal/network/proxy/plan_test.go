package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/network/nettest"
)

// tcpOnly keeps a service's first port, for short tables.
func tcpOnly(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] }

// printed elements of a result, in order.
func printed(r Result) []string {
	t := NewTable()
	t.Put("x", r.Elements())
	d := t.Changes()
	var out []string
	for _, e := range d.Add {
		out = append(out, e.String())
	}
	return out
}

func edit(s *discoveryv1.EndpointSlice, fn func(i int, e *discoveryv1.Endpoint)) *discoveryv1.EndpointSlice {
	for i := range s.Endpoints {
		fn(i, &s.Endpoints[i])
	}
	return s
}

func TestPlan(t *testing.T) {
	yes := true
	internalLocal := corev1.ServiceInternalTrafficPolicyLocal
	lb := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}
	}
	terminating := func(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
		return edit(s, func(_ int, e *discoveryv1.Endpoint) { e.Conditions.Terminating, e.Conditions.Serving = &yes, &yes })
	}
	for _, c := range []struct {
		name   string
		svc    *corev1.Service
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{"two", svc("s", "10.96.0.1", tcpOnly), []*discoveryv1.EndpointSlice{slice("s", podB, podA)}, `
services 10.96.0.1 8080/6 → cluster-2
endpoints 10.96.0.1 8080/6 0 → 10.244.0.2:80
endpoints 10.96.0.1 8080/6 1 → 10.244.0.3:80
hairpin 10.244.0.2
hairpin 10.244.0.3`},
		{"none", svc("s", "10.96.0.1", tcpOnly), nil, `refused 10.96.0.1 8080/6 → refuse`},
		{"not ready", svc("s", "10.96.0.1", tcpOnly), []*discoveryv1.EndpointSlice{slice("s", "!"+podA, far)}, `
services 10.96.0.1 8080/6 → cluster-1
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80`},
		{"ending, but nobody else", svc("s", "10.96.0.1", tcpOnly), []*discoveryv1.EndpointSlice{terminating(slice("s", "!"+far))}, `
services 10.96.0.1 8080/6 → cluster-1
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80`},
		{"ending, and somebody else", svc("s", "10.96.0.1", tcpOnly), []*discoveryv1.EndpointSlice{terminating(slice("s", "!10.244.1.3", far))}, `
services 10.96.0.1 8080/6 → cluster-1
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80`},
		{"in two slices while it moves", svc("s", "10.96.0.1", tcpOnly), []*discoveryv1.EndpointSlice{slice("s", "!"+far), slice("s", far)}, `
services 10.96.0.1 8080/6 → cluster-1
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80`},
		{"dangerous endpoints", svc("s", "10.96.0.1", tcpOnly), []*discoveryv1.EndpointSlice{slice("s", "127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "x")},
			`refused 10.96.0.1 8080/6 → refuse`},
		{"headless", svc("s", "None"), []*discoveryv1.EndpointSlice{slice("s", podA)}, ``},
		{"external name", svc("s", "", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), nil, ``},
		{"somebody else's", svc("s", "10.96.0.1", func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
		}), nil, ``},
		{"node port", svc("s", "10.96.0.1", tcpOnly, nodePort(30000)), []*discoveryv1.EndpointSlice{slice("s", far)}, `
services 10.96.0.1 8080/6 → cluster-1
nodeports 30000/6 → node-1
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80
nodeendpoints 30000/6 0 → 10.244.1.2:80`},
		{"node port, local", svc("s", "10.96.0.1", tcpOnly, nodePort(30000), local), []*discoveryv1.EndpointSlice{slice("s", podA, far)}, `
services 10.96.0.1 8080/6 → cluster-2
nodeports 30000/6 → node-2-local-1
endpoints 10.96.0.1 8080/6 0 → 10.244.0.2:80
endpoints 10.96.0.1 8080/6 1 → 10.244.1.2:80
nodeendpoints 30000/6 0 → 10.244.0.2:80
nodeendpoints 30000/6 local 0 → 10.244.0.2:80
nodeendpoints 30000/6 1 → 10.244.1.2:80
hairpin 10.244.0.2`},
		{"internal local, none here", svc("s", "10.96.0.1", tcpOnly, func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &internalLocal }), []*discoveryv1.EndpointSlice{slice("s", far)},
			`refused 10.96.0.1 8080/6 → discard`},
		{"balancer, guarded", svc("s", "10.96.0.1", tcpOnly, lb, func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/25", "bad"} }), []*discoveryv1.EndpointSlice{slice("s", far)}, `
services 10.96.0.1 8080/6 → cluster-1
services 203.0.113.7 8080/6 → external-1-guarded
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80
endpoints 203.0.113.7 8080/6 0 → 10.244.1.2:80
sources 203.0.113.7 8080/6 192.0.2.0-192.0.2.127`},
		{"balancer that proxies", svc("s", "10.96.0.1", tcpOnly, lb, func(s *corev1.Service) {
			m := corev1.LoadBalancerIPModeProxy
			s.Status.LoadBalancer.Ingress[0].IPMode = &m
		}), nil, `refused 10.96.0.1 8080/6 → refuse`},
		{"external addresses", svc("s", "10.96.0.1", tcpOnly, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.9", "127.0.0.1", "fd00::1"} }), []*discoveryv1.EndpointSlice{slice("s", far)}, `
services 10.96.0.1 8080/6 → cluster-1
services 203.0.113.9 8080/6 → external-1
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80
endpoints 203.0.113.9 8080/6 0 → 10.244.1.2:80`},
		{"sticky", svc("s", "10.96.0.1", tcpOnly, stickyFor(60)), []*discoveryv1.EndpointSlice{slice("s", far)}, `
services 10.96.0.1 8080/6 → cluster-1-sticky
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80
sticky 10.96.0.1 8080/6 → remember-60`},
		{"hints for our zone", svc("s", "10.96.0.1", tcpOnly), []*discoveryv1.EndpointSlice{edit(slice("s", "10.244.1.2", "10.244.1.3"), func(i int, e *discoveryv1.Endpoint) {
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: fmt.Sprintf("z%d", i)}}}
		})}, `
services 10.96.0.1 8080/6 → cluster-1
endpoints 10.96.0.1 8080/6 0 → 10.244.1.3:80`},
		{"hints, but not for all", svc("s", "10.96.0.1", tcpOnly), []*discoveryv1.EndpointSlice{edit(slice("s", "10.244.1.2", "10.244.1.3"), func(i int, e *discoveryv1.Endpoint) {
			if i == 1 {
				e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z1"}}}
			}
		})}, `
services 10.96.0.1 8080/6 → cluster-2
endpoints 10.96.0.1 8080/6 0 → 10.244.1.2:80
endpoints 10.96.0.1 8080/6 1 → 10.244.1.3:80`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(printed(Plan(c.svc, c.slices, Node{Name: "node", Zone: "z1"})), "\n")
			if got != strings.TrimSpace(c.want) {
				t.Errorf("got\n%s\nwant%s", got, c.want)
			}
		})
	}
}

// randomService draws a service of a small world, in which names, addresses
// and ports collide often.
func randomService(t *rapid.T) (*corev1.Service, []*discoveryv1.EndpointSlice) {
	s := svc("s", rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "None"}).Draw(t, "ip"))
	if rapid.Bool().Draw(t, "nodePort") {
		nodePort(int32(rapid.IntRange(30000, 30001).Draw(t, "port")))(s)
		if rapid.Bool().Draw(t, "local") {
			local(s)
		}
	}
	if rapid.Bool().Draw(t, "sticky") {
		stickyFor(int32(rapid.IntRange(1, 2).Draw(t, "seconds")))(s)
	}
	s.Spec.ExternalIPs = rapid.SliceOfDistinct(rapid.SampledFrom([]string{"203.0.113.1", "203.0.113.2"}), rapid.ID).Draw(t, "external")
	var list []*discoveryv1.EndpointSlice
	for range rapid.IntRange(0, 2).Draw(t, "slices") {
		list = append(list, slice("s", rapid.SliceOfDistinct(rapid.SampledFrom([]string{podA, podB, podC, far, "!10.244.1.3", "10.244.1.4"}), rapid.ID).Draw(t, "endpoints")...))
	}
	return s, list
}

// TestPlanProperties: order does not matter; every frontend is served by all
// slots of its class, or refused, never both; no two endpoints share a slot.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, list := randomService(t)
		node := Node{Name: "node"}
		got := printed(Plan(s, list, node))
		if again := printed(Plan(s, rapid.Permutation(list).Draw(t, "order"), node)); !slices.Equal(got, again) {
			t.Fatalf("order matters:\n%v\n%v", got, again)
		}
		tab := NewTable()
		tab.Put("s", Plan(s, list, node).Elements())
		for e := range tab.All() {
			switch e.Set {
			case services, nodePorts:
				no := refused
				if e.Set == nodePorts {
					no = refusedPorts
				}
				if _, both := tab.get(elementID{set: no, key: e.Key}); both {
					t.Fatalf("%s is refused as well", e)
				}
				to := map[Set]Set{services: endpoints, nodePorts: nodeEndpoints}[e.Set]
				seen := map[string]bool{}
				for i := range e.Class.Slots {
					ep, ok := tab.get(elementID{set: to, key: slotKey(e.Key, i)})
					if !ok || seen[ep.Val] {
						t.Fatalf("%s: slot %d missing or doubled", e, i)
					}
					seen[ep.Val] = true
				}
				for i := range e.Class.Locals {
					if ep, ok := tab.get(elementID{set: to, key: slotKey(e.Key, localBase+i)}); !ok || !seen[ep.Val] {
						t.Fatalf("%s: local slot %d missing or not an endpoint", e, i)
					}
				}
			}
		}
	})
}

// TestTable: applying the changes, in whatever order services come and go,
// gives what a fresh table holds; nothing changed means no changes.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := NewTable()
		kernel := map[elementID]Element{}
		now := map[string][]Element{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "service")
				s, list := randomService(t)
				now[name] = Plan(s, list, Node{Name: "node"}).Elements()
				tab.Put(name, now[name])
			},
			"remove": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "service")
				delete(now, name)
				tab.Put(name, nil)
			},
			"apply": func(t *rapid.T) {
				d := tab.Changes()
				for _, e := range d.Del {
					if kernel[e.id()] != e {
						t.Fatalf("deletes %s, which is not there", e)
					}
					delete(kernel, e.id())
				}
				for _, e := range d.Add {
					if _, there := kernel[e.id()]; there {
						t.Fatalf("adds %s twice", e)
					}
					kernel[e.id()] = e
				}
				if again := tab.Changes(); !again.Empty() {
					t.Fatalf("changes without a change: %v", again)
				}
				fresh := NewTable()
				for name, e := range now {
					fresh.Put(name, e)
				}
				want := map[elementID]Element{}
				for e := range fresh.All() {
					want[e.id()] = e
				}
				if !maps.Equal(kernel, want) {
					t.Fatalf("kernel holds %d elements, want %d", len(kernel), len(want))
				}
			},
		})
	})
}

// many services of n endpoints each.
func many(count, n int) *Table {
	t := NewTable()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range count {
		t.Put(fmt.Sprintf("default/s%d", i), bigService(i, n, rng).Elements())
	}
	return t
}

func bigService(i, n int, rng *rand.Rand) Result {
	s := svc(fmt.Sprintf("s%d", i), netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), tcpOnly)
	var addrs []string
	for len(addrs) < n {
		a := netip.AddrFrom4([4]byte{10, 244, byte(rng.IntN(250)), byte(1 + rng.IntN(250))}).String()
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return Plan(s, []*discoveryv1.EndpointSlice{slice(s.Name, addrs...)}, Node{Name: "node"})
}

// BenchmarkReplace writes the whole table of 10,000 services with 2 endpoints.
func BenchmarkReplace(b *testing.B) {
	h := nettest.New(b, "node")
	t := many(10_000, 2)
	h.Do(b, func() error {
		k, err := openKernel()
		if err != nil {
			return err
		}
		defer k.close()
		for b.Loop() {
			if err := k.replace(t, ranges{cluster: clusterCIDR, services: []netip.Prefix{serviceCIDR}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkUpdate changes one endpoint of one of 10,000 services.
func BenchmarkUpdate(b *testing.B) {
	h := nettest.New(b, "node")
	t := many(10_000, 2)
	h.Do(b, func() error {
		k, err := openKernel()
		if err != nil {
			return err
		}
		defer k.close()
		if err := k.replace(t, ranges{cluster: clusterCIDR, services: []netip.Prefix{serviceCIDR}}); err != nil {
			return err
		}
		t.Changes()
		rng := rand.New(rand.NewPCG(3, 4))
		for b.Loop() {
			t.Put("default/s7", bigService(7, 2, rng).Elements())
			if err := k.update(t.Changes()); err != nil {
				return err
			}
		}
		return nil
	})
}

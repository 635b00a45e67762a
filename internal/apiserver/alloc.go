package apiserver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds"
)

// allocator gives services their addresses and node ports. What is in use is
// read from the services themselves; only requests in flight are remembered,
// so nothing has to be released or repaired. It serves one apiserver.
type allocator struct {
	cidr  netip.Prefix
	ports [2]int

	mu       sync.Mutex
	inFlight map[any]int // address (string) or port (nodePort) to its requests
}

// nodePort is a port with its protocol: TCP and UDP share numbers.
type nodePort struct {
	port     int32
	protocol corev1.Protocol
}

func newAllocator(cidr netip.Prefix, ports [2]int) *allocator {
	return &allocator{cidr: cidr.Masked(), ports: ports, inFlight: map[any]int{}}
}

// assign fills in what the service needs. release gives back what the request
// holds, once it is stored or has failed.
func (a *allocator) assign(s *Server, k *kinds.Kind, obj, old kinds.Object) (release func(), err error) {
	svc, ok := obj.(*corev1.Service)
	if !ok || k != kinds.Service || !a.cidr.IsValid() {
		return func() {}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var before *corev1.Service
	if o, ok := old.(*corev1.Service); ok {
		before = o
	}
	r := &reservation{allocator: a, used: a.inUse(s, svc)}
	if err = r.address(svc, before); err == nil {
		err = r.nodePorts(svc, before)
	}
	if err != nil {
		r.release()
		return nil, err
	}
	for _, key := range r.taken {
		a.inFlight[key]++
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		r.release()
	}, nil
}

// inUse is what other services have, and what requests in flight will get.
func (a *allocator) inUse(s *Server, self *corev1.Service) map[any]bool {
	used := map[any]bool{}
	for it := range s.cfg.Cache.List(kinds.Service, "").All() {
		svc := it.Object().(*corev1.Service)
		if svc.Namespace == self.Namespace && svc.Name == self.Name {
			continue
		}
		for _, ip := range svc.Spec.ClusterIPs {
			used[ip] = true
		}
		for _, p := range svc.Spec.Ports {
			if p.NodePort != 0 {
				used[nodePort{p.NodePort, p.Protocol}] = true
			}
		}
		if svc.Spec.HealthCheckNodePort != 0 {
			used[nodePort{svc.Spec.HealthCheckNodePort, corev1.ProtocolTCP}] = true
		}
	}
	for key := range a.inFlight {
		used[key] = true
	}
	return used
}

// reservation is what one request takes.
type reservation struct {
	allocator *allocator
	used      map[any]bool
	taken     []any
}

func (r *reservation) take(key any) {
	r.used[key] = true
	r.taken = append(r.taken, key)
}

// release forgets the reservation; the caller holds the lock.
func (r *reservation) release() {
	for _, key := range r.taken {
		if r.allocator.inFlight[key]--; r.allocator.inFlight[key] <= 0 {
			delete(r.allocator.inFlight, key)
		}
	}
	r.taken = nil
}

func (r *reservation) address(svc, before *corev1.Service) error {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
		return nil
	}
	if svc.Spec.ClusterIP == "" && before != nil && before.Spec.ClusterIP != "" {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = before.Spec.ClusterIP, before.Spec.ClusterIPs
	}
	ip := svc.Spec.ClusterIP
	switch {
	case ip == corev1.ClusterIPNone:
		svc.Spec.ClusterIPs = []string{ip}
		return nil
	case ip != "" && before != nil && before.Spec.ClusterIP == ip:
		return nil
	case ip != "":
		return r.given(svc, ip)
	}
	free, ok := r.freeAddress()
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: range is full"))
	}
	r.take(free)
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = free, []string{free}
	return nil
}

// given checks an address that the client asks for.
func (r *reservation) given(svc *corev1.Service, ip string) error {
	path := field.NewPath("spec", "clusterIPs")
	bad := func(why string) error {
		return apierrors.NewInvalid(kinds.Service.GVK.GroupKind(), svc.Name, field.ErrorList{field.Invalid(path, svc.Spec.ClusterIPs, "failed to allocate IP "+ip+": "+why)})
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil || !r.allocator.cidr.Contains(addr) {
		return bad(fmt.Sprintf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, r.allocator.cidr))
	}
	if r.used[ip] {
		return bad("provided IP is already allocated")
	}
	r.take(ip)
	svc.Spec.ClusterIPs = []string{ip}
	return nil
}

// freeAddress tries at random, then in order. The first 16 of the range are
// for addresses that are asked for (the API, DNS), as upstream keeps a band.
func (r *reservation) freeAddress() (string, bool) {
	const band = 16
	size := uint32(1)<<(32-r.allocator.cidr.Bits()) - 1 // without the broadcast address
	if size <= band {
		return "", false
	}
	start := rand.N(size - band)
	for i := range size - band {
		ip := offset(r.allocator.cidr.Addr(), band+(start+i)%(size-band)).String()
		if !r.used[ip] {
			return ip, true
		}
	}
	return "", false
}

func offset(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func (r *reservation) nodePorts(svc, before *corev1.Service) error {
	if svc.Spec.Type != corev1.ServiceTypeNodePort && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		for i := range svc.Spec.Ports {
			svc.Spec.Ports[i].NodePort = 0
		}
		svc.Spec.HealthCheckNodePort = 0
		return nil
	}
	had := map[nodePort]bool{}
	keep := map[string]int32{} // by port name and number: an update keeps its ports
	if before != nil {
		for _, p := range before.Spec.Ports {
			had[nodePort{p.NodePort, p.Protocol}] = true
			keep[portKey(p)] = p.NodePort
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.AllocateLoadBalancerNodePorts != nil && !*svc.Spec.AllocateLoadBalancerNodePorts {
		return nil
	}
	mine := map[nodePort]bool{}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.NodePort == 0 {
			p.NodePort = keep[portKey(*p)]
		}
		if err := r.nodePort(svc, i, had, mine); err != nil {
			return err
		}
	}
	return nil
}

func portKey(p corev1.ServicePort) string { return fmt.Sprintf("%s/%d/%s", p.Name, p.Port, p.Protocol) }

func (r *reservation) nodePort(svc *corev1.Service, i int, had, mine map[nodePort]bool) error {
	p := &svc.Spec.Ports[i]
	bad := func(why string) error {
		return apierrors.NewInvalid(kinds.Service.GVK.GroupKind(), svc.Name,
			field.ErrorList{field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, why)})
	}
	want := nodePort{p.NodePort, p.Protocol}
	lo, hi := r.allocator.ports[0], r.allocator.ports[1]
	switch {
	case p.NodePort == 0:
		start := rand.N(hi - lo + 1)
		for n := range hi - lo + 1 {
			c := nodePort{int32(lo + (start+n)%(hi-lo+1)), p.Protocol}
			if !r.used[c] && !mine[c] && !had[c] {
				r.take(c)
				mine[c] = true
				p.NodePort = c.port
				return nil
			}
		}
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: range is full"))
	case had[want]:
	case int(p.NodePort) < lo || int(p.NodePort) > hi:
		return bad(fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", lo, hi))
	case r.used[want]:
		return bad("provided port is already allocated")
	default:
		r.take(want)
	}
	mine[want] = true
	return nil
}

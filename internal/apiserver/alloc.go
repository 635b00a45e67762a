package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds"
)

// allocator gives services their addresses and node ports. What is in use is
// read from the services themselves; only requests in flight, and those whose
// result the cache has not seen yet, are remembered, so nothing has to be
// repaired. It serves one apiserver.
type allocator struct {
	cidr  netip.Prefix
	ports [2]int
	rand  func(n int) int

	mu       sync.Mutex
	inFlight map[*reservation]bool
}

// nodePort is a port with its protocol: TCP and UDP share numbers.
type nodePort struct {
	port     int32
	protocol corev1.Protocol
}

// reservation is what one request takes. All methods are for nil, too.
type reservation struct {
	allocator *allocator
	used      map[any]bool // address (string) or nodePort
	taken     []any
	rev       int64 // revision at which it was stored; 0: not yet
}

func newAllocator(c Config) *allocator {
	return &allocator{cidr: c.ServiceCIDR.Masked(), ports: c.NodePorts, rand: c.Rand, inFlight: map[*reservation]bool{}}
}

// assign fills in what the service needs. The caller settles the reservation
// once the service is stored, or drops it.
func (a *allocator) assign(ctx context.Context, s *Server, k *kinds.Kind, obj, old kinds.Object) (*reservation, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok || k != kinds.Service || !a.cidr.IsValid() {
		return nil, nil
	}
	before, _ := old.(*corev1.Service)
	r, err := a.try(s, svc, before)
	if err == nil {
		return r, nil
	}
	// What seems to be taken may have been given back a moment ago.
	if err := s.fresh(ctx, "", ""); err != nil {
		return nil, err
	}
	return a.try(s, svc, before)
}

func (a *allocator) try(s *Server, svc, before *corev1.Service) (*reservation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &reservation{allocator: a, used: a.inUse(s, svc)}
	if err := r.address(svc, before); err != nil {
		return nil, err
	}
	if err := r.nodePorts(svc, before); err != nil {
		return nil, err
	}
	r.used = nil
	if len(r.taken) > 0 {
		a.inFlight[r] = true
	}
	return r, nil
}

// settle says at which revision the service was stored: from there on the
// cache knows what it has.
func (r *reservation) settle(rev int64) {
	if r == nil {
		return
	}
	r.allocator.mu.Lock()
	defer r.allocator.mu.Unlock()
	r.rev = rev
}

// drop gives back what was not stored.
func (r *reservation) drop() {
	if r == nil {
		return
	}
	r.allocator.mu.Lock()
	defer r.allocator.mu.Unlock()
	delete(r.allocator.inFlight, r)
}

// inUse is what other services have, and what requests in flight will get.
func (a *allocator) inUse(s *Server, self *corev1.Service) map[any]bool {
	used := map[any]bool{}
	services := s.cfg.Cache.List(kinds.Service, "")
	for it := range services.All() {
		if it.Namespace == self.Namespace && it.Name == self.Name {
			continue
		}
		svc, ok := it.Object().(*corev1.Service)
		if !ok {
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
		if p := svc.Spec.HealthCheckNodePort; p != 0 {
			used[nodePort{p, corev1.ProtocolTCP}] = true
		}
	}
	for r := range a.inFlight {
		if r.rev != 0 && r.rev <= services.Rev {
			delete(a.inFlight, r)
			continue
		}
		for _, key := range r.taken {
			used[key] = true
		}
	}
	return used
}

func (r *reservation) take(key any) {
	r.used[key] = true
	r.taken = append(r.taken, key)
}

// address gives a cluster IP. Preparing an update has kept the one it had.
func (r *reservation) address(svc, before *corev1.Service) error {
	ip := svc.Spec.ClusterIP
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return nil
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
		return apierrors.NewInternalError(errors.New("failed to allocate a serviceIP: range is full"))
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
	if c := r.allocator.cidr; err != nil || !c.Contains(addr) || addr == c.Addr() || addr == offset(c.Addr(), 1<<(32-c.Bits())-1) {
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
	size := 1<<(32-r.allocator.cidr.Bits()) - 1 // without the broadcast address
	if size <= band {
		return "", false
	}
	start := r.allocator.rand(size - band)
	for i := range size - band {
		ip := offset(r.allocator.cidr.Addr(), uint32(band+(start+i)%(size-band))).String()
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

// nodePorts gives the ports that are missing, and checks those that are asked
// for. Preparing an update has kept or dropped what the service had.
func (r *reservation) nodePorts(svc, before *corev1.Service) error {
	had := map[nodePort]bool{}
	if before != nil {
		for _, p := range before.Spec.Ports {
			had[nodePort{p.NodePort, p.Protocol}] = true
		}
		had[nodePort{before.Spec.HealthCheckNodePort, corev1.ProtocolTCP}] = true
	}
	want := svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		(svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts)
	ports := field.NewPath("spec", "ports")
	// The given ones first, so that no other gets them.
	for _, given := range []bool{true, false} {
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			if (p.NodePort != 0) != given || !given && !want {
				continue
			}
			if err := r.nodePort(svc, ports.Index(i).Child("nodePort"), &p.NodePort, p.Protocol, had); err != nil {
				return err
			}
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return r.nodePort(svc, field.NewPath("spec", "healthCheckNodePort"), &svc.Spec.HealthCheckNodePort, corev1.ProtocolTCP, had)
	}
	return nil
}

// nodePort checks *port, or picks one.
func (r *reservation) nodePort(svc *corev1.Service, path *field.Path, port *int32, protocol corev1.Protocol, had map[nodePort]bool) error {
	lo, hi := r.allocator.ports[0], r.allocator.ports[1]
	want := nodePort{*port, protocol}
	why := ""
	switch {
	case *port == 0:
		size := hi - lo + 1
		start := r.allocator.rand(size)
		for n := range size {
			c := nodePort{int32(lo + (start+n)%size), protocol}
			if !r.used[c] && !had[c] {
				r.take(c)
				*port = c.port
				return nil
			}
		}
		return apierrors.NewInternalError(errors.New("failed to allocate a nodePort: range is full"))
	case had[want]:
		return nil
	case int(*port) < lo || int(*port) > hi:
		why = fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", lo, hi)
	case r.used[want]:
		why = "provided port is already allocated"
	default:
		r.take(want)
		return nil
	}
	return apierrors.NewInvalid(kinds.Service.GVK.GroupKind(), svc.Name, field.ErrorList{field.Invalid(path, *port, why)})
}

package apiserver

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds"
)

// allocator gives services their addresses and node ports. An address is taken
// by an IPAddress object of its name, see addresses.go. Which ports are in use
// is read from the services themselves; only requests in flight, and those whose
// result the cache has not seen yet, are remembered, so nothing has to be
// repaired. That is known to one apiserver only: of several over one store, one at
// a time gives ports, see ports.go.
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
	server  *Server
	self    *corev1.Service
	used    map[nodePort]bool // by others; nil: nobody has looked yet
	taken   []nodePort
	rev     int64 // revision at which it was stored; 0: not yet
	address *networkingv1.IPAddress
	unlock  func() // nil: nothing is locked yet
}

func newAllocator(c Config) *allocator {
	return &allocator{cidr: c.ServiceCIDR.Masked(), ports: c.NodePorts, rand: c.Rand, inFlight: map[*reservation]bool{}}
}

// assign fills in what the service needs. The caller settles the reservation
// once the service is stored, or drops it.
func (a *allocator) assign(c *call, s *Server, k *kinds.Kind, obj, old kinds.Object) (*reservation, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok || k != kinds.Service || !a.cidr.IsValid() {
		return nil, nil
	}
	before, _ := old.(*corev1.Service)
	unlock, err := s.lockPorts(c, svc, before)
	if err != nil {
		return nil, err
	}
	r, err := a.try(c, s, svc, before)
	if err != nil {
		// What seems to be taken may have been given back a moment ago.
		if err = s.fresh(c.ctx, "", ""); err == nil {
			r, err = a.try(c, s, svc, before)
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	r.unlock = unlock
	return r, nil
}

// try takes the ports first: they cost nothing to give back.
func (a *allocator) try(c *call, s *Server, svc, before *corev1.Service) (*reservation, error) {
	r := &reservation{server: s, self: svc}
	if err := a.tryPorts(r, svc, before); err != nil {
		return nil, err
	}
	if err := r.giveAddress(c, svc, before); err != nil {
		r.drop()
		return nil, err
	}
	return r, nil
}

func (a *allocator) tryPorts(r *reservation, svc, before *corev1.Service) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := r.nodePorts(svc, before); err != nil {
		return err
	}
	r.used = nil
	if len(r.taken) > 0 {
		a.inFlight[r] = true
	}
	return nil
}

// settle says at which revision the service was stored: from there on the
// cache knows what it has.
func (r *reservation) settle(rev int64) {
	if r == nil {
		return
	}
	a := r.server.alloc
	a.mu.Lock()
	r.rev = rev
	a.mu.Unlock()
	r.unlock()
}

// drop gives back what was not stored.
func (r *reservation) drop() {
	if r == nil {
		return
	}
	a := r.server.alloc
	a.mu.Lock()
	delete(a.inFlight, r)
	a.mu.Unlock()
	if r.unlock != nil {
		r.unlock()
	}
	if r.address != nil {
		r.server.releaseAddress(r.address)
		r.address = nil
	}
}

// isUsed: another service has the port, or a request in flight will get it.
// Services without ports of their own never ask, and cost no look at the others.
func (r *reservation) isUsed(p nodePort) bool {
	if r.used == nil {
		r.used = r.server.alloc.inUse(r.server, r.self)
	}
	return r.used[p]
}

func (a *allocator) inUse(s *Server, self *corev1.Service) map[nodePort]bool {
	used := map[nodePort]bool{}
	services := s.cfg.Cache.List(kinds.Service, "")
	for it := range services.All() {
		if it.Namespace == self.Namespace && it.Name == self.Name {
			continue
		}
		svc, ok := it.Object().(*corev1.Service)
		if !ok {
			continue
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

func (r *reservation) take(p nodePort) {
	if r.used != nil {
		r.used[p] = true
	}
	r.taken = append(r.taken, p)
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
	lo, hi := r.server.alloc.ports[0], r.server.alloc.ports[1]
	want := nodePort{*port, protocol}
	why := ""
	switch {
	case *port == 0:
		size := hi - lo + 1
		start := r.server.alloc.rand(size)
		for n := range size {
			c := nodePort{int32(lo + (start+n)%size), protocol}
			if !r.isUsed(c) && !had[c] {
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
	case r.isUsed(want):
		why = "provided port is already allocated"
	default:
		r.take(want)
		return nil
	}
	return apierrors.NewInvalid(kinds.Service.GVK.GroupKind(), svc.Name, field.ErrorList{field.Invalid(path, *port, why)})
}

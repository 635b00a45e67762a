package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
)

// A service's address is taken by an IPAddress object that bears its name: the
// store lets one request create it, whoever asks, and through whichever server.
// It is written before the service, so that one that is left behind is seen;
// controller/ipaddress removes it.

const (
	// addressManager is what upstream's allocator is called in labels.
	addressManager = "ipallocator.k8s.io"
	// defaultRange is the ServiceCIDR that a controller makes of --service-cidr.
	defaultRange = "kubernetes"
	// releaseTimeout bounds the giving back of an address after its request.
	releaseTimeout = 5 * time.Second
)

var errRangeFull = errors.New("range is full")

// serviceRange is a network that services get addresses from.
type serviceRange struct {
	prefix netip.Prefix
	ready  bool
}

// ranges are the IPv4 networks of all ServiceCIDRs, the default one first. One
// that several objects name is ready if one of them is. Until the default
// object is there, the configuration stands for it.
func (a *allocator) ranges(s *Server) []serviceRange {
	var out []serviceRange
	add := func(at int, p netip.Prefix, ready bool) {
		if i := slices.IndexFunc(out, func(r serviceRange) bool { return r.prefix == p }); i >= 0 {
			out[i].ready = out[i].ready || ready
			return
		}
		out = slices.Insert(out, at, serviceRange{p, ready})
	}
	seen := false
	for it := range s.cfg.Cache.List(kinds.ServiceCIDR, "").All() {
		c, ok := it.Object().(*networkingv1.ServiceCIDR)
		if !ok {
			continue
		}
		at := len(out)
		if c.Name == defaultRange {
			at, seen = 0, true
		}
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
				add(at, p, rangeReady(c))
			}
		}
	}
	if !seen {
		add(0, a.cidr, true)
	}
	return out
}

// rangeReady: a range about which nobody has said anything yet is.
func rangeReady(c *networkingv1.ServiceCIDR) bool {
	if c.DeletionTimestamp != nil {
		return false
	}
	for _, cond := range c.Status.Conditions {
		if cond.Type == networkingv1.ServiceCIDRConditionReady {
			return cond.Status == metav1.ConditionTrue
		}
	}
	return true
}

// giveAddress gives a cluster IP. Preparing an update has kept the one it had.
func (r *reservation) giveAddress(c *call, svc, before *corev1.Service) error {
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
		return r.givenAddress(c, svc, ip)
	}
	for _, rg := range r.server.alloc.ranges(r.server) {
		if !rg.ready {
			continue
		}
		switch free, err := r.freeAddress(c, svc, rg.prefix); {
		case err == nil:
			svc.Spec.ClusterIP, svc.Spec.ClusterIPs = free, []string{free}
			return nil
		case !errors.Is(err, errRangeFull):
			return refuseAddress(svc, "failed to allocate IP: "+err.Error())
		}
	}
	return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", svc.Name, errRangeFull))
}

func refuseAddress(svc *corev1.Service, why string) error {
	return apierrors.NewInvalid(kinds.Service.GVK.GroupKind(), svc.Name, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), svc.Spec.ClusterIPs, why)})
}

// givenAddress takes an address that the client asks for.
func (r *reservation) givenAddress(c *call, svc *corev1.Service, ip string) error {
	bad := func(why string) error { return refuseAddress(svc, "failed to allocate IP "+ip+": "+why) }
	addr, err := netip.ParseAddr(ip)
	if err != nil || !slices.ContainsFunc(r.server.alloc.ranges(r.server), func(rg serviceRange) bool { return rg.ready && usable(rg.prefix, addr) }) {
		return bad("the provided network does not match the current range")
	}
	switch err := r.takeAddress(c, svc, ip); {
	case apierrors.IsAlreadyExists(err):
		return bad("provided IP is already allocated")
	case err != nil:
		return bad(err.Error())
	}
	svc.Spec.ClusterIPs = []string{ip}
	return nil
}

// usable: the network's own address and its broadcast address are nobody's.
func usable(p netip.Prefix, a netip.Addr) bool {
	first := p.Masked().Addr()
	return p.Contains(a) && a != first && a != offset(first, hosts(p)+1)
}

// hosts is the number of addresses between the network's and the broadcast
// address.
func hosts(p netip.Prefix) uint32 {
	return uint32(max(int64(1)<<(32-p.Bits())-2, 0))
}

// band is the part at the beginning of a network that is kept for addresses
// that are asked for, while there are others (KEP-3070's figures).
func band(p netip.Prefix) uint32 {
	size := int64(1) << (32 - p.Bits())
	if size <= 16 {
		return 0
	}
	return uint32(min(max(size/16, 16), 256))
}

// freeAddress tries at random, then in order: above the band first.
func (r *reservation) freeAddress(c *call, svc *corev1.Service, p netip.Prefix) (string, error) {
	n, low := hosts(p), band(p)
	first := p.Masked().Addr().Next()
	for _, part := range [...]struct{ from, size uint32 }{{low, n - min(low, n)}, {0, min(low, n)}} {
		if part.size == 0 {
			continue
		}
		start := uint32(r.server.alloc.rand(int(part.size)))
		for i := range part.size {
			ip := offset(first, part.from+uint32((uint64(start)+uint64(i))%uint64(part.size))).String()
			if r.server.cfg.Cache.Get(kinds.IPAddress, "", ip) != nil {
				continue
			}
			if err := r.takeAddress(c, svc, ip); err == nil || !apierrors.IsAlreadyExists(err) {
				return ip, err
			} // somebody was faster
			if c.ctx.Err() != nil {
				return "", c.ctx.Err()
			}
		}
	}
	return "", errRangeFull
}

func offset(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// self is this server, when it writes something for a request.
func self() user.Info {
	return &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}}
}

func (s *Server) addressCall(ctx context.Context, name, verb string) *call {
	return &call{ctx: ctx, user: self(), ref: kinds.Ref{Kind: kinds.IPAddress, Name: name}, verb: verb, in: &info{verb: verb}, manager: "kube-apiserver", warn: func(string) {}}
}

// takeAddress creates the address's object; AlreadyExists: somebody has it.
func (r *reservation) takeAddress(c *call, svc *corev1.Service, ip string) error {
	s := r.server
	own := s.addressCall(c.ctx, ip, "create")
	own.dryRun = c.dryRun
	out, err := s.create(own, &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol), networkingv1.LabelManagedBy: addressManager,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: c.ref.Namespace, Name: svc.Name}},
	})
	if err == nil && !c.dryRun {
		r.address, _ = out.(*networkingv1.IPAddress)
	}
	return err
}

// releaseAddress removes an address's object. The request that it was for may
// be gone; what fails is repaired by the controller.
func (s *Server) releaseAddress(a *networkingv1.IPAddress) {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	_, _, err := s.delete(s.addressCall(ctx, a.Name, "delete"), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &a.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.log.Warn("cannot give an address back", "address", a.Name, "error", err)
	}
}

// releaseAddresses gives back what a service has no more.
func (s *Server) releaseAddresses(old, obj kinds.Object, removed bool) {
	before, ok := old.(*corev1.Service)
	if !ok {
		return
	}
	after, _ := obj.(*corev1.Service)
	for _, ip := range before.Spec.ClusterIPs {
		if ip != corev1.ClusterIPNone && (removed || after != nil && !slices.Contains(after.Spec.ClusterIPs, ip)) {
			s.releaseFrom(before, ip)
		}
	}
}

// releaseFrom gives back an address if it is the service's. The cache may still
// show who had it before.
func (s *Server) releaseFrom(svc *corev1.Service, ip string) {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	for _, live := range [...]bool{false, true} {
		cur, err := s.lookup(ctx, kinds.Ref{Kind: kinds.IPAddress, Name: ip}, live)
		if err != nil {
			return // it is gone, or the controller finds it
		}
		a, ok := cur.obj.(*networkingv1.IPAddress)
		if !ok || a.Spec.ParentRef == nil {
			continue
		}
		if ref := a.Spec.ParentRef; ref.Group == "" && ref.Resource == "services" && ref.Namespace == svc.Namespace && ref.Name == svc.Name {
			s.releaseAddress(a)
			return
		}
	}
}

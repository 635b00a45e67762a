package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Each of several servers says that it lives by a Lease in kube-system, as
// upstream's API servers do, with the address by which pods reach it.
const (
	identityLabel = "apiserver.kubernetes.io/identity"
	identityValue = "kube-apiserver"
	// addressAnnotation is where upstream writes a list of addresses elsewhere, in
	// etcd's own leases.
	addressAnnotation = "server.knarr.dev/address"

	// serverLife is how long a server counts as living after its last sign.
	serverLife  = 10 * time.Second
	serverRenew = 3 * time.Second
	serverLook  = 2 * time.Second
	// serverSkew is how far clocks may be apart before a lease that has just come
	// into sight is taken for one of the past.
	serverSkew = time.Minute
	// serverForget is when the lease of a server that is gone is deleted; upstream's.
	serverForget = time.Hour
	// serverLeave bounds the last word of a server that stops.
	serverLeave = time.Second
)

// servers are the API servers' addresses, as a controller asks for them.
type servers struct {
	live  func() []netip.Addr
	again time.Duration
}

func (s *control) servers() servers {
	self := netip.MustParseAddr(s.cfg.NodeIP)
	if s.share == nil {
		return servers{live: func() []netip.Addr { return []netip.Addr{self} }}
	}
	return servers{live: func() []netip.Addr { return s.seen.live(serverLeases(s.view.Snapshot()), time.Now()) }, again: serverLook}
}

func serverLeases(s *view.Snapshot) (out []*coordinationv1.Lease) {
	for l := range view.List[*coordinationv1.Lease](s, kinds.Lease, metav1.NamespaceSystem) {
		if l.Labels[identityLabel] == identityValue {
			out = append(out, l)
		}
	}
	return out
}

// seenServers remembers when a lease was seen to change, by this server's clock.
type seenServers struct {
	mu   sync.Mutex
	seen map[string]sign
}

type sign struct{ of, at time.Time }

// live addresses: of those that were renewed lately. A lease that has never been
// seen counts as renewed now, unless it is from long ago.
func (m *seenServers) live(leases []*coordinationv1.Lease, now time.Time) (out []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := map[string]sign{}
	for _, l := range leases {
		addr, err := netip.ParseAddr(l.Annotations[addressAnnotation])
		if err != nil || l.Spec.RenewTime == nil {
			continue
		}
		last, known := m.seen[l.Name]
		switch renewed := l.Spec.RenewTime.Time; {
		case !known && now.Sub(renewed) > serverLife+serverSkew:
			last = sign{of: renewed} // at a time long past
		case !known || !renewed.Equal(last.of):
			last = sign{of: renewed, at: now}
		}
		next[l.Name] = last
		if now.Sub(last.at) < serverLife {
			out = append(out, addr)
		}
	}
	m.seen = next
	return out
}

// register says that this server lives, until ctx ends. Others know it when
// register returns.
func (s *control) register(ctx context.Context, g *errgroup.Group) error {
	id, err := s.identity()
	if err != nil {
		return err
	}
	api := s.as("system:apiserver", user.SystemPrivilegedGroup)
	sum := sha256.Sum256([]byte(id))
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "apiserver-" + hex.EncodeToString(sum[:13]),
		Labels:      map[string]string{identityLabel: identityValue, corev1.LabelHostname: s.cfg.NodeName},
		Annotations: map[string]string{addressAnnotation: s.cfg.NodeIP}}}
	holder, life := lease.Name+"_"+id[strings.LastIndexByte(id, '_')+1:], int32(serverLife/time.Second)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &holder, &life
	if err := renewServer(ctx, api, lease); err != nil {
		return fmt.Errorf("cannot tell the other servers of this one: %w", err)
	}
	g.Go(func() error {
		tick := time.NewTicker(serverRenew)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), serverLeave)
				defer cancel()
				_, _ = api.Delete(leave, kinds.RefTo(kinds.Lease, lease), metav1.DeleteOptions{}) // else it ends by itself
				return nil
			case <-tick.C:
			}
			if err := renewServer(ctx, api, lease); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot tell the other servers that this one lives", "error", err)
			}
			s.forgetServers(ctx, api)
		}
	})
	return nil
}

// renewServer writes the lease whatever stands: it is this server's alone.
func renewServer(ctx context.Context, api client.Client, lease *coordinationv1.Lease) error {
	ctx, cancel := context.WithTimeout(ctx, serverLife/2)
	defer cancel()
	next := lease.DeepCopy()
	now := metav1.NowMicro()
	next.Spec.RenewTime, next.Spec.AcquireTime = &now, &now
	ref := kinds.RefTo(kinds.Lease, next)
	have, err := api.Get(ctx, ref)
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, ref, next)
		return err
	}
	if err != nil {
		return err
	}
	if l, ok := have.(*coordinationv1.Lease); ok {
		next.ResourceVersion, next.UID = l.ResourceVersion, l.UID
		next.Spec.AcquireTime = l.Spec.AcquireTime
	}
	_, err = api.Update(ctx, ref, next)
	return err
}

// forgetServers deletes the leases of servers that are gone for long.
func (s *control) forgetServers(ctx context.Context, api client.Client) {
	for _, l := range serverLeases(s.view.Snapshot()) {
		if l.Spec.RenewTime == nil || time.Since(l.Spec.RenewTime.Time) < serverForget {
			continue
		}
		_, err := api.Delete(ctx, kinds.RefTo(kinds.Lease, l), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &l.UID, ResourceVersion: &l.ResourceVersion}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
			s.log.Warn("cannot delete the lease of a server that is gone", "lease", l.Name, "error", err)
		}
	}
}

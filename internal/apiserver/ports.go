package apiserver

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// portsHeld is the longest that one request keeps other servers from giving node
// ports: a write takes less, or has failed.
const portsHeld = 20 * time.Second

// lockPorts waits until this server is the only one that gives node ports, for a
// service that asks for any, and knows what the others have given. Until unlock
// the request's context ends when the lock does.
func (s *Server) lockPorts(c *call, svc, before *corev1.Service) (unlock func(), err error) {
	if s.cfg.LockPorts == nil || !asksPorts(svc, before) {
		return func() {}, nil
	}
	held, giveBack, err := s.cfg.LockPorts(c.ctx)
	if err != nil {
		s.log.Warn("cannot become the only server that gives node ports", "error", err)
		return nil, apierrors.NewTimeoutError("another server gives node ports for too long, or the store does not answer", 1)
	}
	request := c.ctx
	held, cancel := context.WithTimeout(held, portsHeld)
	once := sync.OnceFunc(giveBack)
	stop := context.AfterFunc(held, once) // whatever becomes of the request
	c.ctx = held
	unlock = func() {
		stop()
		c.ctx = request
		once()
		cancel()
	}
	if err := s.fresh(c.ctx, "", ""); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// asksPorts: the service may need ports that it has not yet.
func asksPorts(svc, before *corev1.Service) bool {
	had := map[nodePort]bool{}
	var check int32
	if before != nil {
		check = before.Spec.HealthCheckNodePort
		for _, p := range before.Spec.Ports {
			had[nodePort{p.NodePort, p.Protocol}] = p.NodePort != 0
		}
	}
	gets := svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
	for _, p := range svc.Spec.Ports {
		if (gets || p.NodePort != 0) && !had[nodePort{p.NodePort, p.Protocol}] {
			return true
		}
	}
	local := gets && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && svc.Spec.Type == corev1.ServiceTypeLoadBalancer
	return svc.Spec.HealthCheckNodePort != check || local && check == 0
}

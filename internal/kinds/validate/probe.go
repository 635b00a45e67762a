package validate

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// handler is what probes and hooks have in common.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func lifecycleHandler(h *corev1.LifecycleHandler) handler {
	return handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}
}

// handler must do exactly one thing.
func (s *podScope) handler(p *field.Path, h handler) {
	n := 0
	one := func(name string, set bool, check func(*field.Path)) {
		if !set {
			return
		}
		if n++; n > 1 {
			s.forbid(p.Child(name), "may not specify more than 1 handler type")
			return
		}
		check(p.Child(name))
	}
	one("exec", h.exec != nil, func(at *field.Path) {
		if len(h.exec.Command) == 0 {
			s.required(at.Child("command"))
		}
	})
	one("httpGet", h.http != nil, func(at *field.Path) { s.httpGet(at, h.http) })
	one("tcpSocket", h.tcp != nil, func(at *field.Path) { s.portOrName(at.Child("port"), h.tcp.Port) })
	one("grpc", h.grpc != nil, func(at *field.Path) {
		s.portOrName(at.Child("port"), intstr.FromInt32(h.grpc.Port))
		if m := h.grpc.Mode; m != nil && *m != corev1.GRPCProbeModePlaintext {
			s.forbid(at.Child("mode"), notYet)
		}
	})
	one("sleep", h.sleep != nil, func(at *field.Path) {
		if g := s.grace(); g != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *g) {
			s.invalid(at, h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *g))
		}
	})
	if n == 0 {
		s.add(field.Required(p, "must specify a handler type"))
	}
}

func (s *podScope) httpGet(p *field.Path, h *corev1.HTTPGetAction) {
	if h.Path == "" {
		s.required(p.Child("path"))
	}
	s.portOrName(p.Child("port"), h.Port)
	oneOf(s.errors, p.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	if h.Protocol != nil {
		s.forbid(p.Child("protocol"), notYet)
	}
	for _, header := range h.HTTPHeaders {
		s.msgs(p.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))
	}
}

// probe once: liveness and startup succeed at the first success.
func (s *podScope) probe(p *field.Path, probe *corev1.Probe, once bool) {
	if probe == nil {
		return
	}
	s.handler(p, handler{exec: probe.Exec, http: probe.HTTPGet, tcp: probe.TCPSocket, grpc: probe.GRPC})
	s.notNegative(p.Child("initialDelaySeconds"), int64(probe.InitialDelaySeconds))
	s.notNegative(p.Child("timeoutSeconds"), int64(probe.TimeoutSeconds))
	s.notNegative(p.Child("periodSeconds"), int64(probe.PeriodSeconds))
	s.notNegative(p.Child("successThreshold"), int64(probe.SuccessThreshold))
	s.notNegative(p.Child("failureThreshold"), int64(probe.FailureThreshold))
	if t := probe.TerminationGracePeriodSeconds; t != nil && *t <= 0 {
		s.invalid(p.Child("terminationGracePeriodSeconds"), *t, "must be greater than 0")
	}
	if once && probe.SuccessThreshold != 1 {
		s.invalid(p.Child("successThreshold"), probe.SuccessThreshold, "must be 1")
	}
}

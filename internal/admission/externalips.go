package admission

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
)

var errExternalIPs = errors.New("Use of external IPs is denied by admission control.") //nolint:staticcheck // upstream's words

// denyExternalIPs lets nobody take over traffic to addresses that are not the
// cluster's (CVE-2020-8554). What a service already has it may keep or lose.
type denyExternalIPs struct{}

func (denyExternalIPs) Name() string { return "DenyServiceExternalIPs" }

func (denyExternalIPs) Mutate(context.Context, *Request) error { return nil }

func (denyExternalIPs) Validate(_ context.Context, r *Request) error {
	svc, ok := r.Object.(*corev1.Service)
	if !ok || r.Ref.Kind != kinds.Service || r.Ref.Sub != "" {
		return nil
	}
	var have []string
	if old, ok := r.Old.(*corev1.Service); ok {
		have = old.Spec.ExternalIPs
	}
	for _, ip := range svc.Spec.ExternalIPs {
		if !slices.Contains(have, ip) {
			return forbid(r, errExternalIPs)
		}
	}
	return nil
}

package view

import (
	"fmt"
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

func TestServiceRanges(t *testing.T) {
	configured := netip.MustParsePrefix("10.96.0.0/16")
	if got := fmt.Sprint(ServiceRanges(New([]*kinds.Kind{kinds.Service}).Snapshot(), configured)); got != "[10.96.0.0/16]" {
		t.Errorf("without the kind: %s", got)
	}
	v := New([]*kinds.Kind{kinds.ServiceCIDR})
	for i, list := range [][]string{{"10.96.0.0/16"}, {"203.0.113.0/24", "fd00::/64"}, {"10.96.3.0/24"}, {"10.0.0.0/24"}, {"203.0.113.128/25"}, {"nonsense"}} {
		v.Apply(Change{Kind: kinds.ServiceCIDR, Rev: int64(i + 1), New: &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: list}}})
	}
	if got := fmt.Sprint(ServiceRanges(v.Snapshot(), configured)); got != "[10.0.0.0/24 10.96.0.0/16 203.0.113.0/24]" {
		t.Errorf("%s", got)
	}
}

package servicecidr

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

var now = time.Unix(1_700_000_000, 0)

func cidr(name string, ending bool, list ...string) *networkingv1.ServiceCIDR {
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{Finalizer}}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: list}}
	if ending {
		at := metav1.NewTime(now.Add(-grace))
		c.DeletionTimestamp = &at
	}
	return c
}

func ips(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// says is what a result does, in a word.
func says(res plan.Result) string {
	switch {
	case len(res.Actions) == 0 && res.After > 0:
		return "wait " + res.After.String()
	case len(res.Actions) == 0:
		return ""
	case len(res.Actions) > 1:
		return "too much"
	}
	a := res.Actions[0]
	c := a.Object.(*networkingv1.ServiceCIDR)
	switch {
	case a.Verb == plan.Create:
		return "create " + c.Name
	case a.Ref.Sub == "status":
		cond := c.Status.Conditions[0]
		return string(cond.Status) + " " + cond.Reason
	case slices.Contains(c.Finalizers, Finalizer):
		return "hold"
	}
	return "let go"
}

func TestPlan(t *testing.T) {
	free := cidr("a", false, "10.0.0.0/24")
	free.Finalizers = []string{"other/one"}
	young := cidr("a", true, "10.0.0.0/24")
	at := metav1.NewTime(now.Add(-4 * time.Second))
	young.DeletionTimestamp = &at
	foreign := cidr("a", true, "10.0.0.0/24")
	foreign.Finalizers = []string{"other/one"}
	for _, tt := range []struct {
		name string
		o    Observed
		want string
	}{
		{"gone", Observed{}, ""},
		{"new", Observed{CIDR: free}, "hold"},
		{"held", Observed{CIDR: cidr("a", false, "10.0.0.0/24")}, "True "},
		{"unused", Observed{CIDR: cidr("a", true, "10.0.0.0/24"), Used: ips("10.0.1.1")}, "let go"},
		{"unused, but a moment ago it was ready", Observed{CIDR: young}, "wait 6s"},
		{"others hold it", Observed{CIDR: foreign, Used: ips("10.0.0.1")}, ""},
		{"used", Observed{CIDR: cidr("a", true, "10.0.0.0/24"), Used: ips("10.0.0.1")}, "False Terminating"},
		{"its own address is nobody's", Observed{CIDR: cidr("a", true, "10.0.0.0/24"), Used: ips("10.0.0.0")}, "let go"},
		{"inside of another", Observed{CIDR: cidr("a", true, "10.0.0.0/24"), All: []*networkingv1.ServiceCIDR{cidr("b", false, "10.0.0.0/16")}, Used: ips("10.0.0.1")}, "let go"},
		{"equal to another", Observed{CIDR: cidr("a", true, "10.0.0.0/24"), All: []*networkingv1.ServiceCIDR{cidr("b", false, "10.0.0.0/24")}, Used: ips("10.0.0.1")}, "let go"},
		{"equal to another that goes too", Observed{CIDR: cidr("a", true, "10.0.0.0/24"), All: []*networkingv1.ServiceCIDR{cidr("b", true, "10.0.0.0/24")}, Used: ips("10.0.0.1")}, "False Terminating"},
		{"another takes over what is used", Observed{CIDR: cidr("a", true, "10.0.0.0/24"), All: []*networkingv1.ServiceCIDR{cidr("b", false, "10.0.0.0/28")}, Used: ips("10.0.0.1")}, "let go"},
		{"another takes over some", Observed{CIDR: cidr("a", true, "10.0.0.0/24"), All: []*networkingv1.ServiceCIDR{cidr("b", false, "10.0.0.0/28")}, Used: ips("10.0.0.1", "10.0.0.100")}, "False Terminating"},
		{"of two families one is used", Observed{CIDR: cidr("a", true, "10.0.0.0/24", "fd00::/64"), All: []*networkingv1.ServiceCIDR{cidr("b", false, "10.0.0.0/24")}, Used: ips("10.0.0.1", "fd00::1")}, "False Terminating"},
	} {
		tt.o.Now = now
		if tt.o.CIDR != nil {
			tt.o.All = append(tt.o.All, tt.o.CIDR)
		}
		before := tt.o.CIDR.DeepCopy()
		res := Plan(tt.o)
		if got := says(res); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		slices.Reverse(tt.o.All)
		slices.Reverse(tt.o.Used)
		if got := says(Plan(tt.o)); got != tt.want {
			t.Errorf("%s: the order of the input matters: %q", tt.name, got)
		}
		for _, a := range res.Actions { // planning again after applying
			again := tt.o
			again.CIDR = a.Object.(*networkingv1.ServiceCIDR)
			if got := says(Plan(again)); got == tt.want {
				t.Errorf("%s: again %q", tt.name, got)
			}
		}
		if tt.o.CIDR != nil && len(before.Status.Conditions) != len(tt.o.CIDR.Status.Conditions) {
			t.Errorf("%s: the input was changed", tt.name)
		}
	}
}

func TestPlanDefault(t *testing.T) {
	if got := says(PlanDefault(nil, []string{"10.0.0.0/24"})); got != "create kubernetes" {
		t.Errorf("%q", got)
	}
	for _, tt := range []struct {
		c      *networkingv1.ServiceCIDR
		events int
	}{{cidr(DefaultName, false, "10.0.0.0/24"), 0}, {cidr(DefaultName, false, "10.1.0.0/24"), 1}, {cidr(DefaultName, true, "10.1.0.0/24"), 0}} {
		if res := PlanDefault(tt.c, []string{"10.0.0.0/24"}); len(res.Actions) > 0 || len(res.Events) != tt.events {
			t.Errorf("%+v", res)
		}
	}
}

// TestThroughTheRuntime: a range lives and waits for its last address.
func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.ServiceCIDR, kinds.IPAddress}, view.EndingServiceCIDRs)
	drive := func(seed uint64, horizon time.Duration) {
		t.Helper()
		if _, err := w.Drive(seed, 50, horizon, Controller(), Default("10.0.0.0/24")); err != nil {
			t.Fatal(err)
		}
	}
	get := func() *networkingv1.ServiceCIDR {
		c, _ := w.Object(kinds.ServiceCIDR, "", DefaultName).(*networkingv1.ServiceCIDR)
		return c
	}
	drive(1, 0)
	c := get()
	if c == nil || !slices.Equal(c.Finalizers, []string{Finalizer}) || len(c.Status.Conditions) != 1 || c.Status.Conditions[0].Status != metav1.ConditionTrue {
		t.Fatalf("%+v", c)
	}
	n := len(w.Writes)
	if drive(2, 0); len(w.Writes) != n {
		t.Errorf("at rest it still writes %v", w.Writes[n:])
	}
	used := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.0.0.1", Labels: map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io"}}}
	w.Put(kinds.IPAddress, used)
	if _, err := w.Delete(t.Context(), kinds.Ref{Kind: kinds.ServiceCIDR, Name: DefaultName}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	drive(3, time.Hour)
	if c = get(); c == nil || c.Status.Conditions[0].Reason != networkingv1.ServiceCIDRReasonTerminating {
		t.Fatalf("%+v", c)
	}
	uid := c.UID
	w.Remove(kinds.IPAddress, "", "10.0.0.1")
	drive(4, time.Hour)
	if c = get(); c == nil || c.UID == uid { // let go, and made anew
		t.Errorf("%+v", c)
	}
}

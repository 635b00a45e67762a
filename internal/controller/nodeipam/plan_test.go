package nodeipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func node(name, cidr string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.NodeSpec{PodCIDR: cidr}}
	if cidr != "" {
		n.Spec.PodCIDRs = []string{cidr}
	}
	return n
}

func given(t *testing.T, res plan.Result) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, a := range res.Actions {
		var b struct {
			Spec struct {
				PodCIDR  string
				PodCIDRs []string
			}
		}
		if err := json.Unmarshal(a.Data, &b); err != nil || a.UID == "" || len(b.Spec.PodCIDRs) != 1 || b.Spec.PodCIDRs[0] != b.Spec.PodCIDR {
			t.Fatalf("bad patch %s (%v)", a.Data, err)
		}
		out[a.Ref.Name] = b.Spec.PodCIDR
	}
	return out
}

func TestPlan(t *testing.T) {
	wide := netip.MustParsePrefix("10.244.0.0/16")
	for _, tt := range []struct {
		name    string
		cluster netip.Prefix
		nodes   []*corev1.Node
		tried   map[types.UID]netip.Prefix
		want    map[string]string
		events  int
	}{
		{"in order", wide, []*corev1.Node{node("b", ""), node("a", "")}, nil, map[string]string{"a": "10.244.0.0/24", "b": "10.244.1.0/24"}, 0},
		{"into the gap", wide, []*corev1.Node{node("a", "10.244.0.0/24"), node("b", "10.244.2.0/24"), node("c", "")}, nil, map[string]string{"c": "10.244.1.0/24"}, 0},
		{"around a larger one", wide, []*corev1.Node{node("a", "10.244.0.0/22"), node("c", "")}, nil, map[string]string{"c": "10.244.4.0/24"}, 0},
		{"around a smaller one", wide, []*corev1.Node{node("a", "10.244.0.64/26"), node("c", "")}, nil, map[string]string{"c": "10.244.1.0/24"}, 0},
		{"past a foreign one", wide, []*corev1.Node{node("a", "10.0.0.0/24"), node("c", "")}, nil, map[string]string{"c": "10.244.0.0/24"}, 0},
		{"not beside one that has all", wide, []*corev1.Node{node("a", "10.0.0.0/8"), node("c", "")}, nil, map[string]string{}, 1},
		{"full", netip.MustParsePrefix("10.9.0.0/23"), []*corev1.Node{node("a", "10.9.0.0/24"), node("b", ""), node("c", "")}, nil, map[string]string{"b": "10.9.1.0/24"}, 1},
		{"tried before", wide, []*corev1.Node{node("a", ""), node("b", "")}, map[types.UID]netip.Prefix{"b": netip.MustParsePrefix("10.244.0.0/24")}, map[string]string{"a": "10.244.1.0/24", "b": "10.244.0.0/24"}, 0},
		{"tried for one that is gone", wide, []*corev1.Node{node("a", "")}, map[types.UID]netip.Prefix{"x": netip.MustParsePrefix("10.244.0.0/24")}, map[string]string{"a": "10.244.0.0/24"}, 0},
		{"nothing to do", wide, []*corev1.Node{node("a", "10.244.0.0/24")}, nil, map[string]string{}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, tried := Plan(Observed{Nodes: tt.nodes, Cluster: tt.cluster, Bits: 24, Tried: tt.tried})
			got := given(t, res)
			if fmt.Sprint(got) != fmt.Sprint(tt.want) || len(res.Events) != tt.events {
				t.Errorf("got %v and %d events, want %v and %d", got, len(res.Events), tt.want, tt.events)
			}
			for name, r := range got {
				if tried[types.UID(name)].String() != r {
					t.Errorf("%s is not remembered: %v", name, tried)
				}
			}
			reversed := slices.Clone(tt.nodes)
			slices.Reverse(reversed)
			res, _ = Plan(Observed{Nodes: reversed, Cluster: tt.cluster, Bits: 24, Tried: tt.tried})
			if other := given(t, res); fmt.Sprint(other) != fmt.Sprint(got) {
				t.Errorf("the order of the nodes matters: %v and %v", got, other)
			}
		})
	}
}

// Nodes come and go and writes fail: no two nodes ever have the same range, and
// each has one in the end.
func TestNeverTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := reconciletest.New([]*kinds.Kind{kinds.Node})
		c, err := Controller(Config{Cluster: netip.MustParsePrefix("10.244.0.0/20")})
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
		w.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
			if rng.IntN(6) == 0 {
				return apierrors.NewInternalError(errors.New("down"))
			}
			return nil
		}
		check := func() {
			seen := map[string]string{}
			for _, o := range w.Objects(kinds.Node) {
				if r := o.(*corev1.Node).Spec.PodCIDR; r != "" {
					if other := seen[r]; other != "" {
						t.Fatalf("%s and %s both have %s", other, o.GetName(), r)
					}
					seen[r] = o.GetName()
				}
			}
		}
		for i := range rapid.IntRange(1, 15).Draw(t, "steps") {
			name := fmt.Sprint("n", rapid.IntRange(0, 7).Draw(t, "node"))
			switch {
			case w.Object(kinds.Node, "", name) == nil:
				n := node(name, "")
				n.UID = ""
				w.Put(kinds.Node, n)
			case rapid.Bool().Draw(t, "remove"):
				w.Remove(kinds.Node, "", name)
			}
			if _, err := w.Drive(uint64(i), 500, 0, c); err != nil {
				t.Fatal(err)
			}
			check()
		}
		w.Hook = nil
		if _, err := w.Drive(1, 500, 0, c); err != nil {
			t.Fatal(err)
		}
		check()
		for _, o := range w.Objects(kinds.Node) {
			if o.(*corev1.Node).Spec.PodCIDR == "" {
				t.Fatalf("%s has no range", o.GetName())
			}
		}
	})
}

// A write that went through although its answer was lost, while the view does
// not show it yet and a node comes in between that sorts before.
func TestLostAnswer(t *testing.T) {
	cluster := netip.MustParsePrefix("10.244.0.0/16")
	_, tried := Plan(Observed{Nodes: []*corev1.Node{node("m", "")}, Cluster: cluster, Bits: 24})
	res, _ := Plan(Observed{Nodes: []*corev1.Node{node("a", ""), node("m", "")}, Cluster: cluster, Bits: 24, Tried: tried})
	if got := given(t, res); got["a"] == "10.244.0.0/24" || got["m"] != "10.244.0.0/24" {
		t.Errorf("got %v", got)
	}
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		cluster string
		bits    int
		ok      bool
	}{{"10.244.0.0/16", 0, true}, {"10.0.0.0/8", 24, true}, {"10.244.0.0/25", 24, false}, {"fd00::/48", 64, false}, {"10.0.0.0/8", 28, false}, {"10.244.0.0/16", 31, false}} {
		if _, err := Controller(Config{Cluster: netip.MustParsePrefix(tt.cluster), Bits: tt.bits}); (err == nil) != tt.ok {
			t.Errorf("%s in /%d: %v", tt.cluster, tt.bits, err)
		}
	}
	if _, err := Controller(Config{}); err == nil {
		t.Error("no range is accepted")
	}
}

package fair

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/user"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// cluster has upstream's objects.
type cluster struct {
	*view.View
	rev int64
	now time.Time
}

func newCluster() *cluster {
	c := &cluster{View: view.New([]*kinds.Kind{kinds.FlowSchema, kinds.PriorityLevelConfiguration}), now: start}
	for _, l := range append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...) {
		c.put(kinds.PriorityLevelConfiguration, l)
	}
	for _, f := range append(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas...) {
		c.put(kinds.FlowSchema, f)
	}
	return c
}

func (c *cluster) put(k *kinds.Kind, o kinds.Object) {
	o = o.DeepCopyObject().(kinds.Object)
	k.Default(o)
	o.SetUID(types.UID(o.GetName() + "-uid"))
	c.rev++
	c.Apply(view.Change{Kind: k, New: o, Rev: c.rev})
}

func (c *cluster) drop(k *kinds.Kind, name string) {
	c.rev++
	c.Apply(view.Change{Kind: k, Old: view.Now[kinds.Object](c.View, k, "", name), Rev: c.rev})
}

func (c *cluster) dispatcher(t testing.TB, seats int) *Dispatcher {
	t.Helper()
	d, err := New(Config{Seats: seats, View: c.View, Now: func() time.Time { return c.now }})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func someone(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}

// gather returns the values of a counter or gauge by its labels.
func gather(t *testing.T, c prometheus.Collector, name string) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			key := strings.TrimSpace(strings.Join([]string{labels["priority_level"], labels["flow_schema"], labels["reason"], labels["request_kind"]}, " "))
			out[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

func TestClassify(t *testing.T) {
	c := newCluster()
	mine := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: flowcontrolv1.FlowSchemaSpec{MatchingPrecedence: 50,
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "workload-low"},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects: []flowcontrolv1.Subject{{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "jane"}}, {Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "a", Name: "bot"}}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{
				{Verbs: []string{"get", "list"}, APIGroups: []string{"", "apps"}, Resources: []string{"pods", "deployments/status"}, Namespaces: []string{"a"}},
				{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"nodes"}, ClusterScope: true}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/logs/*", "/apis"}}},
		}}}}
	c.put(kinds.FlowSchema, mine)
	dangling := mine.DeepCopy()
	dangling.Name, dangling.Spec.MatchingPrecedence, dangling.Spec.PriorityLevelConfiguration.Name = "dangling", 49, "nowhere"
	c.put(kinds.FlowSchema, dangling)
	d := c.dispatcher(t, 600)
	jane := someone("jane")
	for _, tt := range []struct {
		want string
		r    Request
	}{
		{"exempt", Request{User: someone("admin", user.SystemPrivilegedGroup), Verb: "get", Resource: true, Name: "pods", Namespace: "a"}},
		{"probes", Request{User: &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, Verb: "get", Path: "/readyz"}},
		{"probes", Request{User: jane, Verb: "get", Path: "/readyz/etcd"}},
		{"global-default", Request{User: jane, Verb: "post", Path: "/readyz"}},
		{"mine", Request{User: jane, Verb: "list", Resource: true, Name: "pods", Namespace: "a"}},
		{"mine", Request{User: jane, Verb: "get", Resource: true, Group: "apps", Name: "deployments", Sub: "status", Namespace: "a"}},
		{"global-default", Request{User: jane, Verb: "get", Resource: true, Group: "apps", Name: "deployments", Namespace: "a"}},
		{"global-default", Request{User: jane, Verb: "get", Resource: true, Name: "pods", Sub: "log", Namespace: "a"}},
		{"global-default", Request{User: jane, Verb: "list", Resource: true, Name: "pods", Namespace: "b"}},
		{"global-default", Request{User: jane, Verb: "list", Resource: true, Name: "pods"}},
		{"global-default", Request{User: jane, Verb: "list", Resource: true, Group: "batch", Name: "pods", Namespace: "a"}},
		{"global-default", Request{User: jane, Verb: "create", Resource: true, Name: "pods", Namespace: "a"}},
		{"mine", Request{User: jane, Verb: "delete", Resource: true, Name: "nodes"}},
		{"mine", Request{User: jane, Verb: "get", Path: "/logs/x"}},
		{"mine", Request{User: jane, Verb: "get", Path: "/apis/apps"}},
		{"mine", Request{User: someone("system:serviceaccount:a:bot", "system:serviceaccounts"), Verb: "list", Resource: true, Name: "pods", Namespace: "a"}},
		{"service-accounts", Request{User: someone("system:serviceaccount:b:bot", "system:serviceaccounts"), Verb: "list", Resource: true, Name: "pods", Namespace: "a"}},
		{"kube-system-service-accounts", Request{User: someone("system:serviceaccount:kube-system:x", "system:serviceaccounts"), Verb: "list", Resource: true, Name: "pods"}},
		{"system-leader-election", Request{User: someone("system:kube-scheduler"), Verb: "update", Resource: true, Group: "coordination.k8s.io", Name: "leases", Namespace: "kube-system"}},
		{"kube-scheduler", Request{User: someone("system:kube-scheduler"), Verb: "create", Resource: true, Name: "pods", Sub: "binding", Namespace: "a"}},
		{"system-node-high", Request{User: someone("system:node:a", user.NodesGroup), Verb: "patch", Resource: true, Name: "nodes", Sub: "status", Namespace: ""}},
		{"system-nodes", Request{User: someone("system:node:a", user.NodesGroup), Verb: "get", Resource: true, Name: "pods", Namespace: "a"}},
		{"catch-all", Request{User: &user.DefaultInfo{Name: "lost"}, Verb: "get", Path: "/x"}},
	} {
		if got := d.classify(d.current(c.now), &tt.r).name; got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.r, got, tt.want)
		}
	}
}

func TestConfiguration(t *testing.T) {
	c := &cluster{View: view.New([]*kinds.Kind{kinds.FlowSchema, kinds.PriorityLevelConfiguration}), now: start}
	d := c.dispatcher(t, 600)
	jane := &Request{User: someone("jane"), Verb: "get", Resource: true, Name: "pods", Namespace: "a"}
	enter := func() (Ticket, error) { return d.Enter(context.Background(), jane, time.Millisecond) }
	level := func() string {
		t.Helper()
		ticket, err := enter()
		if err != nil {
			t.Fatal(err)
		}
		defer ticket.Done()
		return ticket.schema.level.name
	}
	if got := level(); got != "catch-all" {
		t.Errorf("without objects: %s", got)
	}
	if l := d.state.Load().levels["catch-all"]; l.nominal != 600 {
		t.Errorf("without objects: %d seats", l.nominal)
	}
	full := newCluster()
	for _, k := range []*kinds.Kind{kinds.PriorityLevelConfiguration, kinds.FlowSchema} {
		for o := range view.List[kinds.Object](full.Snapshot(), k, "") {
			c.put(k, o)
		}
	}
	if got := level(); got != "global-default" {
		t.Errorf("with objects: %s", got)
	}
	for name, want := range map[string]int{"system": 74, "workload-low": 245, "global-default": 49, "catch-all": 13, "exempt": 0} { // as upstream's
		if l := d.state.Load().levels[name]; l.nominal != want {
			t.Errorf("%s has %d seats", name, l.nominal)
		}
	}
	held, err := enter()
	if err != nil {
		t.Fatal(err)
	}
	h := map[string][]string{}
	held.Headers(h)
	if h["X-Kubernetes-Pf-Flowschema-Uid"][0] != "global-default-uid" || h["X-Kubernetes-Pf-Prioritylevel-Uid"][0] != "global-default-uid" {
		t.Error(h)
	}
	c.drop(kinds.PriorityLevelConfiguration, "global-default")
	if got := level(); got != "catch-all" {
		t.Errorf("with a schema that dangles: %s", got)
	}
	held.Done()
	held.Done()
	if r := held.schema.level.running; r != 0 {
		t.Errorf("%d run in what is gone", r)
	}
	if got := gather(t, d, "apiserver_flowcontrol_dispatched_requests_total"); len(got) != len(d.state.Load().schemas) || got["catch-all catch-all"] == 0 {
		t.Errorf("%v for %d schemas", got, len(d.state.Load().schemas))
	}
}

func TestRejection(t *testing.T) {
	c := newCluster()
	c.put(kinds.PriorityLevelConfiguration, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "global-default"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: "Limited", Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{BorrowingLimitPercent: new(int32), LimitResponse: flowcontrolv1.LimitResponse{Type: "Reject"}}}})
	d := c.dispatcher(t, 600)
	jane := &Request{User: someone("jane"), Verb: "create", Resource: true, Name: "pods", Namespace: "a", Mutating: true}
	var tickets []Ticket
	var rejected *ErrRejected
	for {
		ticket, err := d.Enter(context.Background(), jane, time.Millisecond)
		if errors.As(err, &rejected) {
			h := map[string][]string{}
			ticket.Headers(h)
			if h["X-Kubernetes-Pf-Flowschema-Uid"][0] != "global-default-uid" {
				t.Error(h)
			}
			break
		}
		tickets = append(tickets, ticket)
	}
	if limit := d.state.Load().levels["global-default"].nominal; len(tickets) != limit || rejected.Reason != "concurrency-limit" || rejected.RetryAfter != 1 || rejected.Schema != "global-default" {
		t.Errorf("%d of %d seats, then %+v", len(tickets), limit, rejected)
	}
	if got := gather(t, d, "apiserver_current_inflight_requests"); got["mutating"] != float64(len(tickets)) || got["readOnly"] != 0 {
		t.Error(got)
	}
	if got := gather(t, d, "apiserver_flowcontrol_rejected_requests_total"); got["global-default global-default concurrency-limit"] != 1 {
		t.Error(got)
	}
	for i := range tickets {
		tickets[i].Done()
	}
	if _, err := d.Enter(context.Background(), jane, time.Millisecond); err != nil {
		t.Error(err)
	}
}

// A level that is asked for borrows what others lend, and gives it back.
func TestBorrowing(t *testing.T) {
	c := newCluster()
	d := c.dispatcher(t, 600)
	low := d.state.Load().levels["global-default"]
	high := d.state.Load().levels["workload-low"]
	before := low.limit
	for range 30 {
		low.push(c.now, low.pick(1), 300)
		c.now = c.now.Add(adjustEvery)
		d.current(c.now)
	}
	if low.limit < 250 || low.limit <= before || high.limit < high.lowest {
		t.Errorf("from %d to %d seats; the lender has %d of at least %d", before, low.limit, high.limit, high.lowest)
	}
	for low.waiting > 0 {
		low.remove(c.now, low.ready[0].first)
	}
	low.seats, low.running = 0, 0
	low.demand.set(c.now, 0)
	for range 300 {
		c.now = c.now.Add(adjustEvery)
		high.demand.set(c.now, 500)
		d.current(c.now)
	}
	if low.limit >= 100 || high.limit < 350 {
		t.Errorf("afterwards %d, the other %d", low.limit, high.limit)
	}
	sum := 0
	for _, l := range d.state.Load().levels {
		sum += l.limit
		if !l.exempt && (l.limit < l.lowest || l.limit > l.highest) {
			t.Errorf("%s: %d seats, from %d to %d", l.name, l.limit, l.lowest, l.highest)
		}
	}
	if sum > 600+2*len(d.state.Load().levels) { // rounded up
		t.Errorf("%d seats in all", sum)
	}
}

func TestAllocate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wishes := make([]wish, rapid.IntRange(1, 10).Draw(t, "levels"))
		var low, high float64
		for i := range wishes {
			w := wish{low: float64(rapid.IntRange(0, 100).Draw(t, "low"))}
			w.high = w.low + float64(rapid.IntRange(0, 500).Draw(t, "high"))
			w.target = w.low + float64(rapid.IntRange(0, 1000).Draw(t, "target"))
			wishes[i], low, high = w, low+w.low, high+w.high
		}
		sum := low + (high-low)*float64(rapid.IntRange(0, 100).Draw(t, "percent"))/100
		shares, f := allocate(sum, wishes)
		var total float64
		for i, s := range shares {
			total += s
			w := wishes[i]
			if fair := min(max(f*max(w.target, smallest), w.low), w.high); math.Abs(s-fair) > 1e-6 || s < w.low || s > w.high {
				t.Fatalf("%+v gets %f of %f", w, s, f)
			}
		}
		if math.Abs(total-sum) > 1e-3*max(1, sum) {
			t.Fatalf("%f given away, not %f", total, sum)
		}
	})
}

// The way in and out must cost nothing worth mentioning: every request goes it.
func TestNoAllocations(t *testing.T) {
	d := newCluster().dispatcher(t, 600)
	for name, r := range map[string]*Request{
		"queues": {User: someone("jane"), Verb: "get", Resource: true, Name: "pods", Namespace: "a"},
		"exempt": {User: someone("admin", user.SystemPrivilegedGroup), Verb: "get", Resource: true, Name: "pods", Sub: "status"},
	} {
		h := map[string][]string{}
		once := func() {
			ticket, err := d.Enter(context.Background(), r, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			ticket.Headers(h)
			ticket.Done()
		}
		for range 100 { // until every queue of the hand is there
			once()
		}
		if n := testing.AllocsPerRun(1000, once); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkEnter(b *testing.B) {
	c := newCluster()
	d, err := New(Config{Seats: 600, View: c.View})
	if err != nil {
		b.Fatal(err)
	}
	for name, r := range map[string]*Request{
		"user":       {User: someone("jane"), Verb: "get", Resource: true, Name: "pods", Namespace: "a"},
		"controller": {User: someone("system:serviceaccount:kube-system:x", "system:serviceaccounts", "system:serviceaccounts:kube-system"), Verb: "get", Resource: true, Name: "pods", Namespace: "a"},
		"exempt":     {User: someone("admin", user.SystemPrivilegedGroup), Verb: "get", Resource: true, Name: "pods", Namespace: "a"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ticket, err := d.Enter(context.Background(), r, time.Second)
				if err != nil {
					b.Fatal(err)
				}
				ticket.Done()
			}
		})
	}
}

package apiserver_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// byHeader believes X-Test-User; without it the request is the administrator's.
type byHeader struct{}

func (byHeader) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if name := r.Header.Get("X-Test-User"); name != "" {
		return &authenticator.Response{User: &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}}, true, nil
	}
	return &authenticator.Response{User: admin}, true, nil
}

// newFairWorld has upstream's flow schemas and levels, and so many seats.
func newFairWorld(t *testing.T, seats int, edit ...func(*apiserver.Config)) *world {
	t.Helper()
	v := view.New([]*kinds.Kind{kinds.FlowSchema, kinds.PriorityLevelConfiguration})
	w := newWorld(t, append(edit, func(c *apiserver.Config) {
		c.Authn, c.View, c.Seats = byHeader{}, v, seats
		c.Cache.Feed(v)
	})...)
	w.http.Client().Transport.(*http.Transport).MaxConnsPerHost = 0
	ctx, c := t.Context(), w.client.FlowcontrolV1()
	for _, l := range append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...) {
		if _, err := c.PriorityLevelConfigurations().Create(ctx, l, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range append(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas...) {
		if _, err := c.FlowSchemas().Create(ctx, f, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.settled(t, v)
	return w
}

// settled waits until the view has what was written.
func (w *world) settled(t *testing.T, v *view.View) {
	t.Helper()
	rev, err := w.store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range v.Kinds() {
		if err := v.WaitRev(t.Context(), k, rev); err != nil {
			t.Fatal(err)
		}
	}
}

// gate lets writes wait until it opens, or their time is over.
type gate struct {
	user    string // whose; empty: everybody's
	arrived chan struct{}
	open    chan struct{}
}

func (g *gate) Name() string { return "Gate" }
func (g *gate) Mutate(ctx context.Context, r *admission.Request) error {
	if g.user != "" && r.User.GetName() != g.user {
		return nil
	}
	g.arrived <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (g *gate) Validate(context.Context, *admission.Request) error { return nil }

func TestPriorityAndFairness(t *testing.T) {
	g := &gate{arrived: make(chan struct{}, 1000), open: make(chan struct{}), user: "jane"}
	w := newFairWorld(t, 60, func(c *apiserver.Config) { c.Admission = []admission.Plugin{g} })
	// A level without queues and loans, so that what fits can be counted.
	level := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "narrow"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: "Limited", Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{BorrowingLimitPercent: new(int32), LimitResponse: flowcontrolv1.LimitResponse{Type: "Reject"}}}}
	l, err := w.client.FlowcontrolV1().PriorityLevelConfigurations().Create(t.Context(), level, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	schema := bootstrap.SuggestedFlowSchemaGlobalDefault.DeepCopy()
	schema.Name, schema.Spec.MatchingPrecedence, schema.Spec.PriorityLevelConfiguration.Name = "jane", 10, "narrow"
	schema.Spec.Rules[0].Subjects = []flowcontrolv1.Subject{{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "jane"}}}
	f, err := w.client.FlowcontrolV1().FlowSchemas().Create(t.Context(), schema, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mine := func(a answer) bool {
		return a.header.Get("X-Kubernetes-Pf-Flowschema-Uid") == string(f.UID) && a.header.Get("X-Kubernetes-Pf-Prioritylevel-Uid") == string(l.UID)
	}
	for !mine(w.do(t, "GET", "/version", "", "X-Test-User", "jane")) { // the view is on its way
		if t.Context().Err() != nil {
			t.Fatal("the schema is never used")
		}
	}
	if a := w.must(t, 200, "GET", "/version", "", "X-Test-User", "joe"); mine(a) || a.header.Get("X-Kubernetes-Pf-Flowschema-Uid") == "" {
		t.Errorf("joe: %v", a.header)
	}
	const seats = 7 // 60 * 30 / 275, rounded up
	var wg sync.WaitGroup
	for i := range seats {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if a := w.do(t, "POST", cmURL, fmt.Sprintf(`{"metadata":{"name":"c%d"}}`, i), "X-Test-User", "jane"); a.code != 201 || !mine(a) {
				t.Errorf("%d %v %s", a.code, a.header, a.raw)
			}
		}()
		<-g.arrived
	}
	a := w.do(t, "GET", cmURL, "", "X-Test-User", "jane")
	if a.code != 429 || a.at("reason") != "TooManyRequests" || a.at("message") != "Too many requests, please try again later." || a.header.Get("Retry-After") != "1" || !mine(a) {
		t.Errorf("%d %v %s", a.code, a.header, a.raw)
	}
	w.must(t, 200, "GET", "/livez", "", "X-Test-User", "jane")
	w.must(t, 200, "GET", cmURL, "", "X-Test-User", "joe")
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"admin"}}`)
	metrics := w.must(t, 200, "GET", "/metrics", "").raw
	for _, want := range []string{
		fmt.Sprintf(`apiserver_current_inflight_requests{request_kind="mutating"} %d`, seats),
		fmt.Sprintf(`apiserver_flowcontrol_current_executing_requests{flow_schema="jane",priority_level="narrow"} %d`, seats),
		fmt.Sprintf(`apiserver_flowcontrol_nominal_limit_seats{priority_level="narrow"} %d`, seats),
		`apiserver_flowcontrol_rejected_requests_total{flow_schema="jane",priority_level="narrow",reason="concurrency-limit"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	close(g.open)
	wg.Wait()
	// A watch takes a seat only until it has begun.
	for range seats + 1 {
		if e, _ := w.watch(t, cmURL+"?watch=1", "X-Test-User", "jane").next(); e.Type != "ADDED" {
			t.Errorf("%v", e)
		}
	}
	for !strings.Contains(w.must(t, 200, "GET", "/metrics", "").raw, `apiserver_flowcontrol_current_executing_requests{flow_schema="jane",priority_level="narrow"} 0`+"\n") {
		if t.Context().Err() != nil {
			t.Fatal("watches keep their seats")
		}
	}
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"x"}}`, "X-Test-User", "jane")
}

func TestTimeoutParameter(t *testing.T) {
	g := &gate{arrived: make(chan struct{}, 1000), open: make(chan struct{})}
	w := newWorld(t, func(c *apiserver.Config) { c.Admission = []admission.Plugin{g} })
	if a := w.do(t, "GET", cmURL+"?timeout=soon", ""); a.code != 400 || !strings.Contains(a.raw, `invalid timeout specified in the request URL - time: invalid duration \"soon\"`) {
		t.Errorf("%d %s", a.code, a.raw)
	}
	for _, ok := range []string{"0s", "-1s", "5s", "2h"} {
		w.must(t, 200, "GET", cmURL+"?timeout="+ok, "")
	}
	began := time.Now()
	if a := w.do(t, "POST", cmURL+"?timeout=20ms", `{"metadata":{"name":"x"}}`); a.code != 504 || a.at("reason") != "Timeout" || time.Since(began) > 30*time.Second {
		t.Errorf("%d %s", a.code, a.raw)
	}
	close(g.open)
}

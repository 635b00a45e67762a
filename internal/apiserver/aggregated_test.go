package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/apiserver/aggregate"
	"knarr.dev/knarr/internal/apiserver/openapi"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/pki"
	"knarr.dev/knarr/internal/view"
)

// wardle is an API server of its own behind the service default/api.
type wardle struct {
	*httptest.Server
	bundle string // base64 of its authority
	peer   atomic.Pointer[string]
	header atomic.Pointer[http.Header]
	handle atomic.Pointer[http.HandlerFunc]
}

const wardleResources = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"wardle.example.com/v1alpha1","resources":[
	{"name":"flunders","singularName":"flunder","namespaced":true,"kind":"Flunder","verbs":["get","list"],"shortNames":["fl"]},
	{"name":"flunders/status","namespaced":true,"kind":"Flunder","verbs":["get"]}]}`

func newAggregated(t *testing.T, edit ...func(*apiserver.Config)) (*world, *wardle, *aggregate.Aggregator) {
	t.Helper()
	front, err := pki.OpenAuthority(t.TempDir(), "front-proxy-ca", "front", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	serving, err := pki.OpenAuthority(t.TempDir(), "ca", "serving", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b := &wardle{bundle: base64.StdEncoding.EncodeToString(serving.PEM)}
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 1 {
			b.peer.Store(&r.TLS.PeerCertificates[0].Subject.CommonName)
		}
		if r.URL.Path == "/apis/wardle.example.com/v1alpha1" {
			fmt.Fprint(w, wardleResources)
			return
		}
		if r.URL.Path == "/secret" {
			t.Error("a connection that was not upgraded has been used again")
		}
		b.header.Store(&r.Header)
		(*b.handle.Load())(w, r)
	}))
	cert := serving.Renewing(pki.Leaf{CommonName: "api", Server: true, DNSNames: []string{"api.default.svc"}}, time.Now)
	b.TLS = &tls.Config{GetCertificate: cert.GetCertificate, ClientCAs: front.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	b.StartTLS()
	t.Cleanup(b.Close)
	b.says(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Method, r.URL.RequestURI()) })

	v := view.New([]*kinds.Kind{kinds.APIService, kinds.Service, kinds.EndpointSlice}, view.SlicesByService)
	var agg *aggregate.Aggregator
	docs, err := openapi.New(nil, func() openapi.Remote { return agg })
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, append(edit, func(c *apiserver.Config) {
		c.Cache.Feed(v)
		c.Extra = map[string]http.Handler{"/openapi/v2": docs, "/openapi/v3": docs, "/openapi/v3/": docs}
		c.Backend = func(gv schema.GroupVersion) *aggregate.Backend { return agg.Backend(gv) }
	})...)
	client := front.Renewing(pki.Leaf{CommonName: "front-proxy-client"}, time.Now)
	agg, err = aggregate.New(aggregate.Config{View: v, Client: w.server.Client(admin), Certificate: client.GetClientCertificate,
		Resolve: func(string, string, int32) (string, error) { return b.Listener.Addr().String(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- agg.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w, b, agg
}

func (b *wardle) says(h http.HandlerFunc) { b.handle.Store(&h) }

const (
	flunders  = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders"
	apiURL    = "/apis/apiregistration.k8s.io/v1/apiservices"
	wardleAPI = apiURL + "/v1alpha1.wardle.example.com"
)

func (w *world) register(t *testing.T, bundle string) {
	t.Helper()
	w.must(t, 201, "POST", apiURL, `{"metadata":{"name":"v1alpha1.wardle.example.com"},"spec":{"group":"wardle.example.com","version":"v1alpha1",
		"groupPriorityMinimum":2000,"versionPriority":200,"caBundle":"`+bundle+`","service":{"namespace":"default","name":"api"}}}`)
}

// available waits until the condition has the reason.
func (w *world) available(t *testing.T, reason string) answer {
	t.Helper()
	for {
		a := w.must(t, 200, "GET", wardleAPI, "")
		if strings.Contains(a.raw, `"reason":"`+reason+`"`) {
			return a
		}
		select {
		case <-t.Context().Done():
			t.Fatal(a.raw)
		case <-time.After(10 * time.Millisecond): // the condition has no other sign
		}
	}
}

func (w *world) addService(t *testing.T) {
	t.Helper()
	w.must(t, 201, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"api"},"spec":{"ports":[{"port":443}]}}`)
}

func (w *world) addSlice(t *testing.T) {
	t.Helper()
	w.must(t, 201, "POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"api-1","labels":{"kubernetes.io/service-name":"api"}},
		"addressType":"IPv4","endpoints":[{"addresses":["10.1.2.3"]}],"ports":[{"port":443}]}`)
}

// TestAggregation: an API of another server, from its registration to requests
// that reach it, with the user's identity and without his credentials.
func TestAggregation(t *testing.T) {
	w, b, agg := newAggregated(t)
	if a := w.do(t, "GET", flunders, ""); a.code != 404 {
		t.Fatalf("before: %d %s", a.code, a.raw)
	}
	w.register(t, b.bundle)
	w.available(t, "ServiceNotFound")
	if a := w.do(t, "GET", flunders, ""); a.code != 503 || a.at("reason") != "ServiceUnavailable" {
		t.Errorf("without its service: %d %s", a.code, a.raw)
	}
	w.addService(t)
	w.available(t, "EndpointsNotFound")
	w.addSlice(t)
	if a := w.available(t, "Passed"); !strings.Contains(a.raw, `"status":"True"`) || !strings.Contains(a.raw, "all checks passed") {
		t.Error(a.raw)
	}
	a := w.must(t, 200, "GET", flunders+"?labelSelector=a%3Db", "", "Authorization", "Bearer secret", "X-Remote-User", "somebody", "X-Remote-Extra-Scopes", "all", "X-Remote-Group", "system:masters2")
	if a.raw != "GET "+flunders+"?labelSelector=a%3Db" {
		t.Errorf("got %q", a.raw)
	}
	h := *b.header.Load()
	if got := h.Values("X-Remote-User"); len(got) != 1 || got[0] != "admin" {
		t.Errorf("user %q", got)
	}
	if got := h.Values("X-Remote-Group"); len(got) != 1 || got[0] != "system:masters" {
		t.Errorf("groups %q", got)
	}
	if h.Get("Authorization") != "" || h.Get("X-Remote-Extra-Scopes") != "" {
		t.Errorf("credentials were passed on: %v", h)
	}
	if *b.peer.Load() != "front-proxy-client" {
		t.Errorf("our certificate is %q", *b.peer.Load())
	}
	if a := w.must(t, 200, "GET", "/apis/wardle.example.com/v1alpha1", ""); !strings.Contains(a.raw, "flunders/status") {
		t.Errorf("its discovery: %s", a.raw)
	}
	d := agg.Remotes().Versions[0].Resources
	if len(d.Resources) != 1 || len(d.Resources[0].Subresources) != 1 || d.Resources[0].ResponseKind.Kind != "Flunder" || d.Freshness != "Current" {
		t.Errorf("aggregated discovery: %+v", d)
	}
	b.says(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, "brewing")
	})
	if a := w.do(t, "POST", flunders, "{}"); a.code != http.StatusTeapot || a.raw != "brewing" {
		t.Errorf("its errors are its own: %d %s", a.code, a.raw)
	}
	w.must(t, 200, "DELETE", wardleAPI, "")
	for agg.Backend(schema.GroupVersion{Group: "wardle.example.com", Version: "v1alpha1"}) != nil {
		select {
		case <-t.Context().Done():
			t.Fatal("it is still there")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if a := w.do(t, "GET", flunders, ""); a.code != 404 {
		t.Errorf("after: %d %s", a.code, a.raw)
	}
}

// TestAggregatedOpenAPI: another server's documents stand in ours, and are
// asked for only when somebody asks us.
func TestAggregatedOpenAPI(t *testing.T) {
	w, b, _ := newAggregated(t)
	const doc = "/openapi/v3/apis/wardle.example.com/v1alpha1"
	var mu sync.Mutex
	asked := map[string][]string{} // users by path
	b.says(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path] = append(asked[r.URL.Path], r.Header.Get("X-Remote-User"))
		switch r.URL.Path {
		case "/openapi/v3":
			fmt.Fprint(w, `{"paths":{"apis/wardle.example.com/v1alpha1":{"serverRelativeURL":"`+doc+`?hash=A"},"apis/apps/v1":{"serverRelativeURL":"/openapi/v3/apis/apps/v1?hash=B"},"version":{"serverRelativeURL":"/openapi/v3/version"}}}`)
		case doc:
			w.Header().Set("Etag", `"A"`)
			fmt.Fprintf(w, `{"openapi":"3.0.0","query":%q}`, r.URL.RawQuery)
		case "/openapi/v2":
			w.Header().Set("Etag", `"2"`)
			fmt.Fprint(w, `{"swagger":"2.0","info":{"title":"t","version":"1"},"paths":{"/apis/wardle.example.com/v1alpha1/flunders":{"get":{"responses":{"200":{"description":"OK"}}}}}}`)
		}
	})
	if a := w.must(t, 200, "GET", "/openapi/v3", ""); strings.Contains(a.raw, "wardle") {
		t.Errorf("before: %s", a.raw)
	}
	w.must(t, 404, "GET", doc, "")
	w.register(t, b.bundle)
	w.addService(t)
	w.addSlice(t)
	w.available(t, "Passed")
	mu.Lock()
	if len(asked) > 0 {
		t.Errorf("it was asked for itself: %v", asked)
	}
	mu.Unlock()
	for range 2 {
		a := w.must(t, 200, "GET", "/openapi/v3", "")
		if !strings.Contains(a.raw, `"apis/wardle.example.com/v1alpha1":{"serverRelativeURL":"`+doc+`?hash=A"}`) || strings.Contains(a.raw, `hash=B"`) || strings.Contains(a.raw, `"version"`) {
			t.Errorf("index: %s", a.raw)
		}
		if a = w.must(t, 200, "GET", "/openapi/v2", ""); !strings.Contains(a.raw, "/apis/wardle.example.com/v1alpha1/flunders") {
			t.Error("version 2 has no flunders")
		}
	}
	if a := w.must(t, 200, "GET", doc+"?hash=A", ""); !strings.Contains(a.raw, `"query":"hash=A"`) || a.header.Get("Etag") != `"A"` {
		t.Errorf("document: %v %s", a.header, a.raw)
	}
	mu.Lock()
	if got := fmt.Sprint(asked); got != "map[/openapi/v2:[system:aggregator] /openapi/v3:[system:aggregator] "+doc+":[admin]]" {
		t.Errorf("asked %s", got)
	}
	mu.Unlock()
}

// TestAggregatedOpenAPIWithout: a server that does not answer leaves the others
// what they are.
func TestAggregatedOpenAPIWithout(t *testing.T) {
	w, b, _ := newAggregated(t)
	w.register(t, b.bundle)
	w.addService(t)
	w.addSlice(t)
	w.available(t, "Passed")
	gone := t.Context().Done()
	b.says(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	})
	if a := w.must(t, 200, "GET", "/openapi/v3", ""); strings.Contains(a.raw, "wardle") || !strings.Contains(a.raw, "apis/apps/v1") {
		t.Errorf("%s", a.raw)
	}
}

// TestCVE2022_3172: an aggregated API server must not
// send a client, with its credentials, elsewhere.
func TestCVE2022_3172(t *testing.T) {
	w, b, _ := newAggregated(t)
	w.register(t, b.bundle)
	w.addService(t)
	w.addSlice(t)
	w.available(t, "Passed")
	for _, to := range []string{"https://evil.example/", "/elsewhere", "//evil.example/x"} {
		b.says(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusTemporaryRedirect) })
		if a := w.do(t, "GET", flunders, ""); a.code != http.StatusBadGateway || a.header.Get("Location") != "" || !strings.Contains(a.raw, "redirect") {
			t.Errorf("%s: %d %v %s", to, a.code, a.header, a.raw)
		}
	}
}

// TestAggregatedImpostor: who cannot show a certificate of the bundle's
// authority is not asked anything.
func TestAggregatedImpostor(t *testing.T) {
	w, b, _ := newAggregated(t)
	other, err := pki.OpenAuthority(t.TempDir(), "ca", "other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.addService(t)
	w.addSlice(t)
	w.register(t, base64.StdEncoding.EncodeToString(other.PEM))
	if a := w.available(t, "FailedDiscoveryCheck"); !strings.Contains(a.raw, "certificate signed by unknown authority") {
		t.Error(a.raw)
	}
	if a := w.do(t, "GET", flunders, ""); a.code != 503 {
		t.Errorf("%d %s", a.code, a.raw)
	}
	if b.header.Load() != nil {
		t.Error("a request has reached it")
	}
}

// TestCVE2018_1002105Aggregated: streams pass, and what refuses to switch protocols is
// answered once and hung up.
func TestCVE2018_1002105Aggregated(t *testing.T) {
	w, b, _ := newAggregated(t)
	w.register(t, b.bundle)
	w.addService(t)
	w.addSlice(t)
	w.available(t, "Passed")
	dial := func() (net.Conn, *http.Response) {
		t.Helper()
		conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		fmt.Fprintf(conn, "GET %s/x/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Remote-User: root\r\n\r\n", flunders)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, resp
	}
	b.says(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Who: %s\r\n\r\n", r.Header.Get("X-Remote-User"))
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprintf(rw, "echo %s", line)
		_ = rw.Flush()
	})
	conn, resp := dial()
	if resp.StatusCode != 101 || resp.Header.Get("X-Who") != "admin" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	fmt.Fprint(conn, "hello\n")
	if got, err := io.ReadAll(conn); err != nil || string(got) != "echo hello\n" {
		t.Errorf("%q %v", got, err)
	}
	b.says(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	conn, resp = dial()
	if resp.StatusCode != 403 {
		t.Errorf("refused: %d", resp.StatusCode)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	fmt.Fprint(conn, "GET /secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	_, _ = io.Copy(io.Discard, conn) // until it is hung up, or answered by us
}

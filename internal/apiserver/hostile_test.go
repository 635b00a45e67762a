package apiserver_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/security/audit"
)

// TestHostileBodies: each gets a Status with a sensible code, none costs much
// memory, and nothing is stored.
func TestHostileBodies(t *testing.T) {
	w := newWorld(t)
	labels := strings.Builder{}
	for i := range 50_000 {
		fmt.Fprintf(&labels, `"label-%d":"v",`, i)
	}
	nested := strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)
	laughs := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n"
	for i := 1; i < 10; i++ {
		laughs += fmt.Sprintf("  a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	doubling := &strings.Builder{}
	fmt.Fprintf(doubling, `[{"op":"add","path":"/metadata/annotations","value":{"a":"%s"}}`, strings.Repeat("x", 1000))
	for i := range 60 {
		fmt.Fprintf(doubling, `,{"op":"copy","from":"/metadata/annotations","path":"/metadata/annotations/k%d"}`, i)
	}
	doubling.WriteByte(']')
	for _, tc := range []struct {
		name, method, path, body string
		header                   []string
		code                     int
	}{
		{"10 MB", "POST", cmURL, `{"metadata":{"name":"x"},"data":{"k":"` + strings.Repeat("x", 10<<20) + `"}}`, nil, 413},
		{"10 MB of patch", "PATCH", cmURL + "/c", `{"data":{"k":"` + strings.Repeat("x", 10<<20) + `"}}`, []string{"Content-Type", mergeType}, 413},
		{"10 MB of DeleteOptions", "DELETE", cmURL + "/c", `{"kind":"` + strings.Repeat("x", 10<<20) + `"}`, nil, 413},
		{"2 MB of data", "POST", cmURL, `{"metadata":{"name":"x"},"data":{"k":"` + strings.Repeat("x", 2<<20) + `"}}`, nil, 422},
		{"deep JSON", "POST", cmURL, `{"metadata":{"name":"x"},"data":` + nested + `}`, nil, 400},
		{"deep YAML", "POST", cmURL, "metadata: {name: x}\ndata: " + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), []string{"Content-Type", "application/yaml"}, 400},
		{"deep patch", "PATCH", cmURL + "/c", `{"data":` + nested + `}`, []string{"Content-Type", mergeType}, 400},
		{"billion laughs", "POST", cmURL, laughs, []string{"Content-Type", "application/yaml"}, 400},
		{"many labels", "POST", cmURL, `{"metadata":{"name":"x","labels":{` + labels.String() + `"l":"v"},"annotations":{"a":"` + strings.Repeat("x", 300<<10) + `"}}}`, nil, 422},
		{"many containers", "POST", podURL, `{"metadata":{"name":"x"},"spec":{"containers":[` + strings.Repeat(`{},`, 900_000) + `{}]}}`, nil, 400},
		{"null", "POST", cmURL, `null`, nil, 422},
		{"array", "POST", cmURL, `[]`, nil, 400},
		{"number", "POST", cmURL, `1`, nil, 400},
		{"no UTF-8", "POST", cmURL, "{\"metadata\":{\"name\":\"\xff\xfe\"}}", nil, 422},
		{"name of the wrong type", "POST", cmURL, `{"metadata":{"name":1}}`, nil, 400},
		{"metadata of the wrong type", "POST", cmURL, `{"metadata":[]}`, nil, 400},
		{"numbers beyond", "POST", "/apis/apps/v1/namespaces/default/deployments", `{"metadata":{"name":"x"},"spec":{"replicas":99999999999999}}`, nil, 400},
		{"protobuf of nonsense", "POST", cmURL, "k8s\x00" + strings.Repeat("\x0a\xff\xff\xff\x7f", 1000), []string{"Content-Type", "application/vnd.kubernetes.protobuf"}, 400},
		{"JSON under protobuf's name", "POST", cmURL, `{"metadata":{"name":"x"}}`, []string{"Content-Type", "application/vnd.kubernetes.protobuf"}, 400},
		{"doubling patch", "PATCH", cmURL + "/c", doubling.String(), []string{"Content-Type", jsonPatchType}, 413},
		{"many operations", "PATCH", cmURL + "/c", `[` + strings.Repeat(`{"op":"test","path":"/x"},`, 10_000) + `{"op":"test","path":"/x"}]`, []string{"Content-Type", jsonPatchType}, 413},
		{"operations of null", "PATCH", cmURL + "/c", `[null]`, []string{"Content-Type", jsonPatchType}, 422},
		{"many parts in a patch", "PATCH", podURL + "/p", `{"spec":{"containers":[` + strings.Repeat(`{},`, 900_000) + `{}]}}`, []string{"Content-Type", strategicType}, 400},
		{"many parts in an operation", "PATCH", cmURL + "/c", `[{"op":"add","path":"/data","value":[` + strings.Repeat(`[],`, 900_000) + `[]]}]`, []string{"Content-Type", jsonPatchType}, 400},
		{"patch of null", "PATCH", cmURL + "/c", `null`, []string{"Content-Type", mergeType}, 400},
		{"index beyond", "PATCH", podURL + "/p", `[{"op":"add","path":"/spec/containers/99999999999","value":{}}]`, []string{"Content-Type", jsonPatchType}, 422},
		{"odd strategic patch", "PATCH", podURL + "/p", `{"spec":{"containers":[{"$patch":"nope"}]}}`, []string{"Content-Type", strategicType}, 422},
		{"strategic patch of the wrong type", "PATCH", podURL + "/p", `{"spec":{"containers":{"a":1}}}`, []string{"Content-Type", strategicType}, 422},
		{"many selectors", "GET", cmURL + "?labelSelector=" + strings.Repeat("a!%3Db,", 5000) + "a", "", nil, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.do(t, "POST", cmURL, `{"metadata":{"name":"c"}}`)
			w.do(t, "POST", podURL, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a := w.do(t, tc.method, tc.path, tc.body, tc.header...)
			runtime.ReadMemStats(&after)
			if a.code != tc.code || tc.code >= 400 && a.at("kind") != "Status" {
				t.Errorf("%d %.500s", a.code, a.raw)
			}
			if len(a.raw) > 100<<10 {
				t.Errorf("an answer of %d bytes", len(a.raw))
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 250<<20 && !raced() {
				t.Errorf("%d MB were allocated", used>>20)
			}
		})
	}
	a := w.must(t, 200, "GET", cmURL, "")
	if items, _ := a.at("items").([]any); len(items) != 1 {
		t.Errorf("%d objects were stored", len(items))
	}
}

// raced: the race detector lets pools forget at random, so that what is
// allocated says nothing about the server.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

type panicking struct{}

func (panicking) Name() string                                       { return "Panicking" }
func (panicking) Mutate(context.Context, *admission.Request) error   { panic("secret of the plugin") }
func (panicking) Validate(context.Context, *admission.Request) error { return nil }

func TestPanic(t *testing.T) {
	var log bytes.Buffer
	s, on := audited(t, audit.Blocking, "omitStages: [RequestReceived]\nrules: [{level: Metadata}]")
	w := newWorld(t, func(c *apiserver.Config) {
		c.Admission, c.Log = []admission.Plugin{panicking{}}, slog.New(slog.NewTextHandler(&log, nil))
		on(c)
	})
	a := w.do(t, "POST", cmURL, `{"metadata":{"name":"x"}}`)
	if a.code != 500 || a.at("reason") != "InternalError" || strings.Contains(a.raw, "secret") {
		t.Errorf("%d %s", a.code, a.raw)
	}
	if e := s.next(t, auditv1.StagePanic); e.ResponseStatus.Code != 500 || e.ResponseStatus.Message != "APIServer panic'd: secret of the plugin" {
		t.Errorf("%+v", e.ResponseStatus)
	}
	if !strings.Contains(log.String(), "request panicked") {
		t.Errorf("log %s", log.String())
	}
	s.none(t)
	w.must(t, 200, "GET", cmURL, "")
}

func TestHealth(t *testing.T) {
	broken := make(chan struct{})
	w := newWorld(t, func(c *apiserver.Config) {
		c.Ready = map[string]func(context.Context) error{"thing": func(context.Context) error {
			select {
			case <-broken:
				return fmt.Errorf("password=secret")
			default:
				return nil
			}
		}}
	})
	for _, path := range []string{"/livez", "/readyz", "/healthz", "/readyz/thing"} {
		if a := w.must(t, 200, "GET", path, ""); a.raw != "ok" {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
	if a := w.must(t, 200, "GET", "/readyz?verbose", ""); !strings.Contains(a.raw, "[+]etcd ok\n") || !strings.HasSuffix(a.raw, "readyz check passed\n") {
		t.Errorf("%s", a.raw)
	}
	close(broken)
	w.must(t, 200, "GET", "/livez", "")
	if a := w.must(t, 500, "GET", "/readyz", ""); !strings.Contains(a.raw, "[-]thing failed: reason withheld\n") || strings.Contains(a.raw, "secret") {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 200, "GET", "/readyz?exclude=thing", "")
	w.must(t, 404, "GET", "/readyz/nope", "")
	if a := w.must(t, 200, "GET", "/version", ""); a.at("major") != "1" || a.at("minor") != "37" {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 404, "GET", "/debug/pprof/", "")
	w.must(t, 404, "GET", "/metrics/../debug/pprof/heap", "")
	w.must(t, 405, "POST", "/version", "{}")
	if a := w.must(t, 200, "GET", "/", ""); !strings.Contains(a.raw, `"/apis"`) || !strings.Contains(a.raw, `"/livez"`) {
		t.Errorf("%s", a.raw)
	}
}

// TestCVE2020_8552: no client adds labels.
func TestCVE2020_8552(t *testing.T) {
	w := newWorld(t)
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"x"}}`)
	var lines []int
	for round := range 3 {
		for i := range 1 + 20*round { // the first shows each class of requests once
			w.do(t, "GET", fmt.Sprintf("/apis/g%d.example/v%d/namespaces/n%d/pods/x", i, i, i), "")
			w.do(t, "GET", fmt.Sprintf("/api/v1/namespaces/n%d/pods/x/sub%d", i, i), "")
			w.do(t, "GET", fmt.Sprintf("/path%d", i), "")
			w.do(t, fmt.Sprintf("BREW%d", i), podURL, "")
			w.must(t, 200, "GET", "/metrics", "")
		}
		lines = append(lines, strings.Count(w.must(t, 200, "GET", "/metrics", "").raw, "\n"))
	}
	if lines[2] > lines[0] {
		t.Errorf("lines: %d", lines)
	}
	a := w.must(t, 200, "GET", "/metrics", "")
	const labels = `component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1"} 1`
	for _, want := range []string{
		`apiserver_request_total{code="201",` + labels,
		`apiserver_request_duration_seconds_count{` + labels,
		`apiserver_storage_objects{resource="configmaps"} 1`,
	} {
		if !strings.Contains(a.raw, want) {
			t.Errorf("no %s", want)
		}
	}
}

// serveTLS runs the whole server and returns where it listens.
func serveTLS(t *testing.T, w *world) (*net.TCPListener, func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pair := httptest.NewTLSServer(nil)
	conf := &tls.Config{Certificates: pair.TLS.Certificates}
	pair.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(ctx, l, conf) }()
	t.Cleanup(cancel)
	return l.(*net.TCPListener), func() error { cancel(); return <-done }
}

func TestServe(t *testing.T) {
	w := newWorld(t)
	l, stop := serveTLS(t, w)
	addr := l.Addr().String()
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}}}
	if _, err := old.Get("https://" + addr + "/livez"); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
	for _, h2 := range []bool{true, false} {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}}
		resp, err := c.Get("https://" + addr + "/livez")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if want := map[bool]int{true: 2, false: 1}[h2]; resp.ProtoMajor != want {
			t.Errorf("HTTP/%d", resp.ProtoMajor)
		}
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+addr+"/livez", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Large", strings.Repeat("x", 2<<20))
		if resp, err := c.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("2 MB of headers: %d", resp.StatusCode)
			}
		}
		watch, err := c.Get("https://" + addr + cmURL + "?watch=1")
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Body.Close()
		if !h2 {
			if err := stop(); err != nil {
				t.Error(err)
			}
			_, _ = io.Copy(io.Discard, watch.Body) // the watch ends with the server
		}
	}
	if err := l.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the port is still open: %v", err)
	}
}

// TestCompression: only when asked for, only what is large, and never between
// processes of one machine.
func TestCompression(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.must(t, 201, "POST", cmURL, fmt.Sprintf(`{"metadata":{"name":"c%d"},"data":{"k":%q}}`, i, strings.Repeat("abc ", 5000)))
	}
	ask := func(from, path, encoding string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr = from
		r = r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 6443}))
		r.Header.Set("Accept-Encoding", encoding)
		rec := httptest.NewRecorder()
		w.server.Handler().ServeHTTP(rec, r)
		return rec
	}
	far := ask("192.0.2.7:5", cmURL, "gzip")
	if far.Header().Get("Content-Encoding") != "gzip" {
		t.Fatalf("%v", far.Header())
	}
	z, err := gzip.NewReader(far.Body)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(z)
	if plain := ask("192.0.2.7:5", cmURL, "identity"); err != nil || !bytes.Equal(whole, plain.Body.Bytes()) || plain.Header().Get("Content-Encoding") != "" {
		t.Errorf("%v: differs from the plain answer", err)
	}
	for name, rec := range map[string]*httptest.ResponseRecorder{
		"small":            ask("192.0.2.7:5", cmURL+"/c1", "gzip"),
		"from loopback":    ask("127.0.0.1:5", cmURL, "gzip"),
		"from the machine": ask("192.0.2.1:5", cmURL, "gzip"),
	} {
		if rec.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: compressed", name)
		}
	}
}

// TestSlowBody: who sends a body at leisure does not hold a place for long.
func TestSlowBody(t *testing.T) {
	w := newWorld(t)
	apiserver.SetBodyTimeout(w.server, 50*time.Millisecond)
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.http.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", cmURL)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 400 {
		t.Errorf("%v %v", resp, err)
	}
}

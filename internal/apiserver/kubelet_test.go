package apiserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clientforward "k8s.io/client-go/tools/portforward"
	clientexec "k8s.io/client-go/tools/remotecommand"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"knarr.dev/knarr/internal/apiserver"
)

// node is a kubelet that answers as it is told and remembers what it was asked.
type node struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string
	header http.Header
	answer http.HandlerFunc
	conns  int
}

func newNode(t *testing.T) *node {
	n := &node{}
	n.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.asked, n.header = append(n.asked, r.Method+" "+r.URL.RequestURI()), r.Header.Clone()
		answer := n.answer
		n.mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	}))
	n.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			n.mu.Lock()
			n.conns++
			n.mu.Unlock()
		}
	}
	n.StartTLS()
	t.Cleanup(n.Close)
	return n
}

func (n *node) last() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.asked) == 0 {
		return ""
	}
	return n.asked[len(n.asked)-1]
}

func (n *node) says(h http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = h
}

// newWorldWithNode has a node n1 with a kubelet and a bound pod a of two
// containers.
func newWorldWithNode(t *testing.T, edit ...func(*apiserver.Config)) (*world, *node) {
	n := newNode(t)
	roots := x509.NewCertPool()
	roots.AddCert(n.Certificate())
	w := newWorld(t, append([]func(*apiserver.Config){func(c *apiserver.Config) {
		c.KubeletTLS, c.LocalNode = &tls.Config{RootCAs: roots}, "n1"
	}}, edit...)...)
	w.addNode(t, "n1", "InternalIP", "127.0.0.1", n.port(t))
	w.must(t, 201, "POST", podURL, `{"metadata":{"name":"a"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i"},{"name":"d","image":"i","ports":[{"name":"web","containerPort":8080}]}],"initContainers":[{"name":"init","image":"i"}]}}`)
	return w, n
}

func (n *node) port(t *testing.T) string {
	u, err := url.Parse(n.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func (w *world) addNode(t *testing.T, name, addressType, address, port string) {
	t.Helper()
	w.must(t, 201, "POST", "/api/v1/nodes", `{"metadata":{"name":"`+name+`"}}`)
	w.must(t, 200, "PATCH", "/api/v1/nodes/"+name+"/status", fmt.Sprintf(`{"status":{"addresses":[{"type":%q,"address":%q}],"daemonEndpoints":{"kubeletEndpoint":{"Port":%s}}}}`, addressType, address, port), "Content-Type", mergeType)
}

func TestLogs(t *testing.T) {
	w, n := newWorldWithNode(t)
	n.says(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "line\n") })
	a := w.must(t, 200, "GET", podURL+"/a/log?container=c&follow=true&tailLines=3", "", "Authorization", "Bearer secret", "Cookie", "x=y", "Impersonate-Group", "g")
	if a.raw != "line\n" || n.last() != "GET /containerLogs/default/a/c?follow=true&tailLines=3" {
		t.Errorf("%q from %s", a.raw, n.last())
	}
	for _, h := range []string{"Authorization", "Cookie", "Impersonate-Group"} {
		if n.header.Get(h) != "" {
			t.Errorf("%s reached the node", h)
		}
	}
	for query, want := range map[string]string{
		"":                          "a container name must be specified for pod a, choose one of: [c d] or one of the init containers: [init]",
		"?container=nope":           "container nope is not valid for pod a",
		"?container=c&tailLines=-1": `PodLogOptions \"a\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`,
		"?container=c&limitBytes=0": "limitBytes: Invalid value: 0: must be greater than 0",
		"?container=c&stream=All":   "stream: Forbidden: may not be specified",
		"?container=c&sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z": "at most one of",
		"?container=c&tailLines=x":                                   "tailLines",
		"?container=c&insecureSkipTLSVerifyBackend=true":             "insecureSkipTLSVerifyBackend",
	} {
		if a := w.do(t, "GET", podURL+"/a/log"+query, ""); a.code/100 != 4 || !strings.Contains(a.raw, want) {
			t.Errorf("%s: %d %s", query, a.code, a.raw)
		}
	}
	n.says(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `container "c" in pod "a" is waiting to start: ContainerCreating`, http.StatusBadRequest)
	})
	a = w.must(t, 400, "GET", podURL+"/a/log?container=c", "")
	if a.at("reason") != "BadRequest" || a.at("message") != `container "c" in pod "a" is waiting to start: ContainerCreating` {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 201, "POST", podURL, `{"metadata":{"name":"unbound"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	if a = w.must(t, 400, "GET", podURL+"/unbound/log", ""); !strings.Contains(a.raw, "does not have a host assigned") {
		t.Errorf("%s", a.raw)
	}
}

// TestLogsFollow: lines arrive as they are written, and the node learns that
// the client has gone.
func TestLogsFollow(t *testing.T) {
	w, n := newWorldWithNode(t)
	gone := make(chan struct{})
	n.says(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := w.client.CoreV1().Pods("default").GetLogs("a", &corev1.PodLogOptions{Container: "c", Follow: true}).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(stream, line); err != nil || string(line) != "first\n" {
		t.Fatalf("%q %v", line, err)
	}
	cancel()
	<-gone
}

// TestCVE2022_3294: only what a node can be is called.
func TestCVE2022_3294(t *testing.T) {
	w, n := newWorldWithNode(t)
	for i, address := range []string{"127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1"} {
		name := "bad" + strconv.Itoa(i)
		w.addNode(t, name, "InternalIP", address, n.port(t))
		if a := w.do(t, "GET", "/api/v1/nodes/"+name+"/proxy/stats", ""); a.code != 400 || a.at("message") != "address not allowed" {
			t.Errorf("%s: %d %s", address, a.code, a.raw)
		}
	}
	w.addNode(t, "byname", "ExternalIP", "192.0.2.1", n.port(t))
	w.must(t, 503, "GET", "/api/v1/nodes/byname/proxy/stats", "")
	w.must(t, 400, "GET", "/api/v1/nodes/n1:22/proxy/stats", "")
	w.must(t, 400, "GET", "/api/v1/nodes/http:n1:"+n.port(t)+"/proxy/stats", "")
	w.must(t, 404, "GET", "/api/v1/nodes/nope/proxy/stats", "")
	if n.last() != "" {
		t.Fatalf("the node was asked for %s", n.last())
	}
	w.must(t, 200, "GET", "/api/v1/nodes/n1:"+n.port(t)+"/proxy/a%2Fb/c%20d/?x=1", "")
	if n.last() != "GET /a%2Fb/c%20d/?x=1" {
		t.Errorf("path: %s", n.last())
	}
	if a := w.must(t, 301, "GET", "/api/v1/nodes/n1/proxy?x=1", ""); a.header.Get("Location") != "/api/v1/nodes/n1/proxy/?x=1" {
		t.Errorf("%v", a.header)
	}
}

// TestCVE2020_8559: a kubelet that sends the client, or this server,
// elsewhere is not followed, whatever is asked of it.
func TestCVE2020_8559(t *testing.T) {
	w, n := newWorldWithNode(t)
	for _, code := range []int{301, 302, 307, 308} {
		n.says(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://192.0.2.1/")
			w.WriteHeader(code)
		})
		asked := len(n.asked)
		for _, tc := range [][]string{
			{"GET", "/api/v1/nodes/n1/proxy/x"}, {"GET", "/api/v1/nodes/n1/proxy/x", "Upgrade", "websocket", "Connection", "Upgrade"},
			{"GET", podURL + "/a/log?container=c"}, {"POST", podURL + "/a/exec?container=c&command=x", "Upgrade", "spdy/3.1", "Connection", "Upgrade"},
			{"GET", podURL + "/a/attach?container=c", "Upgrade", "websocket", "Connection", "Upgrade"}, {"POST", podURL + "/a/portforward?ports=1", "Upgrade", "spdy/3.1", "Connection", "Upgrade"},
		} {
			asked++
			if a := w.do(t, tc[0], tc[1], "", tc[2:]...); a.code != 502 || a.header.Get("Location") != "" {
				t.Errorf("%d %s: %d %v %s", code, tc[1], a.code, a.header, a.raw)
			}
		}
		if len(n.asked) != asked {
			t.Errorf("the node was asked %d times, want %d", len(n.asked), asked)
		}
	}
}

// TestCVE2020_8562: the address that is checked is the one that is dialed: no
// name is resolved in between, because none is ever resolved.
func TestCVE2020_8562(t *testing.T) {
	w, n := newWorldWithNode(t)
	for name, kind := range map[string]string{"dns": "InternalDNS", "host": "Hostname"} {
		w.addNode(t, name, kind, "localhost", n.port(t))
		w.must(t, 503, "GET", "/api/v1/nodes/"+name+"/proxy/stats", "")
	}
	w.addNode(t, "named", "InternalIP", "localhost", n.port(t))
	w.must(t, 400, "GET", "/api/v1/nodes/named/proxy/stats", "")
	w.must(t, 200, "PATCH", podURL+"/a/status", `{"status":{"podIP":"127.0.0.1","podIPs":[{"ip":"127.0.0.1"}]}}`, "Content-Type", mergeType)
	if a := w.do(t, "GET", podURL+"/a:"+n.port(t)+"/proxy/", ""); a.code != 400 || a.at("message") != "address not allowed" {
		t.Errorf("a pod on loopback: %d %s", a.code, a.raw)
	}
	if n.last() != "" {
		t.Errorf("the node was asked for %s", n.last())
	}
}

// TestNodeIsVerified: a kubelet with a certificate of somebody else is not
// spoken to.
func TestNodeIsVerified(t *testing.T) {
	w, n := newWorldWithNode(t, func(c *apiserver.Config) { c.KubeletTLS = &tls.Config{RootCAs: x509.NewCertPool()} })
	w.must(t, 503, "GET", podURL+"/a/log?container=c", "")
	w.must(t, 503, "POST", podURL+"/a/exec?container=c&command=x", "", "Upgrade", "spdy/3.1", "Connection", "Upgrade")
	if n.last() != "" {
		t.Errorf("the node was asked for %s", n.last())
	}
}

// TestCVE2018_1002105: what the node answers is passed on, and nothing more can
// be sent over either connection.
func TestCVE2018_1002105(t *testing.T) {
	w, n := newWorldWithNode(t)
	n.says(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "you cannot upgrade", http.StatusForbidden)
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.http.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(path, more string) {
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, more)
	}
	ask(podURL+"/a/exec?container=c&command=x", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
	ask("/runningpods/", "") // would be the node's, were the connections joined
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for !strings.Contains(got.String(), "404 Not Found") {
		part := make([]byte, 4096)
		k, err := conn.Read(part)
		got.Write(part[:k])
		if err != nil {
			t.Fatalf("%v after %s", err, got.String())
		}
	}
	if !strings.Contains(got.String(), "403 Forbidden") || !strings.Contains(got.String(), "you cannot upgrade") {
		t.Errorf("%s", got.String())
	}
	if len(n.asked) != 1 || n.last() != "GET /exec/default/a/c?command=x" {
		t.Errorf("the node was asked for %q", n.asked)
	}
}

// TestExecNeedsCreate: reading is not enough to get in by a WebSocket.
func TestExecNeedsCreate(t *testing.T) {
	w, n := newWorldWithNode(t, func(c *apiserver.Config) {
		c.Authz = rights(func(a authorizer.Attributes) bool { return a.GetSubresource() != "exec" || a.GetVerb() == "get" })
	})
	a := w.must(t, 403, "GET", podURL+"/a/exec?container=c&command=x", "", "Upgrade", "websocket", "Connection", "Upgrade")
	if a.at("message") != `pods "a" is forbidden: User "admin" cannot create resource "pods/exec" in API group "" in the namespace "default"` {
		t.Errorf("%s", a.raw)
	}
	if n.last() != "" {
		t.Errorf("the node was asked for %s", n.last())
	}
}

// echo is the runtime's end of exec: it answers in upper case.
type echo struct{}

func (echo) ExecInContainer(_ context.Context, pod, _, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	fmt.Fprintf(errOut, "%s/%s %v %v", pod, container, cmd, tty)
	data := make([]byte, len("hello")) // by an older WebSocket, there is no end of input
	if _, err := io.ReadFull(in, data); err != nil {
		return err
	}
	if _, err := out.Write(bytes.ToUpper(data)); err != nil {
		return err
	}
	if slices.Contains(cmd, "all") {
		rest, err := io.ReadAll(in)
		fmt.Fprintf(out, " and %d", len(rest))
		return err
	}
	return nil
}

// runsEcho is a node whose containers all are echo.
func runsEcho(w http.ResponseWriter, r *http.Request) {
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, echo{}, "a", "", "c", r.URL.Query()["command"], opts, time.Minute, time.Minute, remotecommand.SupportedStreamingProtocols)
}

// TestExec: unmodified clients talk to the container by SPDY and by WebSocket.
func TestExec(t *testing.T) {
	w, n := newWorldWithNode(t)
	n.says(runsEcho)
	conf := &rest.Config{Host: w.http.URL}
	target := w.client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("a").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "c", Command: []string{"tr", "a-z"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	older, err := clientexec.NewSPDYExecutor(conf, "POST", target)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := clientexec.NewWebSocketExecutorForProtocols(conf, "GET", target.String(), "v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	newer, err := clientexec.NewWebSocketExecutor(conf, "GET", target.String())
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]clientexec.Executor{"SPDY": older, "WebSocket": socket, "WebSocket v5": newer} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var out, errOut bytes.Buffer
		err := e.StreamWithContext(ctx, clientexec.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errOut})
		cancel()
		if err != nil || out.String() != "HELLO" || errOut.String() != "a/c [tr a-z] false" {
			t.Errorf("%s: %v %q %q", name, err, out.String(), errOut.String())
		}
		if !strings.HasSuffix(n.last(), " /exec/default/a/c?command=tr&command=a-z&error=1&input=1&output=1") {
			t.Errorf("%s: the node was asked for %s", name, n.last())
		}
	}
}

// TestEndOfInput: a WebSocket of version 5 can say that there is no more, and
// input of any length arrives whole.
func TestEndOfInput(t *testing.T) {
	w, n := newWorldWithNode(t)
	n.says(runsEcho)
	target := w.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").Name("a").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "c", Command: []string{"all"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	e, err := clientexec.NewWebSocketExecutor(&rest.Config{Host: w.http.URL}, "GET", target.String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	err = e.StreamWithContext(ctx, clientexec.StreamOptions{Stdin: strings.NewReader("hello" + strings.Repeat("x", 1<<20)), Stdout: &out, Stderr: io.Discard})
	if err != nil || out.String() != fmt.Sprintf("HELLO and %d", 1<<20) {
		t.Errorf("%v %q", err, out.String())
	}

	// A node that ends without a verdict is not taken for a success.
	n.says(func(w http.ResponseWriter, r *http.Request) {
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(httpstream.Stream, <-chan struct{}) error { return nil })
		time.AfterFunc(100*time.Millisecond, func() { _ = conn.Close() })
		<-conn.CloseChan()
	})
	if err := e.StreamWithContext(ctx, clientexec.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out, Stderr: io.Discard}); err == nil || ctx.Err() != nil {
		t.Errorf("a lost stream ended with %v", err)
	}
}

// TestUnreadInput: a command that ends its input early loses no word of its own.
func TestUnreadInput(t *testing.T) {
	w, n := newWorldWithNode(t)
	const streams = 4 // input, output, errors and the result
	n.says(func(w http.ResponseWriter, r *http.Request) {
		opened := make(chan httpstream.Stream, streams)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			opened <- s
			return nil
		})
		defer conn.Close()
		of := map[string]httpstream.Stream{}
		for range streams {
			s := <-opened
			of[s.Headers().Get(corev1.StreamType)] = s
		}
		_ = of[corev1.StreamTypeStdin].Reset()
		fmt.Fprint(of[corev1.StreamTypeStdout], "no, ")
		select { // the end of the input comes now
		case <-conn.CloseChan():
		case <-time.After(100 * time.Millisecond):
		}
		fmt.Fprint(of[corev1.StreamTypeStdout], "thank you")
		fmt.Fprint(of[corev1.StreamTypeError], `{"status":"Success"}`)
	})
	input, typing := io.Pipe()
	out := &answered{first: func() {
		_, _ = fmt.Fprintln(typing, "more")
		_ = typing.Close()
	}}
	target := w.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").Name("a").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "c", Command: []string{"true"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	e, err := clientexec.NewWebSocketExecutor(&rest.Config{Host: w.http.URL}, "GET", target.String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = e.StreamWithContext(ctx, clientexec.StreamOptions{Stdin: input, Stdout: out, Stderr: io.Discard})
	if err != nil || out.text != "no, thank you" {
		t.Errorf("%v %q", err, out.text)
	}
}

// answered calls first when it is written to for the first time.
type answered struct {
	text  string
	first func()
}

func (a *answered) Write(p []byte) (int, error) {
	if a.text == "" {
		a.first()
	}
	a.text += string(p)
	return len(p), nil
}

// TestPortForward: SPDY within a WebSocket reaches the node as SPDY.
func TestPortForward(t *testing.T) {
	w, n := newWorldWithNode(t)
	n.says(func(w http.ResponseWriter, r *http.Request) {
		portforward.ServePortForward(w, r, greeter{}, "a", "", &portforward.V4Options{}, time.Minute, time.Minute, portforward.SupportedProtocols)
	})
	target := w.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").Name("a").SubResource("portforward").URL()
	dialer, err := clientforward.NewSPDYOverWebsocketDialer(target, &rest.Config{Host: w.http.URL})
	if err != nil {
		t.Fatal(err)
	}
	conn, protocol, err := dialer.Dial("portforward.k8s.io")
	if err != nil || protocol != "portforward.k8s.io" {
		t.Fatalf("%q %v", protocol, err)
	}
	defer conn.Close()
	open := func(kind string) io.ReadWriteCloser {
		s, err := conn.CreateStream(http.Header{"Streamtype": {kind}, "Port": {"8080"}, "Requestid": {"1"}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := open("error").Close(); err != nil {
		t.Fatal(err)
	}
	s := open("data")
	if _, err := s.Write([]byte("me")); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if got, err := io.ReadAll(s); err != nil || string(got) != "hello me from 8080" {
		t.Errorf("%q %v", got, err)
	}
	if n.last() != "POST /portForward/default/a" {
		t.Errorf("the node was asked for %s", n.last())
	}
}

// greeter is a port that answers once its caller has finished.
type greeter struct{}

func (greeter) PortForward(_ context.Context, _ string, _ string, port int32, stream io.ReadWriteCloser) error {
	in, err := io.ReadAll(stream)
	if err != nil {
		return err
	}
	fmt.Fprintf(stream, "hello %s from %d", in, port)
	return stream.Close()
}

// TestPodAndServiceProxy: what a pod's own server says, with redirects only
// within it, and never at an address that no pod can have.
func TestPodAndServiceProxy(t *testing.T) {
	w, n := newWorldWithNode(t)
	n.says(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/within":
			http.Redirect(w, r, "/there?x=1", http.StatusFound)
		default:
			fmt.Fprint(w, r.Method, " ", r.URL.RequestURI())
		}
	})
	setIP := func(ip string) {
		t.Helper()
		w.must(t, 200, "PATCH", podURL+"/a/status", `{"status":{"podIP":"`+ip+`","podIPs":[{"ip":"`+ip+`"}]}}`, "Content-Type", mergeType)
	}
	proxy := podURL + "/https:a:" + n.port(t) + "/proxy"
	w.must(t, 400, "GET", proxy+"/x", "")
	setIP("127.0.0.1")
	if a := w.must(t, 400, "GET", proxy+"/x", ""); a.at("message") != "address not allowed" {
		t.Errorf("%s", a.raw)
	}
	if n.last() != "" {
		t.Fatalf("a loopback address was asked for %s", n.last())
	}
	w.must(t, 201, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"s"},"spec":{"ports":[{"name":"web","port":80}]}}`)
	w.must(t, 503, "GET", "/api/v1/namespaces/default/services/s/proxy/x", "")

	apiserver.AllowLoopback(w.server)
	if a := w.must(t, 200, "GET", proxy+"/x/?y=z", ""); a.raw != "GET /x/?y=z" {
		t.Errorf("%s", a.raw)
	}
	if a := w.must(t, 200, "DELETE", proxy+"/x", ""); a.raw != "DELETE /x" {
		t.Errorf("%s", a.raw)
	}
	w.must(t, 502, "GET", proxy+"/away", "")
	if a := w.must(t, 302, "GET", proxy+"/within", ""); a.header.Get("Location") != proxy+"/there?x=1" {
		t.Errorf("%s", a.header.Get("Location"))
	}
	w.must(t, 201, "POST", "/api/v1/namespaces/default/endpoints", `{"metadata":{"name":"s"},"subsets":[{"addresses":[{"ip":"192.0.2.9"}],"ports":[{"name":"web","port":`+n.port(t)+`}]}]}`)
	w.must(t, 400, "GET", "/api/v1/namespaces/default/services/ftp:s:web/proxy/x", "")
	w.must(t, 503, "GET", "/api/v1/namespaces/default/services/s:nope/proxy/x", "")
	w.must(t, 404, "GET", "/api/v1/namespaces/default/services/nope/proxy/x", "")
}

// TestServerEndsStreams: what has been hijacked ends with the server.
func TestServerEndsStreams(t *testing.T) {
	w, n := newWorldWithNode(t)
	n.says(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
		_, _ = io.Copy(io.Discard, conn) // until the other end closes
	})
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
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/a/exec?container=c HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", podURL)
	var got bytes.Buffer
	for !strings.HasSuffix(got.String(), "hello") {
		part := make([]byte, 4096)
		k, err := conn.Read(part)
		got.Write(part[:k])
		if err != nil {
			t.Fatalf("%v after %s", err, got.String())
		}
	}
	cancel()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Logf("the stream ended by %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

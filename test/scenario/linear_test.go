package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/vishvananda/netns"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// server starts only the control plane on the host.
func (h *host) server(t testing.TB) {
	t.Helper()
	h.knarr(t, "server", "--detach", "--data-dir", h.dataDir, "--node-name", h.netns)
}

// dial connects from the host's network.
func (h *host) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(h.netns)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			done <- result{err: err}
			return
		}
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		done <- result{c, err}
	}()
	r := <-done
	return r.c, r.err
}

// restConfig is the administrator's, from the host's network.
func (h *host) restConfig(t testing.TB) *rest.Config {
	t.Helper()
	c, err := clientcmd.BuildConfigFromFlags("", filepath.Join(h.dataDir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	c.Dial = h.dial
	return c
}

const (
	linearRounds  = 100
	linearClients = 6
	linearKeys    = 3
	// checkPatience bounds the search for an order, which can take exponentially
	// long; one second is mostly a hundred times what it takes.
	checkPatience = 5 * time.Second
)

// TestLinearizable: concurrent clients write and read a few objects while the
// server is killed again and again; whatever it has said, and whatever is there
// when it is back, fits one order of events in real time.
func TestLinearizable(t *testing.T) {
	h := newLAN(t).newHost(t)
	h.server(t)
	conf := h.restConfig(t)
	conf.NextProtos = []string{"http/1.1"}
	transport, err := rest.TransportFor(conf)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	ops, lost, undecided := 0, 0, 0
	for round := range linearRounds {
		r := &recording{url: conf.Host + "/api/v1/namespaces/default/configmaps", http: &http.Client{Transport: transport, Timeout: 10 * time.Second},
			prefix: fmt.Sprintf("r%d-", round), began: time.Now(), stop: make(chan struct{})}
		var clients sync.WaitGroup
		for i := range linearClients {
			seed := rng.Uint64()
			clients.Go(func() { r.client(i, rand.New(rand.NewPCG(seed, uint64(i)))) })
		}
		<-time.After(time.Duration(100+rng.IntN(400)) * time.Millisecond)
		kill(t, pidOf(t, h), syscall.SIGKILL)
		close(r.stop)
		clients.Wait()
		r.settle(time.Since(r.began))
		h.server(t)
		for k := range linearKeys {
			r.do(0, request{key: r.key(k), verb: "get"})
		}
		r.list(0)
		ops += len(r.history)
		for _, o := range r.history {
			if o.Output.(reply).kind == "lost" {
				lost++
			}
		}
		result := porcupine.CheckOperationsTimeout(registers.ToModel(), r.history, checkPatience)
		if result == porcupine.Unknown {
			undecided++
			continue
		}
		if result == porcupine.Illegal {
			for _, o := range r.history {
				t.Logf("%d %8.3f..%8.3f ms %+v -> %+v", o.ClientId, float64(o.Call)/1e6, float64(o.Return)/1e6, o.Input, o.Output)
			}
			t.Fatalf("round %d: this history has no order", round)
		}
	}
	if undecided > linearRounds/10 {
		t.Errorf("%d histories were too tangled to be judged", undecided)
	}
	if ops < 20*linearRounds || lost == 0 {
		t.Errorf("%d operations, %d without an answer: too few to show anything", ops, lost)
	}
	t.Logf("%d operations in %d rounds, %d without an answer", ops, linearRounds, lost)
}

// recording is the history of one round.
type recording struct {
	url, prefix string
	http        *http.Client
	began       time.Time
	stop        chan struct{}

	mu      sync.Mutex
	history []porcupine.Operation
	values  int
}

func (r *recording) key(i int) string { return fmt.Sprintf("%sk%d", r.prefix, i) }

// client asks for this and that until it is stopped.
func (r *recording) client(id int, rng *rand.Rand) {
	versions := map[string]string{} // that this client saw last
	for {
		select {
		case <-r.stop:
			return
		default:
		}
		in := request{key: r.key(rng.IntN(linearKeys))}
		switch n := rng.IntN(100); {
		case n < 20:
			in.verb = "create"
		case n < 35:
			in.verb = "put"
		case n < 60:
			in.verb, in.version = "cas", versions[in.key]
			if in.version == "" {
				in.verb = "put"
			}
		case n < 70:
			in.verb = "delete"
		case n < 75:
			r.list(id)
			continue
		default:
			in.verb = "get"
		}
		out := r.do(id, in)
		if out.version != "" {
			versions[in.key] = out.version
		}
		if out.kind == "lost" || out.kind == "refused" {
			<-time.After(5 * time.Millisecond) // the server is down or about to be
		}
	}
}

// do sends one request and notes how it went. Every value is written once.
func (r *recording) do(id int, in request) reply {
	r.mu.Lock()
	r.values++
	in.value = fmt.Sprint(r.values)
	r.mu.Unlock()
	method, url, body := http.MethodGet, r.url+"/"+in.key, ""
	object := func() string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":%q},"data":{"v":%q}}`, in.key, in.version, in.value)
	}
	switch in.verb {
	case "create":
		method, url, body = http.MethodPost, r.url, object()
	case "put", "cas":
		method, body = http.MethodPut, object()
	case "delete":
		method = http.MethodDelete
	}
	call := time.Since(r.began)
	out := r.ask(method, url, body)
	r.note(id, in, out, call)
	return out
}

func (r *recording) note(id int, in request, out reply, call time.Duration) {
	if in.verb == "get" && out.kind == "lost" || out.kind == "refused" {
		return // it says nothing, or never reached the server
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, porcupine.Operation{ClientId: id, Input: in, Call: int64(call), Output: out, Return: int64(time.Since(r.began))})
}

// ask returns "lost" for everything that leaves open what has happened.
func (r *recording) ask(method, url, body string) reply {
	var object struct {
		Metadata struct{ ResourceVersion string }
		Data     map[string]string
	}
	code, data := r.raw(method, url, body)
	switch code {
	case refusedConnection:
		return reply{kind: "refused"}
	case http.StatusNotFound:
		return reply{kind: "absent"}
	case http.StatusConflict:
		if bytes.Contains(data, []byte(`"AlreadyExists"`)) {
			return reply{kind: "exists"}
		}
		return reply{kind: "conflict"}
	case http.StatusOK, http.StatusCreated:
		if method == http.MethodDelete {
			return reply{kind: "ok"}
		}
		if err := json.Unmarshal(data, &object); err == nil {
			return reply{"ok", object.Data["v"], object.Metadata.ResourceVersion}
		}
	}
	return reply{kind: "lost"}
}

// refusedConnection in place of a code: the request was never sent.
const refusedConnection = -1

func (r *recording) raw(method, url, body string) (int, []byte) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.http.Do(req)
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return refusedConnection, nil
	}
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, data
}

// list reads all keys at once.
func (r *recording) list(id int) {
	var list struct {
		Items []struct {
			Metadata struct{ Name, ResourceVersion string }
			Data     map[string]string
		}
	}
	call := time.Since(r.began)
	code, data := r.raw(http.MethodGet, r.url, "")
	if code != http.StatusOK || json.Unmarshal(data, &list) != nil {
		return
	}
	seen := map[string]reply{}
	for _, o := range list.Items {
		seen[o.Metadata.Name] = reply{"ok", o.Data["v"], o.Metadata.ResourceVersion}
	}
	for k := range linearKeys {
		out, ok := seen[r.key(k)]
		if !ok {
			out = reply{kind: "absent"}
		}
		r.note(id, request{key: r.key(k), verb: "get"}, out, call)
	}
}

// settle: what was not answered has happened before the server's death or not
// at all.
func (r *recording) settle(death time.Duration) {
	for i := range r.history {
		if r.history[i].Output.(reply).kind == "lost" {
			r.history[i].Return = max(int64(death), r.history[i].Return)
		}
	}
}

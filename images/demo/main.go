// Command demo is the web application of the first minutes: every answer says
// which pod gave it. The container's environment names the pod (downward
// API): POD_NAME, POD_NAMESPACE, NODE_NAME, POD_IP.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxHeaders     = 32  // listed in an answer
	maxHeaderValue = 256 // bytes of each
	maxBurn        = 10 * time.Second
	maxBurners     = 4 // at once; the rest is told to come back
	drain          = 10 * time.Second
)

func main() {
	if len(os.Args) > 1 {
		if err := ask(os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			os.Exit(1)
		}
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("demo ends", "error", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	app := newApp(identity())
	srv := &http.Server{
		Addr: ":" + port, Handler: app.handler(),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 2 * maxBurn, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	log.Info("demo answers", "port", port, "pod", app.who.Pod)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	app.ready.Store(false)
	end, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if err := srv.Shutdown(end); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// who is what an answer says about the pod.
type who struct {
	Pod       string `json:"pod"`
	Namespace string `json:"namespace"`
	Node      string `json:"node"`
	PodIP     string `json:"podIP"`
}

func identity() who {
	w := who{Pod: os.Getenv("POD_NAME"), Namespace: os.Getenv("POD_NAMESPACE"), Node: os.Getenv("NODE_NAME"), PodIP: os.Getenv("POD_IP")}
	if w.Pod == "" {
		w.Pod, _ = os.Hostname() // a pod's host name is its name
	}
	return w
}

type app struct {
	who     who
	ready   atomic.Bool
	served  atomic.Int64
	burners chan struct{}
}

func newApp(w who) *app {
	a := &app{who: w, burners: make(chan struct{}, maxBurners)}
	a.ready.Store(true)
	return a
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.root)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.HandleFunc("POST /readyz", a.setReady)
	mux.HandleFunc("GET /burn", a.burn)
	return mux
}

// root answers text to people and JSON to programs that ask for it.
func (a *app) root(w http.ResponseWriter, r *http.Request) {
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	n := a.served.Add(1)
	headers := listHeaders(r.Header)
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(struct {
			who
			Client  string   `json:"client"`
			Host    string   `json:"host"`
			Served  int64    `json:"served"`
			Headers []string `json:"headers"`
		}{a.who, client, clip(r.Host), n, headers})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Hello from pod %s\n\nnamespace  %s\nnode       %s\npod IP     %s\nclient     %s\nhost       %s\nserved     %d\n\n%s\n",
		a.who.Pod, a.who.Namespace, a.who.Node, a.who.PodIP, client, clip(r.Host), n, strings.Join(headers, "\n"))
}

func listHeaders(h http.Header) []string {
	var out []string
	for k, vs := range h {
		out = append(out, clip(k)+": "+clip(strings.Join(vs, ", ")))
	}
	slices.Sort(out)
	return out[:min(len(out), maxHeaders)]
}

func clip(s string) string { return s[:min(len(s), maxHeaderValue)] }

func (a *app) readyz(w http.ResponseWriter, _ *http.Request) {
	if !a.ready.Load() {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// setReady turns readiness on or off (?ready=true|false), to show how a
// service loses and regains an endpoint.
func (a *app) setReady(w http.ResponseWriter, r *http.Request) {
	ready, err := strconv.ParseBool(r.URL.Query().Get("ready"))
	if err != nil {
		http.Error(w, "want ?ready=true or ?ready=false", http.StatusBadRequest)
		return
	}
	a.ready.Store(ready)
	fmt.Fprintf(w, "ready=%t\n", ready)
}

// burn keeps one processor busy for ?ms= milliseconds, to show autoscaling.
func (a *app) burn(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if err != nil || ms < 0 || ms > int(maxBurn.Milliseconds()) {
		http.Error(w, fmt.Sprintf("want ?ms=0 to %d", maxBurn.Milliseconds()), http.StatusBadRequest)
		return
	}
	select {
	case a.burners <- struct{}{}:
		defer func() { <-a.burners }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many at once", http.StatusTooManyRequests)
		return
	}
	until := time.Now().Add(time.Duration(ms) * time.Millisecond)
	x := uint64(1)
	for time.Now().Before(until) && r.Context().Err() == nil {
		for range 10_000 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
	}
	fmt.Fprintf(w, "burned %d ms on %s (%x)\n", ms, a.who.Pod, x)
}

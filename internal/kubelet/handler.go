package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/logs"
	"knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/view"
)

func quiet(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }

// handler of the kubelet's API. The paths are upstream's: API servers know
// them.
func (k *Kubelet) handler() http.Handler {
	mux := http.NewServeMux()
	g := newGate(k.cfg)
	mux.Handle("GET /healthz", g.guard(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, "healthz", "proxy"))
	mux.Handle("GET /containerLogs/{namespace}/{pod}/{container}", g.guard(k.serveLogs, "proxy"))
	for _, path := range []string{"/exec/{namespace}/{pod}/{container}", "/exec/{namespace}/{pod}/{uid}/{container}"} {
		mux.Handle(path, g.guard(k.serveExec, "proxy"))
	}
	for _, path := range []string{"/attach/{namespace}/{pod}/{container}", "/attach/{namespace}/{pod}/{uid}/{container}"} {
		mux.Handle(path, g.guard(k.serveAttach, "proxy"))
	}
	for _, path := range []string{"/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}"} {
		mux.Handle(path, g.guard(k.servePortForward, "proxy"))
	}
	mux.Handle("GET /pods", g.guard(k.servePods, "pods", "proxy"))
	mux.Handle("GET /stats/summary", g.guard(k.serveSummary, "stats"))
	for path, of := range k.scraped() {
		mux.Handle("GET "+path, g.guard(promhttp.HandlerFor(of, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP, "metrics"))
	}
	mux.Handle("/", g.guard(http.NotFound, "proxy"))
	return k.metrics.served(mux)
}

// scraped is what may be read of metrics, by path.
func (k *Kubelet) scraped() map[string]prometheus.Gatherer {
	of := func(c ...prometheus.Collector) prometheus.Gatherer {
		r := prometheus.NewRegistry()
		r.MustRegister(c...)
		return r
	}
	return map[string]prometheus.Gatherer{
		"/metrics": k.cfg.Metrics, "/metrics/resource": of(resources{k}), "/metrics/cadvisor": of(cgroupMetrics{k}), "/metrics/probes": of(k.prober),
	}
}

// workerFor the pod of a request.
func (k *Kubelet) workerFor(r *http.Request) *worker {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	for _, w := range k.list() {
		pod, _ := w.current()
		if pod.Namespace == namespace && pod.Name == name && (uid == "" || string(pod.UID) == uid) {
			return w
		}
	}
	return nil
}

// logOptions reads the query as the API's PodLogOptions.
func logOptions(q url.Values, now time.Time) (logs.Options, error) {
	o := logs.Options{Tail: -1, Follow: isSet(q.Get("follow")), Timestamps: isSet(q.Get("timestamps"))}
	number := func(name string) (int64, bool, error) {
		s := q.Get(name)
		if s == "" {
			return 0, false, nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return 0, false, fmt.Errorf("invalid %s: %q", name, s)
		}
		return n, true, nil
	}
	if n, ok, err := number("tailLines"); err != nil {
		return o, err
	} else if ok {
		o.Tail = n
	}
	var err error
	if o.Limit, _, err = number("limitBytes"); err != nil {
		return o, err
	}
	if n, ok, err := number("sinceSeconds"); err != nil {
		return o, err
	} else if ok {
		o.Since = now.Add(-time.Duration(min(n, 1<<32)) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return o, fmt.Errorf("invalid sinceTime: %w", err)
		}
		o.Since = t
	}
	switch s := q.Get("stream"); s {
	case "", "All":
	case "Stdout":
		o.Stream = "stdout"
	case "Stderr":
		o.Stream = "stderr"
	default:
		return o, fmt.Errorf("invalid stream: %q", s)
	}
	return o, nil
}

func isSet(s string) bool { return s == "true" || s == "1" }

func (k *Kubelet) serveLogs(rw http.ResponseWriter, r *http.Request) {
	w := k.workerFor(r)
	name := r.PathValue("container")
	if w == nil {
		http.Error(rw, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	o, err := logOptions(r.URL.Query(), k.cfg.Now())
	if err != nil {
		http.Error(rw, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	c := w.find(name)
	if isSet(r.URL.Query().Get("previous")) {
		pod, _ := w.current()
		if c = w.previous(name); c == nil {
			http.Error(rw, fmt.Sprintf("previous terminated container %q in pod %q not found", name, pod.Name), http.StatusBadRequest)
			return
		}
	}
	if c == nil || c.State == plan.Created {
		pod, _ := w.current()
		http.Error(rw, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, pod.Name, waitsFor(pod, name)), http.StatusBadRequest)
		return
	}
	path := k.logPath(w, c)
	if _, err := os.Stat(path); err != nil {
		http.Error(rw, fmt.Sprintf("unable to retrieve container logs for containerd://%s", c.ID), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "text/plain")
	rw.WriteHeader(http.StatusOK)
	alive := func() bool {
		now := w.find(name)
		return now != nil && now.ID == c.ID && now.State == plan.Running && r.Context().Err() == nil
	}
	flusher := http.NewResponseController(rw)
	// An error here is the client's leaving, or a log that was removed.
	if err := logs.Read(r.Context(), path, o, alive, rw, func() { _ = flusher.Flush() }); err != nil {
		w.log.Debug("log stream ended", "container", name, "error", err)
	}
}

// waitsFor is the reason that a container has not started.
func waitsFor(pod *corev1.Pod, name string) string {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if s := &list[i]; s.Name == name && s.State.Waiting != nil && s.State.Waiting.Reason != "" {
				if m := s.State.Waiting.Message; m != "" {
					return m
				}
				return s.State.Waiting.Reason
			}
		}
	}
	return "ContainerCreating"
}

// container of a stream request; it answers for itself when there is none.
func (k *Kubelet) container(rw http.ResponseWriter, r *http.Request) *plan.Container {
	w := k.workerFor(r)
	if w == nil {
		http.Error(rw, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return nil
	}
	c := w.find(r.PathValue("container"))
	if c == nil || c.State != plan.Running {
		http.Error(rw, fmt.Sprintf("container not found (%q)", r.PathValue("container")), http.StatusNotFound)
		return nil
	}
	return c
}

// terminal reports whether a container was given one.
func terminal(pod *corev1.Pod, name string) bool {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return list[i].TTY
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return pod.Spec.EphemeralContainers[i].TTY
		}
	}
	return false
}

type streams struct{ in, out, err, tty bool }

func streamsOf(q url.Values) (streams, error) {
	s := streams{in: isSet(q.Get("input")) || isSet(q.Get("stdin")), out: isSet(q.Get("output")) || isSet(q.Get("stdout")),
		err: isSet(q.Get("error")) || isSet(q.Get("stderr")), tty: isSet(q.Get("tty"))}
	if s.tty { // a terminal has one output
		s.err = false
	}
	if !s.in && !s.out && !s.err {
		return s, errors.New("you must specify at least 1 of stdin, stdout, stderr")
	}
	return s, nil
}

func (k *Kubelet) serveExec(rw http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s, err := streamsOf(q)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	c := k.container(rw, r)
	if c == nil {
		return
	}
	res, err := k.cri.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{ContainerId: c.ID, Cmd: q["command"], Stdin: s.in, Stdout: s.out, Stderr: s.err, Tty: s.tty})
	k.stream(rw, r, res.GetUrl(), err)
}

func (k *Kubelet) serveAttach(rw http.ResponseWriter, r *http.Request) {
	s, err := streamsOf(r.URL.Query())
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	c := k.container(rw, r)
	if c == nil {
		return
	}
	// A container has its terminal or none from its start: what the client would
	// like does not matter.
	if w := k.workerFor(r); w != nil {
		pod, _ := w.current()
		s.tty = terminal(pod, c.Name)
		s.err = s.err && !s.tty
	}
	res, err := k.cri.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{ContainerId: c.ID, Stdin: s.in, Stdout: s.out, Stderr: s.err, Tty: s.tty})
	k.stream(rw, r, res.GetUrl(), err)
}

func (k *Kubelet) servePortForward(rw http.ResponseWriter, r *http.Request) {
	w := k.workerFor(r)
	if w == nil {
		http.Error(rw, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	w.mu.Lock()
	id := ""
	if len(w.sandboxes) > 0 && w.sandboxes[0].Ready {
		id = w.sandboxes[0].ID
	}
	w.mu.Unlock()
	if id == "" {
		http.Error(rw, "pod does not run", http.StatusConflict)
		return
	}
	var ports []int32
	for _, s := range append(r.URL.Query()["port"], r.URL.Query()["ports"]...) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			http.Error(rw, fmt.Sprintf("invalid port %q", s), http.StatusBadRequest)
			return
		}
		ports = append(ports, int32(n))
	}
	res, err := k.cri.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: ports})
	k.stream(rw, r, res.GetUrl(), err)
}

// stream hands the connection to the runtime's streaming server. It answers no
// redirects and follows none (CVE-2020-8559).
func (k *Kubelet) stream(rw http.ResponseWriter, r *http.Request, to string, err error) {
	if err != nil {
		http.Error(rw, clean(err).Error(), http.StatusInternalServerError)
		return
	}
	if !strings.EqualFold(r.Header.Get("Connection"), "upgrade") && r.Header.Get("Upgrade") == "" {
		http.Error(rw, "Upgrade request required", http.StatusBadRequest)
		return
	}
	u, err := url.Parse(to)
	if err != nil || u.Host == "" {
		http.Error(rw, "the runtime gave no streaming address", http.StatusInternalServerError)
		return
	}
	h := proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{k.cfg.Log})
	h.ServeHTTP(rw, r)
}

type responder struct{ log *slog.Logger }

func (p responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	p.log.Debug("stream ended", "error", err)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func (k *Kubelet) servePods(rw http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{}
	list.APIVersion, list.Kind = "v1", "PodList"
	for pod := range view.By[*corev1.Pod](k.cfg.View.Snapshot(), view.PodsByNode, k.cfg.NodeName) {
		list.Items = append(list.Items, *pod)
	}
	answer(rw, &list)
}

func answer(rw http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	_, _ = rw.Write(data) // the client may have left
}

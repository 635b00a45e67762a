package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/version"
)

// extra finds the handler of a path: an exact one, or the longest prefix.
func (s *Server) extra(path string) http.Handler {
	if h := s.cfg.Extra[strings.TrimSuffix(path, "/")]; h != nil && path != "/" {
		return h
	}
	var best string
	for p := range s.cfg.Extra {
		if strings.HasSuffix(p, "/") && strings.HasPrefix(path, p) && len(p) > len(best) {
			best = p
		}
	}
	return s.cfg.Extra[best]
}

// serveOther answers what is no resource.
func (s *Server) serveOther(w *recorder, r *http.Request, in *info) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return statusError(http.StatusMethodNotAllowed, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	}
	switch name, check, _ := strings.Cut(strings.Trim(in.path, "/"), "/"); name {
	case "livez", "readyz", "healthz":
		s.health(w, r, name, check)
		return nil
	case "version":
		w.Header().Set("Content-Type", typeJSON)
		return json.NewEncoder(w).Encode(version.Info())
	case "metrics":
		promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
		return nil
	case "":
		w.Header().Set("Content-Type", typeJSON)
		return json.NewEncoder(w).Encode(map[string]any{"paths": s.paths()})
	}
	h := s.extra(in.path)
	if h == nil {
		return pathNotFound()
	}
	h.ServeHTTP(w, r)
	return nil
}

func (s *Server) paths() []string {
	out := []string{"/healthz", "/livez", "/metrics", "/readyz", "/version"}
	for p := range s.cfg.Extra {
		out = append(out, strings.TrimSuffix(p, "/"))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// health runs the named checks; liveness asks for nothing that a restart would
// not mend.
func (s *Server) health(w http.ResponseWriter, r *http.Request, name, only string) {
	checks := map[string]func(context.Context) error{"ping": func(context.Context) error { return nil }}
	if name != "livez" {
		checks["etcd"] = func(ctx context.Context) error {
			_, err := s.cfg.Store.Revision(ctx)
			return err
		}
		checks["cache"] = func(context.Context) error {
			select {
			case <-s.cfg.Cache.Ready():
				return nil
			default:
				return fmt.Errorf("the first list is not in")
			}
		}
		for n, c := range s.cfg.Ready {
			checks[n] = c
		}
	}
	if only != "" {
		c, ok := checks[only]
		if !ok {
			http.NotFound(w, r)
			return
		}
		checks = map[string]func(context.Context) error{only: c}
	}
	for _, skip := range r.URL.Query()["exclude"] {
		delete(checks, skip)
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	names := make([]string, 0, len(checks))
	for n := range checks {
		names = append(names, n)
	}
	slices.Sort(names)
	var lines strings.Builder
	failed := false
	for _, n := range names {
		if err := checks[n](ctx); err != nil {
			failed = true
			s.log.Warn("health check failed", "check", n, "error", err)
			fmt.Fprintf(&lines, "[-]%s failed: reason withheld\n", n)
			continue
		}
		fmt.Fprintf(&lines, "[+]%s ok\n", n)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, verbose := r.URL.Query()["verbose"]
	switch {
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", lines.String(), name)
	case verbose:
		fmt.Fprintf(w, "%s%s check passed\n", lines.String(), name)
	default:
		fmt.Fprint(w, "ok")
	}
}

// metrics have upstream's names. Labels take values from the table of kinds
// and fixed sets only, never from a client.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	known    map[string]bool
}

func newMetrics(c *cache.Cache, table *kinds.Table) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), known: map[string]bool{}}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total", Help: "Requests by verb, group, version, resource, subresource and status code."},
		[]string{"verb", "group", "version", "resource", "subresource", "code"})
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds", Help: "Time to answer, without watches and streams.",
		Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}}, []string{"verb", "resource"})
	m.registry.MustRegister(m.requests, m.duration, objectCounts{c, table},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, k := range table.All() {
		m.known[k.Resource] = true
		for sub := range k.Subresources {
			m.known[k.Resource+"/"+sub] = true
		}
	}
	return m
}

var verbLabels = map[string]string{"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETECOLLECTION"}

func (m *metrics) observe(in *info, code int, took time.Duration) {
	verb, group, version, resource, sub := verbLabels[in.verb], in.gvr.Group, in.gvr.Version, in.gvr.Resource, in.sub
	key := resource
	if sub != "" {
		key += "/" + sub
	}
	if verb == "" {
		verb = "other"
	}
	if !in.resource || !m.known[key] {
		group, version, resource, sub = "", "", "", ""
	}
	m.requests.WithLabelValues(verb, group, version, resource, sub, itoa(code)).Inc()
	if !in.longRunning() {
		m.duration.WithLabelValues(verb, resource).Observe(took.Seconds())
	}
}

// objectCounts is counted when asked for.
type objectCounts struct {
	cache *cache.Cache
	table *kinds.Table
}

var objectsDesc = prometheus.NewDesc("apiserver_storage_objects", "Stored objects by resource.", []string{"resource"}, nil)

func (o objectCounts) Describe(ch chan<- *prometheus.Desc) { ch <- objectsDesc }

func (o objectCounts) Collect(ch chan<- prometheus.Metric) {
	for _, k := range o.table.All() {
		if k.Stored() {
			ch <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, float64(o.cache.List(k, "").Len()), k.String())
		}
	}
}

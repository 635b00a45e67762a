package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

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
	if run := s.cfg.Commands[in.path]; run != nil && r.Method == http.MethodPost {
		out, err := run(r.Context(), r.URL.Query())
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", typeJSON)
		return json.NewEncoder(w).Encode(out)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return statusError(http.StatusMethodNotAllowed, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	}
	switch name, check, deeper := strings.Cut(strings.Trim(in.path, "/"), "/"); name {
	case "livez", "readyz", "healthz":
		s.health(w, r, name, check)
		return nil
	case "version":
		if deeper {
			break
		}
		w.Header().Set("Content-Type", typeJSON)
		return json.NewEncoder(w).Encode(version.Info())
	case "metrics":
		g := s.metrics.gatherer(check)
		if g == nil {
			break
		}
		promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, r)
		return nil
	case "":
		w.Header().Set("Content-Type", typeJSON)
		return json.NewEncoder(w).Encode(map[string]any{"paths": s.paths()})
	}
	h := s.extra(in.path)
	if h == nil {
		return pathNotFound()
	}
	if described(in.path) && wantsGzip(r) && r.Method == http.MethodGet {
		z := &zipper{ResponseWriter: w}
		h.ServeHTTP(z, r)
		z.end()
		return nil
	}
	h.ServeHTTP(w, r)
	return nil
}

func (s *Server) paths() []string {
	out := []string{"/healthz", "/livez", "/metrics", "/readyz", "/version"}
	for p := range s.cfg.Extra {
		out = append(out, strings.TrimSuffix(p, "/"))
	}
	for _, k := range s.cfg.Kinds.All() {
		if k.GVK.Group == "" {
			out = append(out, "/api/"+k.GVK.Version)
		} else {
			out = append(out, "/apis/"+k.GVK.Group, "/apis/"+k.GVK.GroupVersion().String())
		}
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
		err := checks[n](ctx)
		s.metrics.checked(name, n, err)
		if err != nil {
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

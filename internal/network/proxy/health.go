package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// health answers load balancers on healthCheckNodePorts: 200 while the service
// has endpoints on this node, 503 otherwise. Nothing else is told.
type health struct {
	log    *slog.Logger
	wanted map[string]*Health // by service

	mu      sync.Mutex
	local   map[uint16]Health
	servers map[uint16]*http.Server
}

func newHealth(log *slog.Logger) *health {
	return &health{log: log, wanted: map[string]*Health{}, local: map[uint16]Health{}, servers: map[uint16]*http.Server{}}
}

func (h *health) set(service string, want *Health) {
	if want == nil {
		delete(h.wanted, service)
		return
	}
	h.wanted[service] = want
}

// apply opens and closes ports and publishes the counts.
func (h *health) apply() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.local)
	for _, w := range h.wanted {
		h.local[w.Port] = *w
	}
	for port, srv := range h.servers {
		if _, ok := h.local[port]; !ok {
			_ = srv.Close()
			delete(h.servers, port)
		}
	}
	for port := range h.local {
		if h.servers[port] != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			h.log.Error("cannot serve a health check port", "port", port, "error", err)
			continue
		}
		srv := &http.Server{Handler: h.handler(port), ReadHeaderTimeout: 3 * time.Second, ReadTimeout: 3 * time.Second, WriteTimeout: 3 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
		h.servers[port] = srv
		go func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				h.log.Error("health check port ended", "port", port, "error", err)
			}
		}()
	}
}

func (h *health) handler(port uint16) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		s := h.local[port]
		h.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", fmt.Sprint(s.Local))
		if s.Local == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"service": map[string]string{"namespace": s.Namespace, "name": s.Name}, "localEndpoints": s.Local, "serviceProxyHealthy": true,
		})
	})
}

func (h *health) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.servers {
		_ = s.Close()
	}
}

func splitKey(key string) (namespace, name string) {
	namespace, name, _ = strings.Cut(key, "/")
	return namespace, name
}

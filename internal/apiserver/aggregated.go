package apiserver

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/apiserver/aggregate"
)

// backend is the API server that answers for the request's group and version
// instead of this one, or nil. What this server has it answers itself, unless it
// is measured and somebody else was registered to measure it.
func (s *Server) backend(in *info) *aggregate.Backend {
	if s.cfg.Backend == nil {
		return nil
	}
	gv := in.gvr.GroupVersion()
	switch {
	case in.resource && gv.Group == "":
		return nil
	case in.resource:
		if k := s.cfg.Kinds.ByResource(in.gvr); k != nil && !k.Measured {
			return nil
		}
	default:
		// Its discovery, or its OpenAPI document.
		parts := strings.Split(strings.TrimPrefix(strings.Trim(in.path, "/"), "openapi/v3/"), "/")
		if len(parts) != 3 || parts[0] != "apis" {
			return nil
		}
		gv = schema.GroupVersion{Group: parts[1], Version: parts[2]}
		if s.serves(gv) && !s.cfg.Kinds.Now().Yields(gv) {
			return nil
		}
	}
	return s.cfg.Backend(gv)
}

// aggregated hands the request to another API server, with the user's identity
// in headers that only our certificate makes credible.
func (s *Server) aggregated(w *recorder, r *http.Request, u user.Info, b *aggregate.Backend) error {
	to, err := b.URL()
	if err != nil {
		return err
	}
	to.Path, to.RawPath, to.RawQuery = r.URL.Path, r.URL.RawPath, r.URL.RawQuery
	return s.forward(w, r, hop{target: to, transport: b.Transport, kind: anAPI, identify: func(h http.Header) {
		aggregate.SetUser(h, u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra())
	}})
}

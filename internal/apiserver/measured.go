package apiserver

import (
	"context"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/cache"
)

// unrevised is the revision of a list of what is in no store: it has none.
const unrevised = -1

func (s *Server) measured() (Measured, error) {
	if s.cfg.Measured == nil {
		return nil, statusError(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "this server measures nothing")
	}
	return s.cfg.Measured, nil
}

// measure makes the one object of that name.
func (s *Server) measure(ctx context.Context, ref kinds.Ref) (*cache.Item, error) {
	m, err := s.measured()
	if err != nil {
		return nil, err
	}
	obj, err := m.Get(ctx, ref.Kind, ref.Namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	return cache.ItemOf(ref.Kind, obj), nil
}

// measureAll lists them; such a list has no revision and comes whole.
func (s *Server) measureAll(ctx context.Context, k *kinds.Kind, namespace string, sel selection) (*listing, error) {
	m, err := s.measured()
	if err != nil {
		return nil, err
	}
	list, err := m.List(ctx, k, namespace)
	if err != nil {
		return nil, err
	}
	out := &listing{rev: unrevised}
	for _, obj := range list {
		it := cache.ItemOf(k, obj)
		ok, err := sel.matches(ctx, it)
		if err != nil {
			return nil, err
		}
		if ok {
			out.items = append(out.items, it)
		}
	}
	return out, nil
}

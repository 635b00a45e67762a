package server

import (
	"context"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// checks of /readyz.
func (s *control) checks() map[string]func(context.Context) error {
	checks := map[string]func(context.Context) error{"disk": func(context.Context) error { return s.etcd.DiskRoom() }}
	if s.encryption != nil {
		checks["kms-providers"] = s.encryption.Check
	}
	return checks
}

// byResource finds the transformer of a key's resource.
func byResource(table *kinds.Table, of func(schema.GroupResource) store.Transformer) func(key string) store.Transformer {
	resource, known := resourceOf(table), sync.Map{}
	return func(key string) store.Transformer {
		gr := resource(key)
		if gr.Resource == "" {
			return nil
		}
		t, ok := known.Load(gr)
		if !ok {
			t, _ = known.LoadOrStore(gr, of(gr))
		}
		return t.(store.Transformer)
	}
}

// resourceOf finds what a key holds: built-in kinds by their prefixes, the
// others are custom ones, below their group and resource.
func resourceOf(table *kinds.Table) func(key string) schema.GroupResource {
	builtin := map[string]schema.GroupResource{}
	for _, k := range table.All() {
		if k.Stored() && k.StoredAs == nil && k.Now == nil {
			builtin[k.Prefix] = k.GroupResource()
		}
	}
	return func(key string) schema.GroupResource {
		path := strings.TrimPrefix(key, kinds.Root)
		for i, r := range path {
			if r == '/' {
				if gr, ok := builtin[path[:i]]; ok {
					return gr
				}
			}
		}
		group, rest, ok := strings.Cut(path, "/")
		resource, _, deeper := strings.Cut(rest, "/")
		if !ok || !deeper || !strings.Contains(group, ".") {
			return schema.GroupResource{}
		}
		return schema.GroupResource{Group: group, Resource: resource}
	}
}

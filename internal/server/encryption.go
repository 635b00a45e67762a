package server

import (
	"context"
	"strings"

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

// byResource finds the transformer of a key's resource: built-in kinds by
// their prefixes, the others are custom ones, below their group and resource.
func byResource(table *kinds.Table, of func(schema.GroupResource) store.Transformer) func(key string) store.Transformer {
	builtin := map[string]store.Transformer{}
	for _, k := range table.All() {
		if k.Stored() && k.StoredAs == nil && k.Now == nil {
			builtin[k.Prefix] = of(schema.GroupResource{Group: k.GVK.Group, Resource: k.Resource})
		}
	}
	return func(key string) store.Transformer {
		path := strings.TrimPrefix(key, kinds.Root)
		for i, r := range path {
			if r == '/' {
				if t := builtin[path[:i]]; t != nil {
					return t
				}
			}
		}
		group, rest, ok := strings.Cut(path, "/")
		resource, _, deeper := strings.Cut(rest, "/")
		if !ok || !deeper || !strings.Contains(group, ".") {
			return nil
		}
		return of(schema.GroupResource{Group: group, Resource: resource})
	}
}

//go:build openapigen

package main

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"knarr.dev/knarr/internal/apiserver/openapi/gen/defs"
)

// relations writes what the Go types do not say about the ownership of fields:
// which lists are sets or maps, by which keys, and which objects are one value.
// A line is: model, property or "-" for the model itself, relation, keys. A key
// that may be absent is followed by "=" and its default.
func relations(out string) error {
	all := defs.GetOpenAPIDefinitions(func(name string) spec.Ref { return spec.MustCreateRef(name) })
	var lines []string
	for model, def := range all {
		if def.Schema.Extensions["x-kubernetes-map-type"] == "atomic" {
			lines = append(lines, model+" - atomic")
		}
		for name, p := range def.Schema.Properties {
			relation, err := relationOf(all, p)
			if err != nil {
				return fmt.Errorf("%s.%s: %w", model, name, err)
			}
			if relation != "" {
				lines = append(lines, model+" "+name+" "+relation)
			}
		}
	}
	sort.Strings(lines)
	return os.WriteFile(out, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// relationOf a property; empty is what its type says anyway: lists are one
// value, objects are not.
func relationOf(all map[string]common.OpenAPIDefinition, p spec.Schema) (string, error) {
	switch p.Extensions["x-kubernetes-map-type"] {
	case "atomic":
		return "atomic", nil
	case "granular":
		return "granular", nil
	}
	switch p.Extensions["x-kubernetes-list-type"] {
	case "atomic":
		return "", nil
	case "set":
		return "set", nil
	case "map":
		var keys []string
		for _, k := range p.Extensions["x-kubernetes-list-map-keys"].([]any) {
			keys = append(keys, k.(string))
		}
		return "map " + withDefaults(all, p, keys), nil
	case nil:
	default:
		return "", fmt.Errorf("unknown list type %v", p.Extensions["x-kubernetes-list-type"])
	}
	switch p.Extensions["x-kubernetes-patch-strategy"] {
	case "merge", "merge,retainKeys":
		if len(p.Type) == 0 || p.Type[0] != "array" {
			return "", nil
		}
		if key, ok := p.Extensions["x-kubernetes-patch-merge-key"].(string); ok {
			return "map " + withDefaults(all, p, []string{key}), nil
		}
		return "set", nil
	}
	return "", nil
}

func withDefaults(all map[string]common.OpenAPIDefinition, p spec.Schema, keys []string) string {
	item := p.Items.Schema
	ref := item.Ref.String()
	if ref == "" && len(item.AllOf) == 1 {
		ref = item.AllOf[0].Ref.String()
	}
	for i, k := range keys {
		if d := all[ref].Schema.Properties[k].Default; d != nil {
			keys[i] = fmt.Sprintf("%s=%v", k, d)
		}
	}
	return strings.Join(keys, " ")
}

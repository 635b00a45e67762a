//go:build openapigen

// Command gen writes the OpenAPI v3 documents of the built-in kinds, one
// compressed file per group and version, from the definitions that
// kube-openapi's generator makes of k8s.io/api. The 25,000 generated lines are
// linked here only, never into knarr.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"knarr.dev/knarr/internal/apiserver/openapi"
	"knarr.dev/knarr/internal/apiserver/openapi/gen/defs"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

func main() {
	out := flag.String("out", "", "directory of the documents")
	owned := flag.String("relations", "", "file of the relations of lists and objects")
	flag.Parse()
	if err := run(*out); err != nil {
		log.Fatal(err)
	}
	if err := relations(*owned); err != nil {
		log.Fatal(err)
	}
}

func run(out string) error {
	table := kinds.Builtin()
	byGV := map[schema.GroupVersion][]*kinds.Kind{}
	for _, k := range table.All() {
		byGV[k.GVK.GroupVersion()] = append(byGV[k.GVK.GroupVersion()], k)
	}
	old, err := filepath.Glob(filepath.Join(out, "*.json.zst"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	for gv, ks := range byGV {
		doc, err := document(gv, ks)
		if err != nil {
			return fmt.Errorf("%s: %w", gv, err)
		}
		data, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		var z bytes.Buffer
		w, err := zstd.NewWriter(&z, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		name := strings.ReplaceAll(openapi.Path(gv), "/", "__") + ".json.zst"
		if err := os.WriteFile(filepath.Join(out, name), z.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

type object = map[string]any

func document(gv schema.GroupVersion, ks []*kinds.Kind) (object, error) {
	g := &generator{scheme: codec.Scheme(), names: map[string]bool{}}
	paths := openapi.Paths(ks, g.model)
	schemas, err := g.schemas()
	if err != nil {
		return nil, err
	}
	return object{
		"openapi":    "3.0.0",
		"info":       object{"title": "Kubernetes", "version": "v1.37.2"},
		"paths":      paths,
		"components": object{"schemas": schemas},
	}, nil
}

type generator struct {
	scheme *runtime.Scheme
	names  map[string]bool // models that are referred to
}

// model refers to the schema of a Go type.
func (g *generator) model(o any) object {
	name := util.GetCanonicalTypeName(o)
	if m, ok := o.(interface{ OpenAPIModelName() string }); ok {
		name = m.OpenAPIModelName()
	}
	g.names[name] = true
	return object{"$ref": "#/components/schemas/" + name}
}

func (g *generator) schemas() (map[string]*spec.Schema, error) {
	names := make([]string, 0, len(g.names))
	for n := range g.names {
		names = append(names, n)
	}
	sort.Strings(names)
	return builder3.BuildOpenAPIDefinitionsForResources(&common.OpenAPIV3Config{
		Info:           &spec.Info{},
		GetDefinitions: defs.GetOpenAPIDefinitions,
		GetDefinitionName: func(name string) (string, spec.Extensions) {
			gvks := g.gvks(name)
			if len(gvks) == 0 {
				return name, nil
			}
			return name, spec.Extensions{"x-kubernetes-group-version-kind": gvks}
		},
	}, names...)
}

// gvks that the model of that name is known by.
func (g *generator) gvks(model string) []object {
	var out []object
	for gvk := range g.scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		o, err := g.scheme.New(gvk)
		if err != nil {
			continue
		}
		if m, ok := o.(interface{ OpenAPIModelName() string }); ok && m.OpenAPIModelName() == model {
			out = append(out, openapi.GVKExtension(gvk))
		}
	}
	sort.Slice(out, func(i, j int) bool { return fmt.Sprint(out[i]) < fmt.Sprint(out[j]) })
	return out
}

package openapi

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// identity of foreign documents: other documents have another one.
func identity(docs []Foreign) string {
	h := sha256.New()
	for _, f := range docs {
		if f.ETag == "" {
			fmt.Fprintf(h, "%q %x\n", f.Prefix, sha256.Sum256(f.Body))
			continue
		}
		fmt.Fprintf(h, "%q %q\n", f.Prefix, f.ETag)
	}
	return string(h.Sum(nil))
}

// merge adds the document's paths below its prefix, and the definitions that
// these need, to a document of version 2. A definition whose name stands for
// something else already gets another one, as upstream's. A document that is
// none adds nothing.
func (f Foreign) merge(paths, definitions object) {
	var doc struct {
		Paths       map[string]any
		Definitions map[string]any
		Parameters  map[string]any
	}
	if err := json.Unmarshal(f.Body, &doc); err != nil {
		return
	}
	m := merger{from: doc.Definitions, into: definitions, parameters: doc.Parameters, names: map[string]string{}}
	for p, item := range doc.Paths {
		if paths[p] == nil && (p == f.Prefix || strings.HasPrefix(p, f.Prefix+"/")) {
			paths[p] = m.renamed(item)
		}
	}
}

// merger carries definitions from one document into another.
type merger struct {
	from, into object
	parameters object            // shared ones, which are put in where they are used
	names      map[string]string // of definitions, as they are called in into
}

// maxRenames bounds the search for a name that is free.
const maxRenames = 100

// name of a definition in into, where it is put if it is not there.
func (m *merger) name(old string) string {
	if name, ok := m.names[old]; ok {
		return name
	}
	model, ok := m.from[old]
	if !ok {
		return old
	}
	name := old
	for i := 2; i < maxRenames; i++ {
		there, taken := m.into[name]
		if !taken {
			m.names[old] = name
			m.into[name] = model // it may refer to itself
			m.into[name] = m.renamed(model)
			return name
		}
		if same(there, model) {
			break
		}
		name = fmt.Sprintf("%s_v%d", old, i)
	}
	m.names[old] = name
	return name
}

// same ignores descriptions: another release of the same type is not another
// type.
func same(a, b any) bool {
	x, ok := a.(object)
	y, also := b.(object)
	if !ok || !also {
		if l, ok := a.([]any); ok {
			r, _ := b.([]any)
			if len(l) != len(r) {
				return false
			}
			for i := range l {
				if !same(l[i], r[i]) {
					return false
				}
			}
			return true
		}
		return reflect.DeepEqual(a, b)
	}
	for k := range x {
		if k == "description" {
			continue
		}
		if _, there := y[k]; !there || !same(x[k], y[k]) {
			return false
		}
	}
	for k := range y {
		if _, there := x[k]; !there && k != "description" {
			return false
		}
	}
	return true
}

const parameterRef = "#/parameters/"

// renamed is a copy of v with the names that into has for what it refers to.
func (m *merger) renamed(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = m.renamed(v[i])
		}
		return out
	case object:
		if ref, ok := v["$ref"].(string); ok {
			if name, ok := strings.CutPrefix(ref, parameterRef); ok && m.parameters[name] != nil {
				return m.parameters[name]
			}
		}
		out := make(object, len(v))
		for k, x := range v {
			ref, isText := x.(string)
			name, isRef := strings.CutPrefix(ref, definitionRef)
			if k == "$ref" && isText && isRef {
				out[k] = definitionRef + m.name(name)
				continue
			}
			out[k] = m.renamed(x)
		}
		return out
	}
	return v
}

package ownership

import (
	_ "embed"
	"reflect"
	"strconv"
	"strings"
)

//go:embed relations.txt
var relationsText string

// relation is how the parts of a list or an object are owned.
type relation struct {
	kind string // "", atomic, granular, set, map
	keys []key  // of a map
}

// key of a list whose items are told apart by it.
type key struct {
	name string
	def  *string // what an absent one means
}

// relations by model and property; "-" is the model itself.
func readRelations() map[[2]string]relation {
	out := map[[2]string]relation{}
	for line := range strings.Lines(relationsText) {
		f := strings.Fields(line)
		r := relation{kind: f[2]}
		for _, k := range f[3:] {
			name, def, ok := strings.Cut(k, "=")
			r.keys = append(r.keys, key{name: name})
			if ok {
				r.keys[len(r.keys)-1].def = &def
			}
		}
		out[[2]string{f[0], f[1]}] = r
	}
	return out
}

// modelName is the name of a type in the OpenAPI documents: the domain of its
// import path is turned round.
func modelName(t reflect.Type) string {
	domain, path, ok := strings.Cut(t.PkgPath(), "/")
	if !ok {
		return t.String()
	}
	parts := strings.Split(domain, ".")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ".") + "." + strings.ReplaceAll(path, "/", ".") + "." + t.Name()
}

// defaultOf a key as a value of its field's type.
func defaultOf(k key, t reflect.Type) any {
	if k.def == nil {
		return nil
	}
	if t.Kind() == reflect.String {
		return *k.def
	}
	n, err := strconv.ParseInt(*k.def, 10, 64)
	if err != nil {
		return nil
	}
	return n
}

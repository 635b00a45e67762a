package validate

import (
	"fmt"
	"reflect"
	"strings"
)

// maxDifferences is how many changed fields a message lists.
const maxDifferences = 10

// difference names the fields in which two values of one struct type differ,
// by their JSON names, into lists of structs, so that a user who may not
// change them sees which they are.
func difference(path string, a, b any) string {
	names := diff(nil, path, reflect.ValueOf(a), reflect.ValueOf(b))
	if len(names) > maxDifferences {
		names = append(names[:maxDifferences], fmt.Sprintf("and %d more", len(names)-maxDifferences))
	}
	return "changed: " + strings.Join(names, ", ")
}

func diff(names []string, path string, a, b reflect.Value) []string {
	if same(a.Interface(), b.Interface()) {
		return names
	}
	switch {
	case a.Kind() == reflect.Struct && path != "" && strings.HasPrefix(a.Type().PkgPath(), "k8s.io/api/"):
		for i := range a.NumField() {
			f := a.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			at := path
			if name != "" {
				at += "." + name
			}
			names = diff(names, at, a.Field(i), b.Field(i))
		}
		return names
	case a.Kind() == reflect.Slice && a.Len() == b.Len() && a.Type().Elem().Kind() == reflect.Struct:
		for i := range a.Len() {
			names = diff(names, fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i))
		}
		return names
	}
	return append(names, path)
}

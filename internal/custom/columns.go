package custom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"knarr.dev/knarr/internal/kinds"
)

// columns of the version's table: the name, then those of the definition, or
// else the age.
func (v *version) columns() []kinds.Column {
	out := []kinds.Column{{Name: "Name", Type: "string", Format: "name", Value: func(o kinds.Object, _ metav1.Time) any { return o.GetName() },
		Describe: metav1.ObjectMeta{}.SwaggerDoc()["name"]}}
	wanted := v.spec.AdditionalPrinterColumns
	if len(wanted) == 0 {
		wanted = []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp",
			Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]}}
	}
	var more []kinds.Column
	for _, c := range wanted {
		path := parse(c.Name, c.JSONPath)
		if path == nil {
			return append(out, more...) // as upstream: what follows a broken one is not shown
		}
		describe := c.Description
		if describe == "" {
			describe = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		more = append(more, kinds.Column{Name: c.Name, Type: c.Type, Format: c.Format, Wide: c.Priority > 0, Describe: describe,
			Value: func(o kinds.Object, now metav1.Time) any { return cell(path, c.Type, o, now) }})
	}
	return append(out, more...)
}

// parse returns nil for a path that is none.
func parse(name, path string) *jsonpath.JSONPath {
	p := jsonpath.New(name).AllowMissingKeys(true)
	if err := p.Parse("{" + path + "}"); err != nil {
		return nil
	}
	return p
}

// cell is what a column shows of an object; nil: nothing.
func cell(path *jsonpath.JSONPath, typ string, o kinds.Object, now metav1.Time) any {
	results, err := path.FindResults(content(o))
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	value := results[0][0].Interface()
	switch typ {
	case "string":
		var out bytes.Buffer
		if err := path.PrintResults(&out, []reflect.Value{reflect.ValueOf(value)}); err != nil {
			return nil
		}
		return out.String()
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if s, ok := value.(string); ok {
			return age(s, now)
		}
	}
	return nil
}

func age(text string, now metav1.Time) string {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return "<invalid>"
	}
	return duration.HumanDuration(now.Sub(at))
}

// fields that a selector may name, besides the metadata's.
func (v *version) fields() map[string]func(kinds.Object) string {
	out := map[string]func(kinds.Object) string{}
	for _, f := range v.spec.SelectableFields {
		name := strings.TrimPrefix(f.JSONPath, ".")
		if path := parse(name, f.JSONPath); path != nil {
			out[name] = func(o kinds.Object) string { return text(path, o) }
		}
	}
	return out
}

func text(path *jsonpath.JSONPath, o kinds.Object) string {
	results, err := path.FindResults(content(o))
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return ""
	}
	switch v := results[0][0].Interface().(type) {
	case nil:
		return ""
	case json.Number:
		return v.String()
	default:
		return fmt.Sprint(v)
	}
}

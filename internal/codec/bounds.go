package codec

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

const (
	// maxDepth of nested objects and arrays; the deepest built-in type needs 30.
	maxDepth = 500
	// maxParts bounds the objects and arrays in a body: two bytes of it can
	// become a struct of a kilobyte. The largest real objects, with a managed
	// field for each of ten thousands of keys, stay below.
	maxParts = 100_000
	// maxYAMLGrowth bounds what aliases may make of a document (CVE-2019-11253).
	maxYAMLGrowth = 10
	// maxDecoded bounds the structs that the elements of a protobuf body's
	// lists would take, in bytes; a body is at most 3 MiB.
	maxDecoded = 64 << 20
	// maxFieldNumber: the API's types count their fields from 1 to below 100.
	maxFieldNumber = 1000
)

var (
	errDepth = errors.New("the body nests too deeply")
	errParts = errors.New("the body has too many parts")
	errGrows = errors.New("the YAML body grows too much when its aliases are expanded")
)

// toJSON returns the body as JSON within bounds. strict is what a strict
// reader of YAML would refuse: duplicate keys.
func toJSON(f Format, data []byte) (out []byte, strict []error, err error) {
	if f == JSON || isJSON(data) {
		return data, nil, checkShape(data)
	}
	if err := checkAliases(data); err != nil {
		return nil, nil, err
	}
	out, err = yaml.YAMLToJSONStrict(data)
	if err != nil {
		strict = []error{err}
		if out, err = yaml.YAMLToJSON(data); err != nil {
			return nil, nil, fmt.Errorf("error converting YAML to JSON: %w", err)
		}
	}
	return out, strict, checkShape(out)
}

// isJSON: JSON is YAML, and what clients send as YAML is mostly JSON. The
// depth is checked first, since Valid works on a stack.
func isJSON(data []byte) bool {
	data = bytes.TrimLeft(data, " \t\r\n")
	return len(data) > 0 && data[0] == '{' && checkShape(data) == nil && stdjson.Valid(data)
}

// CheckShape holds a JSON document against the bounds of DecodeBody in depth and
// number of parts, before anybody reads it in another way.
func CheckShape(data []byte) error { return checkShape(data) }

// checkShape counts brackets outside strings.
func checkShape(data []byte) error {
	depth, parts, inString := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return errDepth
			}
			if parts++; parts > maxParts {
				return errParts
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// checkAliases measures a document that may have aliases before it is
// expanded. The parser shares the strings that aliases repeat and bounds the
// number of nodes; only writing them out would be without bound.
func checkAliases(data []byte) error {
	if bytes.IndexByte(data, '*') < 0 || bytes.IndexByte(data, '&') < 0 {
		return nil
	}
	var v any
	if err := yamlv2.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("error converting YAML to JSON: %w", err)
	}
	if left := spend(v, maxYAMLGrowth*len(data)+4096, maxDepth); left < 0 {
		return errGrows
	}
	return nil
}

// spend subtracts the size of v from a budget and stops below zero.
func spend(v any, budget, depth int) int {
	if depth == 0 {
		return -1
	}
	switch v := v.(type) {
	case string:
		return budget - len(v) - 2
	case []any:
		budget -= 2
		for _, e := range v {
			if budget = spend(e, budget-1, depth-1); budget < 0 {
				return budget
			}
		}
		return budget
	case map[any]any:
		budget -= 2
		for k, e := range v {
			if budget = spend(e, spend(k, budget-2, depth-1), depth-1); budget < 0 {
				return budget
			}
		}
		return budget
	default:
		return budget - 4
	}
}

// checkParts adds up what the lists of a protobuf message would take once
// decoded, because an empty element is two bytes on the wire and may be a
// kilobyte in memory.
func checkParts(raw []byte, into runtime.Object) error {
	left := maxDecoded
	return weigh(raw, weightOf(reflect.TypeOf(into).Elem()), &left, maxDepth)
}

func weigh(raw []byte, w *weight, left *int, depth int) error {
	if depth == 0 {
		return errDepth
	}
	for len(raw) > 0 {
		tag, value, _, rest, err := nextField(raw)
		if err != nil {
			return err
		}
		raw = rest
		if tag>>3 >= uint64(len(w.fields)) {
			continue
		}
		f := w.fields[tag>>3]
		if *left -= f.bytes; *left < 0 {
			return errParts
		}
		if f.message != nil && tag&7 == wireBytes {
			if err := weigh(value, f.message(), left, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// weight of a type: what each occurrence of a field takes, by field number.
type weight struct {
	fields []fieldWeight
}

type fieldWeight struct {
	bytes   int
	message func() *weight // nil for scalars
}

func weightOf(t reflect.Type) *weight {
	if w, ok := types().weights.Load(t); ok {
		return w.(*weight)
	}
	w := &weight{}
	for i := range t.NumField() {
		sf := t.Field(i)
		parts := strings.Split(sf.Tag.Get("protobuf"), ",")
		if len(parts) < 2 {
			continue
		}
		n, err := strconv.Atoi(parts[1])
		if err != nil || n > maxFieldNumber {
			continue
		}
		for len(w.fields) <= n {
			w.fields = append(w.fields, fieldWeight{})
		}
		w.fields[n] = weightOfField(sf.Type)
	}
	got, _ := types().weights.LoadOrStore(t, w)
	return got.(*weight)
}

func weightOfField(t reflect.Type) fieldWeight {
	var f fieldWeight
	switch t.Kind() {
	case reflect.Slice:
		t = t.Elem()
		f.bytes = 2 * int(t.Size()) // a growing slice is copied
	case reflect.Map:
		// An entry is a message of key and value; buckets are about half full.
		f.bytes = 2 * int(t.Key().Size()+t.Elem().Size())
		return f
	case reflect.Pointer:
		f.bytes = int(t.Elem().Size())
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct {
		f.message = func() *weight { return weightOf(t) }
	}
	return f
}

package ownership

import (
	"encoding/json"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

var marshaler = reflect.TypeFor[json.Marshaler]()

func converts(t reflect.Type) bool {
	return t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler)
}

// convertible types write their own JSON: scalars, most of them.
func convertible(t reflect.Type) *shape {
	sh := &shape{form: atom, typ: t}
	switch t {
	case reflect.TypeFor[metav1.Time]():
		sh.equal = equalAs(func(a, b *metav1.Time) bool { return a.IsZero() == b.IsZero() && a.Unix() == b.Unix() })
		sh.read = readAs(textOrNull, func(c any, t *metav1.Time) bool { return t.IsZero() && c == nil || t.UTC().Format(time.RFC3339) == c })
	case reflect.TypeFor[metav1.MicroTime]():
		sh.equal = equalAs(func(a, b *metav1.MicroTime) bool { return a.IsZero() == b.IsZero() && a.UnixMicro() == b.UnixMicro() })
		sh.read = readAs(textOrNull, func(c any, t *metav1.MicroTime) bool {
			return t.IsZero() && c == nil || t.UTC().Format(metav1.RFC3339Micro) == c
		})
	case reflect.TypeFor[resource.Quantity]():
		sh.equal = equalAs(func(a, b *resource.Quantity) bool { return a.String() == b.String() })
		sh.read = readAs(textOrNumber, func(c any, q *resource.Quantity) bool { return q.String() == c })
	case reflect.TypeFor[intstr.IntOrString]():
		sh.equal = equalAs(func(a, b *intstr.IntOrString) bool { return a.Type == b.Type && a.String() == b.String() })
		sh.read = readAs(textOrNumber, func(any, *intstr.IntOrString) bool { return true })
	case reflect.TypeFor[metav1.Duration]():
		sh.equal = equalByLibrary
		sh.read = readAs(text, func(c any, d *metav1.Duration) bool { return d.Duration.String() == c })
	case reflect.TypeFor[runtime.RawExtension]():
		sh.equal = equalByLibrary
		sh.read = readAs(object, func(any, *runtime.RawExtension) bool { return true })
	default:
		sh.form = foreign
	}
	return sh
}

// What a configuration may have for a convertible type; the rest, and what is
// not valid, is left to the library.
func text(c any) bool         { _, ok := c.(string); return ok }
func textOrNull(c any) bool   { return c == nil || text(c) }
func textOrNumber(c any) bool { _, ok := c.(int64); return ok || text(c) }
func object(c any) bool       { _, ok := c.(map[string]any); return ok }

// readAs reads a convertible type; same says whether it is shown as it was
// given.
func readAs[T any](takes func(any) bool, same func(c any, v *T) bool) func(any, reflect.Value) (bool, bool) {
	return func(c any, v reflect.Value) (bool, bool) {
		if !takes(c) {
			return false, false
		}
		data, err := json.Marshal(c)
		if err != nil {
			return false, false
		}
		var t T
		if json.Unmarshal(data, &t) != nil {
			return false, false
		}
		v.Set(reflect.ValueOf(&t).Elem())
		return same(c, &t), true
	}
}

func equalAs[T any](eq func(a, b *T) bool) func(a, b reflect.Value) bool {
	at := func(v reflect.Value) *T {
		if v.CanAddr() {
			return v.Addr().Interface().(*T)
		}
		t := v.Interface().(T)
		return &t
	}
	return func(a, b reflect.Value) bool { return eq(at(a), at(b)) }
}

func equalByLibrary(a, b reflect.Value) bool {
	at := func(v reflect.Value) value.Value {
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		out, err := value.NewValueReflect(p.Interface())
		if err != nil {
			return value.NewValueInterface(nil)
		}
		return out
	}
	return value.Equals(at(a), at(b))
}

package kinds

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules of a kind are written for its Go type; these make them fit the
// table. An object of another type is a programming error and panics.

func do[T Object](f func(T)) func(Object) {
	return func(o Object) { f(o.(T)) }
}

func doBoth[T Object](f func(obj, old T)) func(obj, old Object) {
	return func(obj, old Object) { f(obj.(T), old.(T)) }
}

func stamp[T Object](f func(obj, old T, now metav1.Time)) func(obj, old Object, now metav1.Time) {
	return func(obj, old Object, now metav1.Time) { f(obj.(T), old.(T), now) }
}

func check[T Object](f func(T) field.ErrorList) func(Object) field.ErrorList {
	return func(o Object) field.ErrorList { return bounded(f(o.(T))) }
}

func checkBoth[T Object](f func(obj, old T) field.ErrorList) func(obj, old Object) field.ErrorList {
	return func(obj, old Object) field.ErrorList { return bounded(f(obj.(T), old.(T))) }
}

func checkBody[T runtime.Object](f func(T) field.ErrorList) func(runtime.Object) field.ErrorList {
	return func(o runtime.Object) field.ErrorList { return bounded(f(o.(T))) }
}

// An answer must stay smaller than the request that caused it, however many
// mistakes were packed into that: so many errors are told, with so much of
// each value.
const (
	maxErrors = 100
	maxValue  = 1024
)

func bounded(errs field.ErrorList) field.ErrorList {
	if len(errs) > maxErrors {
		errs = append(errs[:maxErrors:maxErrors], &field.Error{
			Type: field.ErrorTypeTooMany, Field: "", BadValue: len(errs),
			Detail: "too many errors: only the first ones are listed",
		})
	}
	for _, e := range errs {
		e.Field, e.Detail = clip(e.Field), clip(e.Detail)
		if s, ok := e.BadValue.(string); ok {
			e.BadValue = clip(s)
		}
	}
	return errs
}

// clip cuts without leaving half a rune behind.
func clip(s string) string {
	if len(s) <= maxValue {
		return s
	}
	return strings.ToValidUTF8(s[:maxValue], "") + "..."
}

// warn passes the zero T for old on create.
func warn[T Object](f func(obj, old T) []string) func(obj, old Object) []string {
	return func(obj, old Object) []string {
		var before T
		if old != nil {
			before = old.(T)
		}
		texts := f(obj.(T), before)
		for i := range texts {
			texts[i] = clip(texts[i])
		}
		return texts
	}
}

func text[T Object](f func(T) string) func(Object) string {
	return func(o Object) string { return f(o.(T)) }
}

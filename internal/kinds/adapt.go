package kinds

import (
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

func check[T Object](f func(T) field.ErrorList) func(Object) field.ErrorList {
	return func(o Object) field.ErrorList { return f(o.(T)) }
}

func checkBoth[T Object](f func(obj, old T) field.ErrorList) func(obj, old Object) field.ErrorList {
	return func(obj, old Object) field.ErrorList { return f(obj.(T), old.(T)) }
}

// warn passes the zero T for old on create.
func warn[T Object](f func(obj, old T) []string) func(obj, old Object) []string {
	return func(obj, old Object) []string {
		var before T
		if old != nil {
			before = old.(T)
		}
		return f(obj.(T), before)
	}
}

func text[T Object](f func(T) string) func(Object) string {
	return func(o Object) string { return f(o.(T)) }
}

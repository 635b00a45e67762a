// Package equal compares parts of API objects by what they mean: an empty list
// is no list, 1000m is 1.
package equal

import (
	"bytes"

	"k8s.io/apimachinery/pkg/api/equality"
)

// Values reports whether a and b, of one type, mean the same.
func Values(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

// Message is what generated protobuf code gives a type that is to be encoded.
type Message interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// Messages is Values for pointers to messages. Those that mean the same mostly
// are so byte for byte, which is found out in a tenth of the time.
func Messages(a, b Message) bool {
	if size := a.Size(); size == b.Size() {
		both := make([]byte, 2*size)
		n, errA := a.MarshalToSizedBuffer(both[:size])
		m, errB := b.MarshalToSizedBuffer(both[size:])
		if errA == nil && errB == nil && n == size && m == size && bytes.Equal(both[:size], both[size:]) {
			return true
		}
	}
	return Values(a, b)
}

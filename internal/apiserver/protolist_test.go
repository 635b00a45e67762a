package apiserver

import (
	"bytes"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/store/cache"
)

// TestFrames: written by hand, they are what the generated code writes.
func TestFrames(t *testing.T) {
	for _, size := range []int{0, 1, 100, 127, 128, 20_000, 3 << 20} {
		for _, f := range []codec.Format{codec.JSON, codec.Protobuf} {
			object := bytes.Repeat([]byte("x"), size)
			want, err := cache.RawFrame(f, cache.Modified, object)
			if err != nil {
				t.Fatal(err)
			}
			if got := appendFrame([]byte("before"), f, cache.Modified, object); !bytes.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("format %d, %d bytes differ", f, size)
			}
		}
		u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Raw: bytes.Repeat([]byte("x"), size)}
		want := append([]byte("k8s\x00"), make([]byte, u.Size())...)
		n, err := u.MarshalTo(want[4:])
		if err != nil {
			t.Fatal(err)
		}
		got, err := envelope("v1", "PodList", size)
		if err != nil {
			t.Fatal(err)
		}
		// The generated code writes two more fields, which are empty.
		if got = append(got, u.Raw...); !bytes.HasPrefix(want[:4+n], got) || len(want[:4+n])-len(got) > 4 {
			t.Errorf("an envelope of %d bytes differs", size)
		}
	}
}

package audit

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/randfill"
)

// TestEncode: the same as encoding/json, whatever stands in an event.
func TestEncode(t *testing.T) {
	texts := []string{"", "plain", `"quoted"\`, "<html>&amp;", "ümläut", "a\nb\x00", "\xff", "\u2028"}
	for seed := range int64(300) {
		fill := randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 3).Funcs(
			func(s *string, c randfill.Continue) { *s = texts[c.Intn(len(texts))] },
			func(u *runtime.Unknown, c randfill.Continue) {
				*u = runtime.Unknown{Raw: []byte(`{"a":[1,"<"]}`), ContentType: runtime.ContentTypeJSON}
			},
			func(m *metav1.MicroTime, c randfill.Continue) {
				if c.Bool() {
					m.Time = time.Unix(c.Int63n(1e9), 123456789).In(time.FixedZone("x", 3600))
				}
			})
		var e auditv1.Event
		fill.Fill(&e)
		if s := e.ResponseStatus; s != nil && seed%2 == 0 {
			s.TypeMeta, s.ListMeta = metav1.TypeMeta{}, metav1.ListMeta{}
		}
		var got, want bytes.Buffer
		if err := encode(&got, &e); err != nil {
			t.Fatal(err)
		}
		if err := json.NewEncoder(&want).Encode(&e); err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() {
			t.Fatalf("seed %d:\n%s\n%s", seed, &got, &want)
		}
	}
}

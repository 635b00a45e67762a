package apiserver_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	reviewv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/apiserver"
)

// born is what a webhook sees of an object's metadata.
func born(t *testing.T, r *reviewv1.AdmissionRequest) metav1.PartialObjectMetadata {
	t.Helper()
	var o metav1.PartialObjectMetadata
	if err := json.Unmarshal(r.Object.Raw, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestBornAfterMutation: a new object has its name, its UID and its time only
// once it is complete; who changes it does not see them, who judges it does.
func TestBornAfterMutation(t *testing.T) {
	picks := []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1} // the second object's first name is taken
	h := newHooked(t, func(c *apiserver.Config) {
		c.Rand = func(n int) int {
			if len(picks) == 0 {
				return 2
			}
			one := picks[0]
			picks = picks[1:]
			return one % n
		}
	})
	h.says("/m", patches(`[{"op":"add","path":"/data","value":{"m":"1"}},{"op":"add","path":"/metadata/uid","value":"mine"}]`))
	h.says("/v", allows)
	h.add(t, mutating, "m", "/m", `"rules":[`+configMaps+`]`)
	h.add(t, validating, "v", "/v", `"rules":[`+configMaps+`]`)
	const body = `{"metadata":{"generateName":"g-","uid":"x","creationTimestamp":"2001-01-01T00:00:00Z"}}`
	first := h.must(t, 201, "POST", cmURL, body)
	h.took("/m")
	h.took("/v")
	second := h.must(t, 201, "POST", cmURL, body)
	if first.at("metadata.name") != "g-bbbbb" || second.at("metadata.name") != "g-ccccc" || second.at("data.m") != "1" || second.at("metadata.uid") == "mine" {
		t.Errorf("made %s and %s", first.raw, second.raw)
	}
	changed, judged := h.took("/m"), h.took("/v")
	if len(changed) != 1 || len(judged) != 2 {
		t.Fatalf("asked %d times about changes, %d times for a judgement", len(changed), len(judged))
	}
	if o := born(t, changed[0]); changed[0].Name != "" || o.Name != "" || o.GenerateName != "g-" || o.UID != "" || !o.CreationTimestamp.IsZero() {
		t.Errorf("who changes it sees %q %+v", changed[0].Name, o)
	}
	for i, want := range []string{"g-bbbbb", "g-ccccc"} {
		if o := born(t, judged[i]); judged[i].Name != want || o.Name != want || o.UID == "" || o.UID == "mine" || o.CreationTimestamp.IsZero() {
			t.Errorf("who judges it sees %q %+v", judged[i].Name, o)
		}
	}
	// A name that is given is seen by all; one that a webhook gives is taken.
	h.says("/m", allows)
	h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"named"}}`)
	h.says("/m", patches(`[{"op":"add","path":"/metadata/name","value":"given"}]`))
	if a := h.must(t, 201, "POST", cmURL, `{"metadata":{}}`); a.at("metadata.name") != "given" {
		t.Errorf("%s", a.raw)
	}
	names := []string{}
	for _, r := range slices.Concat(h.took("/m"), h.took("/v")) {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, ","); got != "named,,named,given" {
		t.Errorf("names %s", got)
	}
}

// TestLongReview: what a webhook says is read up to a bound.
func TestLongReview(t *testing.T) {
	h := newHooked(t)
	h.says("/v", func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		return &reviewv1.AdmissionResponse{Allowed: true, Warnings: []string{strings.Repeat("x", 8<<20)}}
	})
	h.add(t, validating, "v", "/v", `"timeoutSeconds":30,"rules":[`+configMaps+`]`)
	if a := h.must(t, 500, "POST", cmURL, `{"metadata":{"name":"c"}}`); !strings.Contains(a.at("message").(string), "the webhook's answer is longer than 8388608 bytes") {
		t.Errorf("%s", a.raw)
	}
}

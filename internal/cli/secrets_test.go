package cli

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"knarr.dev/knarr/internal/store/transform"
)

// TestRotateAsksUntilDone: once for a new key, then until nothing is left; what
// goes nowhere ends.
func TestRotateAsksUntilDone(t *testing.T) {
	old, both, now := map[string]int{"a": 3}, map[string]int{"a": 1, "b": 2}, map[string]int{"b": 3}
	for _, tc := range []struct {
		name    string
		answers []*transform.Rotation
		out     string
		err     string
	}{
		{"at once", []*transform.Rotation{{Key: "b", New: true, Rewritten: 3, Counts: now, Dropped: []string{"a"}, Done: true}},
			"3 objects were written anew; the store holds: 3 by b\nthe key is b\ndropped: a; backups from before still need it\n", ""},
		{"slowly", []*transform.Rotation{{Key: "b", New: true, Counts: old}, {Key: "b", Rewritten: 2, Counts: both}, {Key: "b", Rewritten: 1, Counts: now, Dropped: []string{"a"}, Done: true}},
			"0 objects written anew so far\n2 objects written anew so far\n3 objects were written anew; the store holds: 3 by b\nthe key is b\ndropped: a; backups from before still need it\n", ""},
		{"not at all", []*transform.Rotation{{Key: "b", New: true, Counts: old}, {Key: "b", Counts: both}}, "0 objects written anew so far\n", "1 by a, 2 by b"},
		{"by a file", []*transform.Rotation{{Configuration: "/e.yaml", Rewritten: 1, Done: true}}, "1 objects were written anew; the store holds: nothing to encrypt\nthe keys are those of /e.yaml: whichever encrypts nothing any more can be taken out there\n", ""},
		{"refused", nil, "", "no answer"},
	} {
		var w bytes.Buffer
		asked := 0
		err := rotate(t.Context(), &w, func(_ context.Context, fresh bool) (*transform.Rotation, error) {
			if fresh != (asked == 0) {
				t.Errorf("%s: asked for a new key at %d: %v", tc.name, asked, fresh)
			}
			if asked++; asked > len(tc.answers) {
				return nil, errors.New("no answer")
			}
			return tc.answers[asked-1], nil
		})
		if (err != nil) != (tc.err != "") || err != nil && (!strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "\n")) || w.String() != tc.out {
			t.Errorf("%s: %v\n%s", tc.name, err, w.String())
		}
	}
}

package codec

import (
	"errors"
	"strings"
	"testing"
)

func TestApplyPatch(t *testing.T) {
	t.Parallel()
	double := `{"op":"copy","from":"/a","path":"/a/b"}`
	for _, c := range []struct{ patch, want, err string }{
		{`[]`, `{"a":{}}`, ""},
		{`[{"op":"add","path":"/b","value":1},{"op":"copy","from":"/b","path":"/c"},{"op":"remove","path":"/b"}]`, `{"a":{},"c":1}`, ""},
		{`[{"op":"replace","path":"","value":{"z":1}}]`, `{"z":1}`, ""},
		{`[{"op":"replace","path":""}]`, "", "replace operation does not apply"},
		{`[{"op":"replace","path":"","value":null}]`, "", "replace operation does not apply"},
		{`[{"op":"test","path":""}]`, "", "test operation does not apply"},
		{`[{"op":"add","path":"/b","value":1},{"op":"test","path":"","value":null}]`, "", "test operation does not apply"},
		{`[{"op":"test","path":"/a"}]`, "", "failed"},
		{`[null]`, "", "Unexpected kind"},
		{`[` + strings.Repeat(double+",", maxPatchCopies) + double + `]`, "", "copy operations"},
	} {
		ops, err := DecodePatch([]byte(c.patch))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ApplyPatch([]byte(`{"a":{}}`), ops)
		if string(got) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.80s: %s, %v", c.patch, got, err)
		}
	}
	var long PatchTooLong
	if _, err := DecodePatch([]byte(`[{}` + strings.Repeat(`,{}`, MaxPatchOps) + `]`)); !errors.As(err, &long) {
		t.Errorf("too many operations: %v", err)
	}
}

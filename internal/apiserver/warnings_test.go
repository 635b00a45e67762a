package apiserver

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWarnings: each text once, whole if all of them are short, else cut.
func TestWarnings(t *testing.T) {
	w := httptest.NewRecorder()
	warn := warner(w)
	long := strings.Repeat("é", 1000)
	for _, text := range []string{"", "one", "one", "two\nlines", long} {
		warn(text)
	}
	got := w.Header().Values("Warning")
	if len(got) != 3 || got[0] != `299 - "one"` || got[1] != `299 - "two lines"` || got[2] != `299 - "`+long+`"` {
		t.Fatalf("%q", got)
	}
	for i := range 100 {
		warn(fmt.Sprint(i, long))
	}
	got = w.Header().Values("Warning")
	runes := 0
	for _, g := range got {
		n := len([]rune(g)) - len(`299 - ""`)
		if runes += n; n > maxWarning {
			t.Errorf("%d runes", n)
		}
	}
	if got[0] != `299 - "one"` || runes < maxWarnings || runes > maxWarnings+maxWarning {
		t.Errorf("%d warnings with %d runes", len(got), runes)
	}
}

package supervisor

import (
	"reflect"
	"testing"
)

func TestParseHandlers(t *testing.T) {
	got, err := ParseHandlers([]string{"runc=/usr/bin/runc", "my-crun=/opt/crun --debug  --x=y"})
	want := []Handler{{"runc", "/usr/bin/runc", []string{}}, {"my-crun", "/opt/crun", []string{"--debug", "--x=y"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range [][]string{{""}, {"runc"}, {"runc="}, {"runc=runc"}, {"=/usr/bin/runc"}, {"Runc=/r"}, {"a_b=/r"}, {"../x=/r"}, {"a=/r", "a=/s"}} {
		if got, err := ParseHandlers(bad); err == nil {
			t.Errorf("%q was taken for %q", bad, got)
		}
	}
}

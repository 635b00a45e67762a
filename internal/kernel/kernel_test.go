package kernel

import "testing"

func TestAtLeast(t *testing.T) {
	for release, want := range map[string][2]int{"6.18.3": {6, 18}, "5.4.0-150-generic": {5, 4}, "6.1.0+": {6, 1}, "7.0-rc1": {7, 0}, "6": {}, "hollow": {}} {
		if got := parse(release); got != want {
			t.Errorf("%s: %v", release, got)
		}
	}
	v := version()
	if v[0] < 3 || !AtLeast(v[0], v[1]) || !AtLeast(v[0]-1, v[1]+1) || AtLeast(v[0], v[1]+1) || AtLeast(v[0]+1, 0) {
		t.Errorf("%v", v)
	}
}

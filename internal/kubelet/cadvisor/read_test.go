package cadvisor

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestFilesOf(t *testing.T) {
	proc := t.TempDir()
	for at, to := range map[string]string{"7/fd/0": "/dev/null", "7/fd/1": "socket:[12]", "8/fd/3": "socket:[13]", "8/fd/4": "pipe:[1]", "8/fd/5": "/socket:"} {
		at = filepath.Join(proc, at)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		pids []int
		want *Files
	}{
		{"several", []int{7, 8}, &Files{5, 2}},
		{"one has ended", []int{7, 9}, &Files{2, 1}},
		{"all have", []int{9}, nil},
		{"none", nil, nil},
	} {
		if got := FilesOf(proc, tt.pids); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestDiskOf(t *testing.T) {
	d := DiskOf(t.TempDir(), t.TempDir())
	if d == nil || d.Device == "" || d.Size == 0 || d.Used > d.Size || d.InodesFree > d.Inodes {
		t.Errorf("%+v", d)
	}
	if d := DiskOf("/sys", filepath.Join(t.TempDir(), "none")); d != nil {
		t.Errorf("of what is not there: %+v", d)
	}
}

// TestFamilies: names are used once, and nothing has a value that was not
// measured, besides when that was.
func TestFamilies(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Families(func(string) string { return "" }) {
		if seen[f.Name] || f.Help == "" {
			t.Errorf("%s: twice, or without help", f.Name)
		}
		seen[f.Name] = true
		if v := f.Values(&Measured{}); len(v) > 0 && f.Name != "container_last_seen" {
			t.Errorf("%s of nothing: %v", f.Name, v)
		}
	}
}

func TestInterfaces(t *testing.T) {
	got := Interfaces(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:      10       1    0    0    0     0          0         0       10       1    0    0    0     0       0          0
  eth0:    1234      12    3    6    0     0          0         0     5678      34    5    7    0     0       0          0
`)
	if want := []Interface{{"eth0", Traffic{1234, 12, 3, 6}, Traffic{5678, 34, 5, 7}}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

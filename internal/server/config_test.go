package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want string // part of the error; empty: none
	}{
		{name: "defaults", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1"}},
		{name: "relative data dir", cfg: Config{DataDir: "x"}, want: "absolute"},
		{name: "bad name", cfg: Config{NodeName: "a_b", NodeIP: "192.0.2.1"}, want: "--node-name"},
		{name: "bad address", cfg: Config{NodeName: "n1", NodeIP: "nope"}, want: "node address"},
		{name: "overlap", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1", ClusterCIDR: "10.96.0.0/15"}, want: "overlap"},
		{name: "node in pod range", cfg: Config{NodeName: "n1", NodeIP: "10.244.3.4"}, want: "--cluster-cidr"},
		{name: "service range too small", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1", ServiceCIDR: "10.96.0.0/28"}, want: "12 to 24"},
		{name: "IPv6 services", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1", ServiceCIDR: "fd00::/108"}, want: "IPv4"},
		{name: "DNS elsewhere", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1", ClusterDNS: "192.0.2.53"}, want: "cluster DNS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.cfg.Complete()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if err == nil && (tc.cfg.ClusterDNS != "10.96.0.10" || tc.cfg.ServiceIP() != "10.96.0.1") {
				t.Errorf("DNS %s, service %s", tc.cfg.ClusterDNS, tc.cfg.ServiceIP())
			}
		})
	}
}

func TestRunDirIsShort(t *testing.T) {
	long := Config{DataDir: "/" + strings.Repeat("x", 200)}
	if len(long.RunDir()) > 20 || long.RunDir() == (&Config{DataDir: "/var/lib/knarr"}).RunDir() {
		t.Error(long.RunDir())
	}
}

func TestRealPath(t *testing.T) {
	dir := RealPath(t.TempDir())
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, want := RealPath(filepath.Join(dir, "link", "not", "yet")), filepath.Join(dir, "real", "not", "yet"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

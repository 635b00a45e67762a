package kubelet_test

import (
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestCVE2019_11248: no profiler, with rights and without.
func TestCVE2019_11248(t *testing.T) {
	ask, ca := serving(t)
	server := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, ca)
	for _, path := range []string{"/debug/pprof", "/debug/pprof/heap", "/debug/flags/v", "/healthz/debug/pprof/heap", "/debug/vars", "/runningpods/", "/cri/"} {
		if code, body := ask(server, "", path); code != 404 {
			t.Errorf("%s: %d %.100s", path, code, body)
		}
	}
}

// TestCVE2024_9042: the node's own logs are not served, so that no query of
// theirs reaches a shell.
func TestCVE2024_9042(t *testing.T) {
	ask, ca := serving(t)
	server := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, ca)
	for _, path := range []string{"/logs", "/logs/", "/logs/?query=kubelet&pattern=%24%28touch%20/tmp/x%29", "/logs/..%2F..%2Fetc%2Fpasswd", "/logs/syslog"} {
		if code, body := ask(server, "", path); code != 404 {
			t.Errorf("%s: %d %.100s", path, code, body)
		}
	}
}

// TestCVE2025_0426: nothing but its health is to be had of a kubelet without an
// identity; there is no read-only port, and no checkpoints that would fill the
// disk.
func TestCVE2025_0426(t *testing.T) {
	ask, ca := serving(t)
	for _, path := range []string{"/pods", "/metrics", "/stats/summary", "/containerLogs/a/b/c", "/exec/a/b/c", "/attach/a/b/c", "/portForward/a/b", "/configz", "/checkpoint/a/b/c"} {
		if code, body := ask(nil, "", path); code != 401 && code != 404 {
			t.Errorf("%s: %d %.100s", path, code, body)
		}
	}
	server := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, ca)
	if code, _ := ask(server, "", "/checkpoint/a/b/c"); code != 404 {
		t.Errorf("checkpoints are served: %d", code)
	}
	if c, err := net.DialTimeout("tcp", "127.0.0.1:10255", time.Second); err == nil {
		_ = c.Close()
		t.Error("somebody answers at the read-only port")
	}
}

// TestCVE2020_8551: what somebody asks for adds nothing to what a kubelet keeps,
// and what is asked with is bounded.
func TestCVE2020_8551(t *testing.T) {
	ask, ca := serving(t)
	server := issue(t, "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, ca)
	lines := func() int {
		code, body := ask(server, "", "/metrics")
		if code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		n := 0
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "kubelet_http_") { // others come with what the node does
				n++
			}
		}
		return n
	}
	some := func(i int) {
		ask(nil, "", fmt.Sprintf("/path%d", i))
		ask(server, "", fmt.Sprintf("/containerLogs/n%d/p%d/c%d", i, i, i))
		ask(server, fmt.Sprint("token-", i), fmt.Sprintf("/stats/%d", i))
		ask(server, "", fmt.Sprintf("/metrics/%d", i))
	}
	some(0) // what is known is told apart
	lines()
	before := lines()
	for i := range 50 {
		some(i)
	}
	if after := lines(); after != before || before == 0 {
		t.Errorf("%d lines have become %d", before, after)
	}
	if code, _ := ask(server, strings.Repeat("x", 1<<20), "/pods"); code != 431 {
		t.Errorf("a megabyte of headers: %d", code)
	}
}

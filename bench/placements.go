package main

import (
	"bufio"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

func (b *bench) ownPlacements() error {
	t, err := b.self()
	if err != nil || b.apibench == "" {
		return err
	}
	// The node of this machine would run the pods that it gets, which upstream,
	// without a kubelet, does not.
	if _, err := b.kubectl(t, "cordon", "bench"); err != nil {
		return err
	}
	b.placements(t, 5000)
	b.hollow(t)
	_, err = b.kubectl(t, "uncordon", "bench")
	return err
}

// placements put pods on 1,000 nodes that the load generator feigns.
func (b *bench) placements(t *target, pods int) {
	n := strconv.Itoa(pods)
	for _, w := range []workload{
		{"schedule", []string{"schedule", "-nodes", "1000", "-pods", n}, pods},
		{"spread", []string{"schedule", "-nodes", "1000", "-pods", n, "-variant", "spread", "-prefix", "v"}, pods},
		{"deploy", []string{"deploy", "-nodes", "1000", "-replicas", "1000", "-bound"}, 1000},
	} {
		b.workload(t, w)
		b.evenness(t, w.prefix, 1000)
		// A server may end a request after a minute, with a part of it done.
		for range 10 {
			if b.workload(t, workload{w.prefix + ".cleanup", []string{"cleanup"}, 0}) || b.ctx.Err() != nil {
				break
			}
		}
	}
}

// hollow has 1,000 hollow nodes, whose kubelets are real, join by HTTPS, gives
// them a Deployment of 1,000 pods and deletes its namespace.
func (b *bench) hollow(t *target) {
	before := t.cpu()
	out, err := b.sh(b.knarr, "sim", "--kubeconfig", t.kubeconfig, "--nodes", "1000", "--pods", "1000", "--idle", "0", "--until", "10m")
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		m := figure.FindStringSubmatch(s.Text())
		if m == nil || !strings.HasPrefix(m[1], "pods.all") && m[1] != "namespaces.deleted" {
			continue
		}
		if v, err := strconv.ParseFloat(m[2], 64); err == nil {
			report(t.prefix+"hollow."+m[1], v, m[3])
		}
	}
	report(t.prefix+"hollow.cpu", t.cpu()-before, "s")
	if err != nil {
		fmt.Printf("%-26s failed: %v\n", t.prefix+"hollow", errors.Join(err, b.ctx.Err()))
	}
}

func (b *bench) kubectl(t *target, args ...string) (string, error) {
	return b.sh(filepath.Join(filepath.Dir(b.knarr), "kubectl"), append([]string{"--kubeconfig", t.kubeconfig}, args...)...)
}

package main

import (
	"bufio"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// evenness says how good the placement of a workload's pods is, for speed alone
// is nothing: how full the fullest node is and how much nodes differ, and by how
// many pods the zones of one app differ at most.
func (b *bench) evenness(t *target, prefix string, nodes int) {
	out, err := b.kubectl(t, "get", "pods", "--all-namespaces", "--selector", "apibench=true",
		"--output", `jsonpath={range .items[*]}{.metadata.labels.apibench-app} {.spec.nodeName}{"\n"}{end}`)
	if err != nil {
		fmt.Printf("%-26s failed: %v\n", t.prefix+prefix+".evenness", err)
		return
	}
	perNode, perZone, all := map[string]int{}, map[string]*[zones]int{}, 0
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		app, node, ok := strings.Cut(s.Text(), " ")
		i, err := strconv.Atoi(node[strings.LastIndexByte(node, '-')+1:])
		if !ok || err != nil {
			continue
		}
		if perZone[app] == nil {
			perZone[app] = &[zones]int{}
		}
		perZone[app][i%zones]++
		perNode[node]++
		all++
	}
	most, squares, skew := 0, 0.0, 0
	mean := float64(all) / float64(nodes)
	for _, n := range perNode {
		most = max(most, n)
		squares += (float64(n) - mean) * (float64(n) - mean)
	}
	squares += float64(nodes-len(perNode)) * mean * mean
	for _, z := range perZone {
		skew = max(skew, max(z[0], z[1], z[2])-min(z[0], z[1], z[2]))
	}
	report(t.prefix+prefix+".node.most", float64(most), "pods")
	report(t.prefix+prefix+".node.deviation", math.Sqrt(squares/float64(nodes)), "pods")
	report(t.prefix+prefix+".zone.skew", float64(skew), "pods")
}

// zones over which the load generator spreads its nodes, by their numbers.
const zones = 3

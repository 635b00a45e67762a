package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// scorer says how good nodes are that fit, from 0 to 100.
type scorer struct {
	name   string // upstream's name of the plugin
	weight float64
	// score fills out, one value per node; false: it has no preference.
	score func(c *cycle, nodes []*node, out []float64) bool
}

const best = 100

// scorers with upstream's weights.
func scorers() []scorer {
	return []scorer{
		{"NodeResourcesFit", 1, roomiest},
		{"NodeResourcesBalancedAllocation", 1, evenest},
		{"TaintToleration", 3, fewestTaints},
		{"NodeAffinity", 2, preferredNodes},
		{"InterPodAffinity", 2, likedPods},
		{"PodTopologySpread", 2, spreadOut},
		{"ImageLocality", 1, hasImages},
		{"VolumeBinding", 1, roomyVolumes},
		{"DynamicResources", 2, firstChoices},
	}
}

// roomiest prefers nodes with much left of cpu and memory.
func roomiest(c *cycle, nodes []*node, out []float64) bool {
	for i, n := range nodes {
		out[i] = c.view(n).left
	}
	return true
}

func leastAllocated(p *pod, n *node) float64 {
	cpu := left(n.scoreCPU+p.scoreCPU, n.allocatable.cpu)
	memory := left(n.scoreMemory+p.scoreMemory, n.allocatable.memory)
	return best * (cpu + memory) / 2
}

func left(used, of int64) float64 {
	if of <= 0 || used >= of {
		return 0
	}
	return float64(of-used) / float64(of)
}

// evenest prefers nodes where cpu and memory would be used to the same degree,
// so that neither is stranded.
func evenest(c *cycle, nodes []*node, out []float64) bool {
	if !c.pod.request.asks(c.rules.balanced) {
		return false // it changes no balance
	}
	for i, n := range nodes {
		out[i] = c.view(n).balance
	}
	return true
}

func balanced(p *pod, n *node) float64 {
	cpu := 1 - left(n.used.cpu+p.request.cpu, n.allocatable.cpu)
	memory := 1 - left(n.used.memory+p.request.memory, n.allocatable.memory)
	return best * (1 - math.Abs(cpu-memory)/2)
}

// fewestTaints prefers nodes with few PreferNoSchedule taints that the pod
// does not tolerate.
func fewestTaints(c *cycle, nodes []*node, out []float64) bool {
	most := 0.0
	for i, n := range nodes {
		out[i] = float64(c.view(n).taints)
		most = max(most, out[i])
	}
	return invert(out, 0, most)
}

func avoided(p *pod, n *node) (count int32) {
	list := n.obj.Spec.Taints
	for i := range list {
		if list[i].Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(p.obj, &list[i]) {
			count++
		}
	}
	return count
}

func preferredNodes(c *cycle, nodes []*node, out []float64) bool {
	if c.pod.preferNodes == nil && c.rules.prefers == nil {
		return false
	}
	most := 0.0
	for i, n := range nodes {
		out[i] = float64(c.view(n).prefers)
		most = max(most, out[i])
	}
	return normalize(out, 0, most)
}

// likedPods adds up the preferred terms of the pod over the pods that are
// placed, and theirs over the pod. A placed pod that requires such a neighbour
// counts as if it preferred it with the weight that the profile says.
func likedPods(c *cycle, nodes []*node, out []float64) bool {
	if c.rules.ownLikesOnly && len(c.pod.likes) == 0 {
		return false
	}
	type wish struct {
		*tally
		weight float64
	}
	var wishes []wish
	for _, a := range c.pod.likes {
		wishes = append(wishes, wish{c.counter(false, a.selector).tally(c.cluster, a.topologyKey), float64(a.weight)})
	}
	c.termsBy.each(c.pod.obj, func(t *term) {
		if t.kind != keepsAway && t.selector.finds(c.cluster, c.pod.obj) {
			weight := float64(t.weight)
			if t.kind == wantsNear {
				weight = c.rules.hardWeight
			}
			wishes = append(wishes, wish{t.tally(c.cluster, t.topologyKey), weight})
		}
	})
	if len(wishes) == 0 {
		return false
	}
	low, high := math.Inf(1), math.Inf(-1)
	for i, n := range nodes {
		sum := 0.0
		for _, w := range wishes {
			count, _ := w.at(n)
			sum += w.weight * float64(count)
		}
		out[i] = sum
		low, high = min(low, sum), max(high, sum)
	}
	return normalize(out, low, high)
}

// normalize maps low to high onto 0 to 100; nothing to say if they are equal.
func normalize(out []float64, low, high float64) bool {
	if high <= low {
		return false
	}
	for i := range out {
		out[i] = best * (out[i] - low) / (high - low)
	}
	return true
}

// invert maps low to high onto 100 to 0.
func invert(out []float64, low, high float64) bool {
	if high <= low {
		return false
	}
	for i := range out {
		out[i] = best * (high - out[i]) / (high - low)
	}
	return true
}

// spreadOut prefers domains with few of the pods to be spread with: by the
// pod's ScheduleAnyway constraints, or by the default over its siblings.
func spreadOut(c *cycle, nodes []*node, out []float64) bool {
	rules, strict := c.softRules()
	if len(rules) == 0 {
		return false
	}
	clear(out)
	ignored := make([]bool, len(nodes))
	any := false
	var all []*spreadRule // labels that a node must have for its pods to count
	if strict {
		for i := range rules {
			all = append(all, &rules[i])
		}
		for i, n := range nodes {
			ignored[i] = slices.ContainsFunc(all, func(r *spreadRule) bool { return c.topology(r.topologyKey).of(n) < 0 })
		}
	}
	for i := range rules {
		any = c.addSpread(&rules[i], all, nodes, out, ignored) || any
	}
	if !any {
		return false
	}
	low, high := math.Inf(1), math.Inf(-1)
	for i := range nodes {
		if !ignored[i] {
			low, high = min(low, out[i]), max(high, out[i])
		}
	}
	for i := range nodes {
		switch {
		case ignored[i]:
			out[i] = 0 // lacks a label that the pod wants to be spread by
		case high <= 0:
			out[i] = best
		default:
			out[i] = best * (high + low - out[i]) / high
		}
	}
	return true
}

// softRules are the constraints to score by. strict: nodes without the label
// are bad; by the built-in ones they only do not matter.
func (c *cycle) softRules() (rules []spreadRule, strict bool) {
	if len(c.pod.spread) > 0 {
		for _, r := range c.pod.spread {
			if !r.hard {
				rules = append(rules, r)
			}
		}
		return rules, true
	}
	return c.defaultRules(false), c.rules.spreadStrict
}

// defaultRules are the profile's constraints for pods that have none, over the
// pod's siblings.
func (c *cycle) defaultRules(hard bool) (rules []spreadRule) {
	siblings := c.siblings(c.pod.obj)
	if siblings == nil {
		return nil
	}
	for _, r := range c.rules.spread {
		if r.hard == hard {
			r.selector = siblings
			rules = append(rules, r)
		}
	}
	return rules
}

// addSpread adds one constraint's part: the more domains there are, the more a
// single pod too many weighs, so that hosts and zones come out comparable.
func (c *cycle) addSpread(r *spreadRule, all []*spreadRule, nodes []*node, out []float64, ignored []bool) bool {
	t := c.topology(r.topologyKey)
	if len(t.sizes) == 0 {
		return len(all) > 0
	}
	counts, domains := c.softCounts(r, all, t, nodes, ignored)
	weight := math.Log(float64(domains + 2))
	for i, n := range nodes {
		if id := t.of(n); id >= 0 {
			out[i] += float64(counts[id])*weight + float64(r.maxSkew-1)
		}
	}
	return true
}

// softCounts are the pods per domain, and in how many domains the nodes are.
func (c *cycle) softCounts(r *spreadRule, all []*spreadRule, t *topology, nodes []*node, ignored []bool) (counts []int32, domains int) {
	seen := make([]bool, len(t.sizes))
	for i, n := range nodes {
		if id := t.of(n); id >= 0 && !seen[id] && !ignored[i] {
			seen[id] = true
			domains++
		}
	}
	k := c.counter(true, r.selector)
	if c.allCount(r, all) {
		return k.tally(c.cluster, r.topologyKey).counts, domains
	}
	counts = make([]int32, len(t.sizes))
	for _, n := range c.candidates() {
		if id := t.of(n); id >= 0 && c.included(r, all, n) {
			counts[id] += k.on(n)
		}
	}
	return counts, domains
}

// Image sizes between which a node that has a pod's images gains points, per
// container for the upper one: upstream's figures.
const (
	imagesMatterFrom = 23 << 20
	imagesMatterTo   = 1000 << 20
)

// hasImages prefers nodes that need not pull much. An image that only few nodes
// have counts less, so that pods do not heap up on one node.
func hasImages(c *cycle, nodes []*node, out []float64) bool {
	var known []*image
	for _, name := range c.pod.images {
		if img := c.images[name]; img != nil {
			known = append(known, img)
		}
	}
	if len(known) == 0 {
		return false
	}
	all, upper := float64(len(c.candidates())), float64(imagesMatterTo*len(c.pod.images))
	any := false
	for i, n := range nodes {
		sum := 0.0
		for _, img := range known {
			if img.nodes[n.slot] {
				sum += float64(img.size) * float64(len(img.nodes)) / all
			}
		}
		out[i] = best * (min(max(sum, imagesMatterFrom), upper) - imagesMatterFrom) / (upper - imagesMatterFrom)
		any = any || out[i] > 0
	}
	return any
}

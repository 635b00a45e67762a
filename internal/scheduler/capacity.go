package scheduler

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/internal/kinds/validate"
)

// use is what would be in use of a resource of the node, with the pod there, and
// how much there is. ok is false where that says nothing: the node has none of
// it, or it is one of those that few pods use, and not this one. assumed: what
// asks for no cpu or memory counts as if it did. standing: of devices; nil: none.
func use(name corev1.ResourceName, p *pod, n *node, assumed bool, standing inUse) (used, of int64, ok bool) {
	switch name {
	case corev1.ResourceCPU:
		used, of = n.used.cpu+p.request.cpu, n.allocatable.cpu
		if assumed {
			used = n.scoreCPU + p.scoreCPU
		}
	case corev1.ResourceMemory:
		used, of = n.used.memory+p.request.memory, n.allocatable.memory
		if assumed {
			used = n.scoreMemory + p.scoreMemory
		}
	case corev1.ResourceEphemeralStorage:
		used, of = n.used.storage+p.request.storage, n.allocatable.storage
	default:
		if p.request.more[name] == 0 {
			return 0, 0, false
		}
		used, of = n.used.more[name], n.allocatable.more[name]
		if of == 0 && standing != nil {
			used, of = standing(n, name)
		}
		used += p.request.more[name]
	}
	return used, of, of > 0
}

// inUse is how many of the devices that stand for a resource on a node have been
// given away.
type inUse func(n *node, name corev1.ResourceName) (used, of int64)

// leftBy is how the profile scores what is left of a node: the mean over the
// resources, by their weights.
func leftBy(s *configv1.ScoringStrategy) func(*pod, *node, inUse) float64 {
	if s.Type == configv1.LeastAllocated && usual(s.Resources) {
		return func(p *pod, n *node, _ inUse) float64 { return leastAllocated(p, n) }
	}
	value := func(used, of int64) float64 { return best * left(used, of) }
	ratio := s.Type == configv1.RequestedToCapacityRatio
	switch {
	case s.Type == configv1.MostAllocated:
		value = func(used, of int64) float64 { return best * (1 - left(used, of)) }
	case ratio:
		value = byShape(s.RequestedToCapacityRatio.Shape)
	}
	return func(p *pod, n *node, standing inUse) float64 {
		sum, weights := 0.0, 0.0
		for i := range s.Resources {
			used, of, ok := use(corev1.ResourceName(s.Resources[i].Name), p, n, true, standing)
			if !ok {
				continue
			}
			// Upstream leaves resources out to which a shape gives nothing.
			if v := value(used, of); v > 0 || !ratio {
				sum += v * float64(s.Resources[i].Weight)
				weights += float64(s.Resources[i].Weight)
			}
		}
		switch {
		case weights == 0:
			return 0
		case ratio:
			return math.Round(sum / weights)
		}
		return sum / weights
	}
}

// usual: cpu and memory weigh the same, and nothing else counts.
func usual(list []configv1.ResourceSpec) bool {
	return len(list) == 2 && list[0].Weight == list[1].Weight && list[0].Name == string(corev1.ResourceCPU) && list[1].Name == string(corev1.ResourceMemory)
}

// byShape scores by straight lines between the points, in whole numbers, as
// upstream rounds. Points have scores of up to 10.
func byShape(shape []configv1.UtilizationShapePoint) func(used, of int64) float64 {
	return func(used, of int64) float64 {
		percent := int64(100)
		if used <= of {
			percent = int64(math.Floor(100 * float64(used) / float64(of)))
		}
		for i := range shape {
			to := &shape[i]
			switch {
			case percent > int64(to.Utilization):
				continue
			case i == 0:
				return best / 10 * float64(to.Score)
			}
			from := &shape[i-1]
			rise := best / 10 * int64(to.Score-from.Score)
			return float64(best/10*int64(from.Score) + rise*(percent-int64(from.Utilization))/int64(to.Utilization-from.Utilization))
		}
		return best / 10 * float64(shape[len(shape)-1].Score)
	}
}

// balanceOf is how evenly these resources would be used: the less their shares
// deviate from their mean, the better.
func balanceOf(list []configv1.ResourceSpec) func(*pod, *node, inUse) float64 {
	if usual(list) {
		return func(p *pod, n *node, _ inUse) float64 { return balanced(p, n) }
	}
	return func(p *pod, n *node, standing inUse) float64 {
		shares := make([]float64, 0, len(list))
		mean := 0.0
		for i := range list {
			if used, of, ok := use(corev1.ResourceName(list[i].Name), p, n, false, standing); ok {
				shares = append(shares, 1-left(used, of))
				mean += shares[len(shares)-1]
			}
		}
		if len(shares) < 2 {
			return best
		}
		mean /= float64(len(shares))
		sum := 0.0
		for _, v := range shares {
			sum += (v - mean) * (v - mean)
		}
		return best * (1 - math.Sqrt(sum/float64(len(shares))))
	}
}

// asks reports whether a pod asks for any of the resources.
func (a *amounts) asks(list []corev1.ResourceName) bool {
	return slices.ContainsFunc(list, func(name corev1.ResourceName) bool {
		switch name {
		case corev1.ResourceCPU:
			return a.cpu > 0
		case corev1.ResourceMemory:
			return a.memory > 0
		case corev1.ResourceEphemeralStorage:
			return a.storage > 0
		}
		return a.more[name] > 0
	})
}

// ignoredResources are devices and the like that need not fit: somebody else,
// as a rule an extender, minds them.
type ignoredResources struct {
	names  map[corev1.ResourceName]bool
	groups map[string]bool // what stands before the slash
}

func ignore(args *configv1.NodeResourcesFitArgs) (i ignoredResources) {
	for _, name := range args.IgnoredResources {
		if i.names == nil {
			i.names = map[corev1.ResourceName]bool{}
		}
		i.names[corev1.ResourceName(name)] = true
	}
	for _, group := range args.IgnoredResourceGroups {
		if i.groups == nil {
			i.groups = map[string]bool{}
		}
		i.groups[group] = true
	}
	return i
}

// has reports whether a resource is ignored. Kubernetes' own never are.
func (i *ignoredResources) has(name corev1.ResourceName) bool {
	if len(i.names) == 0 && len(i.groups) == 0 || validate.NativeResource(name) {
		return false
	}
	group, _, _ := strings.Cut(string(name), "/")
	return i.names[name] || i.groups[group]
}

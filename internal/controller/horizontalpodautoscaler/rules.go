package horizontalpodautoscaler

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

const (
	// stabilization is upstream's default: scaling down waits for that long.
	stabilization = 5 * time.Minute
	// Without a behaviour, replicas at most double at a time, or become four.
	growth, atLeast = 2, 4
	// maxRemembered bounds the recommendations of the longest window, an hour of
	// one every 15 seconds, and those of passes that were made again.
	maxRemembered = 1000
)

// recommend remembers what the metrics ask for, and forgets what no window looks
// back to.
func (p *pass) recommend(desired int32, window time.Duration) {
	list := slices.DeleteFunc(p.memory.Recommendations, func(r Recommendation) bool { return r.At.Before(p.Now.Add(-window)) })
	if len(list) >= maxRemembered {
		list = list[1:]
	}
	p.memory.Recommendations = append(list, Recommendation{desired, p.Now})
}

func (p *pass) limited(is bool, reason, message string) {
	p.condition(autoscalingv2.ScalingLimited, is, reason, message)
}

func (p *pass) withinRange() {
	p.limited(false, "DesiredWithinRange", "the desired count is within the acceptable range")
}

// normalize holds what is desired against the bounds, and against what was
// recommended in the last minutes.
func (p *pass) normalize(desired int32) int32 {
	stable := desired
	for _, r := range p.memory.Recommendations {
		if !r.At.Before(p.Now.Add(-stabilization)) {
			stable = max(stable, r.Replicas)
		}
	}
	p.recommend(desired, stabilization)
	if stable != desired {
		p.condition(autoscalingv2.AbleToScale, true, "ScaleDownStabilized", scaleDownStabilized)
	} else {
		p.condition(autoscalingv2.AbleToScale, true, "ReadyForNewScale", readyForNewScale)
	}
	limit, reason, message := p.Autoscaler.Spec.MaxReplicas, "TooManyReplicas", tooMany
	if up := ceil(math.Max(growth*float64(p.replicas), atLeast)); limit > up {
		limit, reason, message = up, "ScaleUpLimit", tooFast
	}
	switch {
	case stable < p.least:
		p.limited(true, "TooFewReplicas", tooFew)
		return p.least
	case stable > limit:
		p.limited(true, reason, message)
		return limit
	}
	p.withinRange()
	return stable
}

// What conditions say, in upstream's words.
const (
	readyForNewScale    = "recommended size matches current size"
	scaleUpStabilized   = "recent recommendations were lower than current one, applying the lowest recent recommendation"
	scaleDownStabilized = "recent recommendations were higher than current one, applying the highest recent recommendation"
	tooMany             = "the desired replica count is more than the maximum replica count"
	tooFew              = "the desired replica count is less than the minimum replica count"
	tooFast             = "the desired replica count is increasing faster than the maximum scale rate"
	tooFastDown         = "the desired replica count is decreasing faster than the maximum scale rate"
)

// normalizeByBehavior does so by the rules that the autoscaler has.
func (p *pass) normalizeByBehavior(desired int32) int32 {
	b := p.Autoscaler.Spec.Behavior
	stable := p.stabilize(desired, windowOf(b.ScaleUp, 0), windowOf(b.ScaleDown, stabilization))
	switch {
	case stable == desired:
		p.condition(autoscalingv2.AbleToScale, true, "ReadyForNewScale", readyForNewScale)
	case desired >= p.replicas:
		p.condition(autoscalingv2.AbleToScale, true, "ScaleUpStabilized", scaleUpStabilized)
	default:
		p.condition(autoscalingv2.AbleToScale, true, "ScaleDownStabilized", scaleDownStabilized)
	}
	p.forget(b)
	switch {
	case stable > p.replicas:
		limit, reason, message := p.Autoscaler.Spec.MaxReplicas, "TooManyReplicas", tooMany
		if up := max(p.replicas, p.upTo(b.ScaleUp)); limit > up {
			limit, reason, message = up, "ScaleUpLimit", tooFast
		}
		if stable > limit {
			p.limited(true, reason, message)
			return limit
		}
	case stable < p.replicas:
		limit, reason, message := p.least, "TooFewReplicas", tooFew
		if down := min(p.replicas, p.downTo(b.ScaleDown)); limit < down {
			limit, reason, message = down, "ScaleDownLimit", tooFastDown
		}
		if stable < limit {
			p.limited(true, reason, message)
			return limit
		}
	}
	p.withinRange()
	return stable
}

func windowOf(r *autoscalingv2.HPAScalingRules, otherwise time.Duration) time.Duration {
	if r == nil || r.StabilizationWindowSeconds == nil {
		return otherwise
	}
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}

// stabilize moves to what all recommendations of the windows agree on.
func (p *pass) stabilize(desired int32, up, down time.Duration) int32 {
	lowest, highest := desired, desired
	for _, r := range p.memory.Recommendations {
		if r.At.After(p.Now.Add(-up)) {
			lowest = min(lowest, r.Replicas)
		}
		if r.At.After(p.Now.Add(-down)) {
			highest = max(highest, r.Replicas)
		}
	}
	p.recommend(desired, max(up, down))
	return min(max(p.replicas, lowest), highest)
}

// forget drops the changes that no policy looks back to.
func (p *pass) forget(b *autoscalingv2.HorizontalPodAutoscalerBehavior) {
	longest := int32(0)
	for _, r := range []*autoscalingv2.HPAScalingRules{b.ScaleUp, b.ScaleDown} {
		if r != nil {
			for _, policy := range r.Policies {
				longest = max(longest, policy.PeriodSeconds)
			}
		}
	}
	old := func(c Change) bool { return c.At.Before(p.Now.Add(-time.Duration(longest) * time.Second)) }
	p.memory.Ups, p.memory.Downs = slices.DeleteFunc(p.memory.Ups, old), slices.DeleteFunc(p.memory.Downs, old)
}

// before are the replicas at the beginning of a policy's period.
func (p *pass) before(seconds int32) int32 {
	since := p.Now.Add(-time.Duration(seconds) * time.Second)
	n := p.replicas
	for _, c := range p.memory.Ups {
		if c.At.After(since) {
			n -= c.By
		}
	}
	for _, c := range p.memory.Downs {
		if c.At.After(since) {
			n += c.By
		}
	}
	return n
}

// upTo is what the policies let the replicas grow to.
func (p *pass) upTo(r *autoscalingv2.HPAScalingRules) int32 {
	return p.limit(r, true, func(policy *autoscalingv2.HPAScalingPolicy, from int32) int32 {
		if policy.Type == autoscalingv2.PodsScalingPolicy {
			return ceil(float64(from) + float64(policy.Value))
		}
		// Rounded up: else few replicas would never become more.
		return ceil(float64(from) * (1 + float64(policy.Value)/100))
	})
}

// downTo is what they let them fall to.
func (p *pass) downTo(r *autoscalingv2.HPAScalingRules) int32 {
	return p.limit(r, false, func(policy *autoscalingv2.HPAScalingPolicy, from int32) int32 {
		if policy.Type == autoscalingv2.PodsScalingPolicy {
			return from - policy.Value
		}
		return int32(float64(from) * (1 - float64(policy.Value)/100))
	})
}

// limit chooses among the policies: the one with the greatest change, unless the
// rules want the least one or none.
func (p *pass) limit(r *autoscalingv2.HPAScalingRules, up bool, propose func(*autoscalingv2.HPAScalingPolicy, int32) int32) int32 {
	choice := autoscalingv2.MaxChangePolicySelect
	if r.SelectPolicy != nil {
		choice = *r.SelectPolicy
	}
	if choice == autoscalingv2.DisabledPolicySelect || len(r.Policies) == 0 {
		return p.replicas
	}
	greatest := up == (choice != autoscalingv2.MinChangePolicySelect)
	var out int32
	for i := range r.Policies {
		policy := &r.Policies[i]
		n := propose(policy, p.before(policy.PeriodSeconds))
		switch {
		case i == 0:
			out = n
		case greatest:
			out = max(out, n)
		default:
			out = min(out, n)
		}
	}
	return out
}

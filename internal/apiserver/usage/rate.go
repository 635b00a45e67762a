package usage

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// swap is how kubectl calls it.
const swap corev1.ResourceName = "swap"

// youngest is how long a container must have run to be counted from its own
// beginning, when there is no earlier sample of it: metrics-server's figure. The
// first seconds of a program say little.
const youngest = 10 * time.Second

// rate is what was used between two samples.
type rate struct {
	at     time.Time
	window time.Duration
	usage  corev1.ResourceList
}

// between two points of the same thing; ok is false if they do not tell.
func between(was, now *point) (r rate, ok bool) {
	switch {
	case !now.whole():
		return r, false
	case was != nil && was.hasCPU && now.at.After(was.at) && !now.began.After(was.at) && now.cpu >= was.cpu:
		r.window = now.at.Sub(was.at)
		r.usage = now.usage(now.cpu-was.cpu, r.window)
	case !now.began.IsZero() && (was == nil || now.began.After(was.at)) && now.at.Sub(now.began) >= youngest:
		r.window = now.at.Sub(now.began)
		r.usage = now.usage(now.cpu, r.window)
	default:
		return r, false
	}
	r.at = now.at
	return r, true
}

func (p *point) usage(cpu, window time.Duration) corev1.ResourceList {
	out := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(float64(cpu)/window.Seconds()), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(p.memory), resource.BinarySI),
	}
	if p.hasSwap {
		out[swap] = *resource.NewQuantity(int64(p.swap), resource.BinarySI)
	}
	return out
}

// pair is the last two samples of a node. It never changes.
type pair struct{ was, now *sample }

func (p *pair) nodeRate() (rate, bool) {
	if p.was == nil {
		return rate{}, false
	}
	return between(&p.was.node, &p.now.node)
}

// podRates are those of a pod's containers by name, or nil unless all of them
// are known: who sums them up would take a part for the whole.
func (p *pair) podRates(key podKey) (of rate, containers []metricsv1beta1.ContainerMetrics) {
	now := p.now.pods[key]
	for _, name := range slices.Sorted(maps.Keys(now)) {
		last := now[name]
		var before *point
		if p.was != nil {
			if b, ok := p.was.pods[key][name]; ok {
				before = &b
			}
		}
		r, ok := between(before, &last)
		if !ok {
			return rate{}, nil
		}
		if len(containers) == 0 || r.at.Before(of.at) {
			of = r
		}
		containers = append(containers, metricsv1beta1.ContainerMetrics{Name: name, Usage: r.usage})
	}
	return of, containers
}

func window(d time.Duration) metav1.Duration {
	return metav1.Duration{Duration: d.Round(time.Millisecond)}
}

package fair

import (
	"math"
	"time"
)

const (
	// adjustEvery is how long seats stay as they are shared.
	adjustEvery = 10 * time.Second
	// decay of what was asked for once, per adjustEvery: half of it in five
	// minutes.
	decay = 0.977
)

// demand is how many seats a level could use, over time.
type demand struct {
	since, last  time.Time
	value, most  int
	sum, squares float64 // of value, by seconds
}

func (d *demand) set(now time.Time, value int) {
	if s := now.Sub(d.last).Seconds(); s > 0 {
		d.sum += s * float64(d.value)
		d.squares += s * float64(d.value) * float64(d.value)
		d.last = now
	}
	d.value = value
	d.most = max(d.most, value)
}

// reset begins a new period and tells about the last one.
func (d *demand) reset(now time.Time) (average, deviation float64, most int, lasted time.Duration) {
	d.set(now, d.value)
	lasted, most = now.Sub(d.since), d.most
	if s := lasted.Seconds(); s > 0 && !d.since.IsZero() {
		average = d.sum / s
		deviation = math.Sqrt(max(0, d.squares/s-average*average))
	}
	*d = demand{since: now, last: now, value: d.value, most: d.value}
	return average, deviation, most, lasted
}

// stats of a level's last period, as the metrics tell them.
type stats struct {
	average, deviation, smoothed, target float64
	most                                 int
}

// observe ends a level's period.
func (l *level) observe(now time.Time) {
	average, deviation, most, lasted := l.demand.reset(now)
	envelope := average + deviation
	keep := math.Pow(decay, float64(lasted)/float64(adjustEvery))
	l.stats = stats{average: average, deviation: deviation, most: most,
		smoothed: max(envelope, keep*l.stats.smoothed+(1-keep)*envelope)}
}

// adjust shares the seats anew: a level keeps what it does not lend and what
// it has just needed of its own; the rest goes where it is asked for.
func (d *Dispatcher) adjust(now time.Time) {
	d.adjusted.Store(now.UnixNano())
	var limited []*level
	var wishes []wish
	var left, least, needed int
	levels := d.state.Load().levels
	for _, l := range levels {
		l.mu.Lock()
		l.observe(now)
		left += l.nominal
		if l.exempt {
			l.limit = max(l.lowest, l.stats.most)
			l.stats.target = float64(l.limit)
			left -= l.limit
		} else {
			low := max(l.lowest, min(l.nominal, l.stats.most))
			l.stats.target = max(float64(low), l.stats.smoothed)
			limited, wishes = append(limited, l), append(wishes, wish{float64(low), float64(max(low, l.highest)), l.stats.target})
			least, needed = least+l.lowest, needed+low
		}
		l.mu.Unlock()
	}
	var shares []float64
	var fraction float64
	if left > needed {
		shares, fraction = allocate(float64(left), wishes)
	}
	for i, l := range limited {
		l.mu.Lock()
		switch {
		case left > needed:
			l.limit = int(math.Round(shares[i]))
		case left > least:
			l.limit = l.lowest + int(math.Round((wishes[i].low-float64(l.lowest))*float64(left-least)/float64(needed-least)))
		default:
			l.limit = l.lowest
		}
		l.dispatch(now)
		l.mu.Unlock()
	}
	d.metrics.fraction.Store(math.Float64bits(fraction))
}

// wish is what one level may and would have.
type wish struct{ low, high, target float64 }

// smallest target: what asks for nothing gets a part of what is left as well.
const smallest = 0.001

// allocate finds the one fraction of the targets at which all seats are given
// away, within everybody's bounds.
func allocate(sum float64, wishes []wish) (shares []float64, fraction float64) {
	shares = make([]float64, len(wishes))
	give := func(f float64) (total float64) {
		for i, w := range wishes {
			shares[i] = min(max(f*max(w.target, smallest), w.low), w.high)
			total += shares[i]
		}
		return total
	}
	low, high := 0.0, 1.0
	for _, w := range wishes {
		high = max(high, w.high/max(w.target, smallest))
	}
	for range 64 { // halves: beyond that floats do not go
		fraction = (low + high) / 2
		if give(fraction) < sum {
			low = fraction
		} else {
			high = fraction
		}
	}
	give(high)
	return shares, high
}

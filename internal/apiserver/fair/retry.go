package fair

import "time"

// longestRetry is the most seconds that a client is told to stay away.
const longestRetry = 32

// retry counts who is sent away, and tells the next ones to stay away for
// longer while they are many: twice as long as soon as there are three per
// second of it, a second less when there is less than one.
type retry struct {
	after   int64             // seconds; 0: 1
	raised  int64             // when it last grew, in Unix seconds
	second  int64             // that counts now
	dropped [longestRetry]int // by second, modulo
}

// dropped counts one, and returns the seconds that it is told.
func (l *level) dropped(now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retry.drop(now.Unix())
}

func (r *retry) drop(now int64) int {
	r.after = max(1, r.after)
	if now > r.second {
		for s := max(r.second+1, now-longestRetry+1); s <= now; s++ {
			r.dropped[s%longestRetry] = 0
		}
		r.second = now
		var recent int64
		for s := now - min(r.after, longestRetry-1); s < now; s++ {
			recent += int64(r.dropped[s%longestRetry])
		}
		switch {
		case now-r.raised >= r.after && recent >= 3*r.after:
			r.after, r.raised = min(2*r.after, longestRetry), now
		case recent < r.after && r.after > 1:
			r.after--
		}
	}
	r.dropped[r.second%longestRetry]++
	return int(r.after)
}

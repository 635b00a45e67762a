package job

import (
	"slices"
	"strconv"
	"strings"
)

// spans are completion indexes as ranges: in order, apart from each other and
// never empty, so that a set of many indexes is written and searched quickly.
type spans []span

type span struct{ first, last int }

// parseSpans reads "1,3-5,7" below a limit; it passes over what is none.
func parseSpans(s string, limit int) spans {
	var out spans
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first < 0 || first >= limit {
			continue
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
			last = min(last, limit-1)
		}
		if last >= first {
			out = append(out, span{first, last})
		}
	}
	return out.tidy()
}

// spansOf indexes in any order.
func spansOf(indexes []int) spans {
	out := make(spans, 0, len(indexes))
	for _, i := range indexes {
		out = append(out, span{i, i})
	}
	return out.tidy()
}

// tidy orders the ranges and joins neighbours.
func (s spans) tidy() spans {
	slices.SortFunc(s, func(a, b span) int { return a.first - b.first })
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && x.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, x.last)
		} else {
			out = append(out, x)
		}
	}
	return out
}

// with adds the indexes of others.
func (s spans) with(others ...spans) spans {
	return slices.Concat(append(others, s)...).tidy()
}

func (s spans) total() int {
	n := 0
	for _, x := range s {
		n += x.last - x.first + 1
	}
	return n
}

func (s spans) has(index int) bool {
	at, exact := slices.BinarySearchFunc(s, index, func(x span, i int) int { return x.first - i })
	return exact || at > 0 && s[at-1].last >= index
}

// common is how many indexes both have.
func (s spans) common(t spans) int {
	n := 0
	for len(s) > 0 && len(t) > 0 {
		n += max(0, min(s[0].last, t[0].last)-max(s[0].first, t[0].first)+1)
		if s[0].last <= t[0].last {
			s = s[1:]
		} else {
			t = t[1:]
		}
	}
	return n
}

// missing are the first indexes below limit that are not there, at most n.
func (s spans) missing(limit, n int) []int {
	var out []int
	next := 0
	for _, x := range append(slices.Clone(s), span{limit, limit}) {
		for ; next < min(x.first, limit) && len(out) < n; next++ {
			out = append(out, next)
		}
		next = x.last + 1
	}
	return out
}

func (s spans) String() string {
	var b strings.Builder
	for i, x := range s {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(x.first))
		switch {
		case x.last == x.first+1:
			b.WriteByte(',')
		case x.last > x.first:
			b.WriteByte('-')
		default:
			continue
		}
		b.WriteString(strconv.Itoa(x.last))
	}
	return b.String()
}

package reconcile

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Each call takes a second: what begins in which second shows the window.
func TestGrow(t *testing.T) {
	for name, tt := range map[string]struct {
		parallel, n, fails int
		want               []int
	}{
		"doubles up to the limit":        {4, 13, -1, []int{1, 2, 4, 4, 2}},
		"the first fails":                {4, 100, 0, []int{1}},
		"what runs is left to end":       {8, 100, 3, []int{1, 2, 4}},
		"the last one":                   {8, 1, -1, []int{1}},
		"nothing":                        {8, 0, -1, nil},
		"one by one":                     {1, 3, -1, []int{1, 1, 1}},
		"one by one, until a failure":    {1, 3, 1, []int{1, 1}},
		"a failure among many successes": {3, 100, 4, []int{1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var got []int
				begin := time.Now()
				(&executor{parallel: tt.parallel}).grow(tt.n, func(i int) bool {
					mu.Lock()
					second := int(time.Since(begin) / time.Second)
					for len(got) <= second {
						got = append(got, 0)
					}
					got[second]++
					mu.Unlock()
					if i == tt.fails { // before the others of its second
						<-time.After(time.Second - time.Millisecond)
						return false
					}
					<-time.After(time.Second)
					return true
				})
				if took := time.Since(begin).Round(time.Second); took != time.Duration(len(tt.want))*time.Second {
					t.Errorf("returned after %v", took)
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("began %v in each second, want %v", got, tt.want)
				}
			})
		})
	}
}

package apiserver

import (
	"math"
	"net/url"
	"testing"
	"time"
)

func TestWatchTime(t *testing.T) {
	for _, tt := range []struct {
		query    string
		min, max time.Duration
	}{
		{"watch=1", minWatch, 2 * minWatch},
		{"watch=1&timeoutSeconds=0", minWatch, 2 * minWatch},
		{"watch=1&timeoutSeconds=1", time.Second, time.Second},
		{"watch=1&timeoutSeconds=7200", 2 * time.Hour, 2 * time.Hour},
		{"watch=1&timeoutSeconds=86401", maxWatch, maxWatch},
		{"watch=1&timeoutSeconds=9223372037", maxWatch, maxWatch}, // nanoseconds overflow from here on
		{"watch=1&timeoutSeconds=9223372036854775807", maxWatch, maxWatch},
		{"watch=1&timeoutSeconds=-1", 0, 0},
		{"watch=1&timeoutSeconds=-9223372036854775808", 0, 0},
	} {
		q, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		o, err := listOptions(q)
		if err != nil {
			t.Fatal(err)
		}
		if got := watchTime(o); got < tt.min || got > tt.max {
			t.Errorf("%s: %v, want %v to %v", tt.query, got, tt.min, tt.max)
		}
	}
}

// A limit that means nothing is none, as upstream; what is no number is refused.
func TestListNumbers(t *testing.T) {
	for query, want := range map[string]int64{"": 0, "limit=0": 0, "limit=5": 5, "limit=-1": -1, "limit=9223372036854775807": math.MaxInt64} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		o, err := listOptions(q)
		if err == nil {
			err = checkListOptions(o)
		}
		if err != nil || o.Limit != want {
			t.Errorf("%s: %d %v", query, o.Limit, err)
		}
	}
	for query, want := range map[string]string{
		"limit=":                               `strconv.ParseInt: parsing "": invalid syntax`,
		"limit=x":                              `strconv.ParseInt: parsing "x": invalid syntax`,
		"limit=1.5":                            `strconv.ParseInt: parsing "1.5": invalid syntax`,
		"limit=9223372036854775808":            `strconv.ParseInt: parsing "9223372036854775808": value out of range`,
		"timeoutSeconds=":                      `strconv.ParseInt: parsing "": invalid syntax`,
		"timeoutSeconds=-9223372036854775809":  `strconv.ParseInt: parsing "-9223372036854775809": value out of range`,
		"timeoutSeconds=1s&limit=1&watch=true": `strconv.ParseInt: parsing "1s": invalid syntax`,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := listOptions(q); err == nil || err.Error() != want || statusOf(err).Code != 400 {
			t.Errorf("%s: %v", query, err)
		}
	}
}

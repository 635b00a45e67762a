package server

import (
	"strings"
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	const stamp = "2026-01-02T03:04:05.0000006Z stdout "
	long := strings.Repeat("x", maxLine)
	for _, tc := range []struct {
		name, carry, data string
		flush             bool
		lines             []string // without the stamp
		rest              string
	}{
		{name: "nothing"},
		{name: "a line", data: "a\n", lines: []string{"F a"}},
		{name: "lines", data: "a\nb\n", lines: []string{"F a", "F b"}},
		{name: "an empty line", data: "\n", lines: []string{"F "}},
		{name: "a beginning", data: "a\nb", lines: []string{"F a"}, rest: "b"},
		{name: "its end", carry: "b", data: "c\nd", lines: []string{"F bc"}, rest: "d"},
		{name: "the last", carry: "d", flush: true, lines: []string{"P d"}},
		{name: "just a line long", data: long + "\n", lines: []string{"F " + long}},
		{name: "just a line long without an end", data: long, rest: long},
		{name: "longer", data: long + "y\n", lines: []string{"P " + long, "F y"}},
		{name: "longer, in two", carry: long, data: "y", lines: []string{"P " + long}, rest: "y"},
		{name: "much longer", data: long + long + "\n", lines: []string{"P " + long, "F " + long}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, rest := format(nil, "stdout", at, []byte(tc.carry), []byte(tc.data), tc.flush)
			want := ""
			for _, l := range tc.lines {
				want += stamp + l + "\n"
			}
			if string(got) != want || string(rest) != tc.rest {
				t.Errorf("lines %.200q, rest %.50q; want %.200q, %.50q", got, rest, want, tc.rest)
			}
		})
	}
}

// However data is cut, the log is the same.
func TestFormatPieces(t *testing.T) {
	text := "first\n" + strings.Repeat("abc", maxLine) + "\n\nlast\nunended"
	read := func(n int) string {
		var out, carry []byte
		for data := []byte(text); len(data) > 0; {
			k := min(n, len(data))
			out, carry = format(out, "s", time.Time{}, carry, data[:k], false)
			data = data[k:]
		}
		out, _ = format(out, "s", time.Time{}, carry, nil, true)
		return string(out)
	}
	want := read(len(text))
	for _, n := range []int{1, 2, 7, 1000, maxLine - 1, maxLine, maxLine + 1, chunk} {
		if got := read(n); got != want {
			t.Errorf("pieces of %d make another log", n)
		}
	}
}

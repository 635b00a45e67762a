package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2/types"
)

//go:embed conformance-1.37.txt
var allNames string

//go:embed expected-failures.txt
var expectedText string

// selected are the tests whose names match focus and not skip.
func selected(focus, skip string) ([]string, error) {
	want, err := regexp.Compile(focus)
	if err != nil {
		return nil, fmt.Errorf("FOCUS: %w", err)
	}
	not, err := regexp.Compile(skip)
	if err != nil {
		return nil, fmt.Errorf("SKIP: %w", err)
	}
	var names []string
	for name := range strings.Lines(allNames) {
		if name = strings.TrimSpace(name); want.MatchString(name) && (skip == "" || !not.MatchString(name)) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no conformance test matches FOCUS=%q SKIP=%q", focus, skip)
	}
	return names, nil
}

// exactly is a regexp for these names and no others.
func exactly(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = regexp.QuoteMeta(n)
	}
	return " (" + strings.Join(quoted, "|") + ")$"
}

// expectedFailures reads names with the reason on the indented lines below.
func expectedFailures(text string) (map[string]string, error) {
	out := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || strings.HasPrefix(line, "#"):
		case line[0] != ' ' && line[0] != '\t':
			name = trimmed
			out[name] = ""
		case name == "":
			return nil, fmt.Errorf("expected-failures.txt: a reason without a test: %s", trimmed)
		default:
			out[name] = strings.TrimSpace(out[name] + " " + trimmed)
		}
	}
	for name, reason := range out {
		if reason == "" {
			return nil, fmt.Errorf("expected-failures.txt: no reason for %s", name)
		}
	}
	return out, nil
}

// result of a test.
type result struct {
	name   string
	state  string // passed, failed, skipped, missing
	took   time.Duration
	reason string
}

func (r result) String() string {
	s := fmt.Sprintf("%-7s %7.1fs %s", r.state, r.took.Seconds(), r.name)
	if r.reason != "" {
		s += "\n                 " + r.reason
	}
	return s
}

// gaveUp is what the suite logs where it returns from a test without failing it.
const gaveUp = "Unexpected error while creating CustomResourceDefinition"

// readResults finds what became of each of the names in ginkgo's report.
func readResults(file string, names []string) ([]result, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var reports []types.Report
	if err := json.Unmarshal(data, &reports); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	byName := map[string]types.SpecReport{}
	for _, rep := range reports {
		for _, spec := range rep.SpecReports {
			if spec.LeafNodeType == types.NodeTypeIt {
				byName[spec.FullText()] = spec
			} else if spec.Failed() { // of the suite's beginning or end
				return nil, fmt.Errorf("the suite failed: %s", firstLine(spec.FailureMessage()))
			}
		}
	}
	var out []result
	for _, n := range names {
		spec, ok := byName[n]
		r := result{name: n, took: spec.RunTime, reason: firstLine(spec.FailureMessage())}
		switch {
		case !ok:
			r.state, r.reason = "missing", "the suite has no test of this name"
		case spec.Failed():
			r.state = "failed"
		case spec.State == types.SpecStatePassed && strings.Contains(spec.CapturedGinkgoWriterOutput, gaveUp):
			r.state, r.reason = "failed", "the suite passes it, but could not create its CustomResourceDefinition and tested nothing"
		case spec.State == types.SpecStatePassed:
			r.state = "passed"
		default:
			r.state = "skipped"
		}
		out = append(out, r)
	}
	return out, nil
}

// firstLine is the message on one line, cut where it becomes long.
func firstLine(message string) string {
	line := strings.Join(strings.Fields(message), " ")
	return line[:min(len(line), 400)]
}

// summarize writes what went wrong, and returns how many tests should not have.
func summarize(w io.Writer, results []result, expected map[string]string) (unexpected int) {
	passed := 0
	for _, r := range results {
		reason, known := expected[r.name]
		switch {
		case r.state == "passed" && known:
			passed++
			fmt.Fprintf(w, "passes, but is in expected-failures.txt (%s): %s\n", reason, r.name)
		case r.state == "passed":
			passed++
		case known:
			fmt.Fprintf(w, "%s\n                 expected: %s\n", r, reason)
		default:
			unexpected++
			fmt.Fprintln(w, r)
		}
	}
	fmt.Fprintf(w, "%d of %d passed, %d failed as expected, %d unexpectedly\n", passed, len(results), len(results)-passed-unexpected, unexpected)
	return unexpected
}

// nodeType stands in the names of tests that failed.
var nodeType = regexp.MustCompile(`\[(It|(Just)?(Before|After)Each|DeferCleanup[^]]*)\] `)

// follow prints a line for every test that ends: ginkgo writes a line with
// a dot and the time, and the name with labels on the next.
func follow(r io.Reader, names []string, w io.Writer) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 64<<20)
	state, done := "", 0
	for s.Scan() {
		line := nodeType.ReplaceAllString(s.Text(), "")
		if state != "" {
			if i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(line, n) }); i >= 0 {
				done++
				fmt.Fprintf(w, "%d/%d %s %s\n", done, len(names), state, names[i])
			}
		}
		state = strings.TrimSpace(strings.TrimPrefix(line, "•"))
		if state == line {
			state = ""
		}
	}
	return s.Err()
}

package usage

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// point is what was used up to a moment.
type point struct {
	at      time.Time     // of the CPU time
	began   time.Time     // the container; zero: not known
	cpu     time.Duration // in all since then
	memory  uint64        // bytes
	swap    uint64        // bytes, if hasSwap
	hasCPU  bool
	hasMem  bool
	hasSwap bool
}

func (p *point) whole() bool { return p.hasCPU && p.hasMem }

type podKey struct{ namespace, name string }

// sample is what a kubelet says of its node at one moment.
type sample struct {
	node point
	pods map[podKey]map[string]point // by the containers' names
}

const (
	// maxLine bounds a line: three names of 253 characters and some digits.
	maxLine = 4 << 10
	// maxContainers bounds what one node may have: far above upstream's 110 pods.
	maxContainers = 20000
)

var errTooMany = errors.New("more containers than a node can have")

// parse reads the kubelet's /metrics/resource, in the text format of
// Prometheus. Other families are passed over.
func parse(r io.Reader) (*sample, error) {
	s := &sample{pods: map[podKey]map[string]point{}}
	n := 0
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, maxLine), maxLine)
	for lines.Scan() {
		text := lines.Text()
		if !strings.HasPrefix(text, "node_") && !strings.HasPrefix(text, "container_") {
			continue // of pods as wholes, and what explains
		}
		l, err := readLine(text)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(l.name, "node_") {
			s.node.set(strings.TrimPrefix(l.name, "node_"), l)
		}
		family, ok := strings.CutPrefix(l.name, "container_")
		if !ok {
			continue
		}
		key, container := podKey{l.labels["namespace"], l.labels["pod"]}, l.labels["container"]
		pod := s.pods[key]
		if pod == nil {
			pod = map[string]point{}
			s.pods[key] = pod
		}
		p, known := pod[container]
		if !known {
			if n++; n > maxContainers {
				return nil, errTooMany
			}
		}
		p.set(family, l)
		pod[container] = p
	}
	return s, lines.Err()
}

func (p *point) set(family string, l line) {
	switch family {
	case "cpu_usage_seconds_total":
		p.cpu, p.at, p.hasCPU = time.Duration(l.value*float64(time.Second)), l.at, !l.at.IsZero()
	case "memory_working_set_bytes":
		p.memory, p.hasMem = uint64(l.value), true
	case "swap_usage_bytes":
		p.swap, p.hasSwap = uint64(l.value), true
	case "start_time_seconds":
		p.began = time.UnixMicro(int64(l.value * 1e6))
	}
}

// line is one value with its name and labels.
type line struct {
	name   string
	labels map[string]string
	value  float64
	at     time.Time
}

func readLine(text string) (line, error) {
	l, rest := line{labels: map[string]string{}}, ""
	bad := func() (line, error) { return l, fmt.Errorf("not a line of the text format: %.80q", text) }
	i := strings.IndexAny(text, "{ ")
	if i < 0 {
		return bad()
	}
	l.name, rest = text[:i], text[i:]
	if rest[0] == '{' {
		var ok bool
		if rest, ok = l.readLabels(rest[1:]); !ok {
			return bad()
		}
	}
	fields := strings.Fields(rest)
	if len(fields) < 1 || len(fields) > 2 {
		return bad()
	}
	var err error
	if l.value, err = strconv.ParseFloat(fields[0], 64); err != nil || !(l.value >= 0 && l.value < 1<<53) {
		return bad() // all that is read here counts something
	}
	if len(fields) == 2 {
		ms, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return bad()
		}
		l.at = time.UnixMilli(ms)
	}
	return l, nil
}

// readLabels reads what stands between the braces and returns what follows.
func (l *line) readLabels(text string) (rest string, ok bool) {
	for {
		text = strings.TrimLeft(text, ", ")
		if after, done := strings.CutPrefix(text, "}"); done {
			return after, true
		}
		name, value, found := strings.Cut(text, `="`)
		if !found {
			return "", false
		}
		var out strings.Builder
		end := -1
		for i := 0; i < len(value) && end < 0; i++ {
			switch c := value[i]; {
			case c == '"':
				end = i
			case c == '\\' && i+1 < len(value):
				i++
				if value[i] == 'n' {
					out.WriteByte('\n')
				} else {
					out.WriteByte(value[i])
				}
			default:
				out.WriteByte(c)
			}
		}
		if end < 0 {
			return "", false
		}
		l.labels[name] = out.String()
		text = value[end+1:]
	}
}

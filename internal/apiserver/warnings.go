package apiserver

import (
	"net/http"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/net"
)

// Bounds of the warnings of one answer, whose texts can hold what a client or
// a webhook sent, as upstream's: once they are longer than maxWarnings in all,
// each is cut, and no more follow when they are that long again.
const (
	maxWarnings = 4096 // runes
	maxWarning  = 256
)

// warner adds Warning headers, each text once (RFC 7234, code 299).
func warner(w http.ResponseWriter) func(string) {
	return (&warnings{header: w.Header(), seen: map[string]bool{}}).add
}

type warnings struct {
	header  http.Header
	seen    map[string]bool
	texts   []string
	written int // runes
	cut     bool
}

func (x *warnings) add(text string) {
	text = strings.ReplaceAll(text, "\n", " ") // a YAML parser's errors; a header is one line
	if text == "" || x.seen[text] || x.cut && x.written >= maxWarnings {
		return
	}
	x.seen[text] = true
	if x.cut || x.written+utf8.RuneCountInString(text) <= maxWarnings {
		if !x.cut {
			x.texts = append(x.texts, text)
		}
		x.write(text)
		return
	}
	x.cut, x.written = true, 0
	x.header.Del("Warning")
	for _, t := range append(x.texts, text) {
		x.write(t)
	}
	x.texts = nil
}

func (x *warnings) write(text string) {
	runes := []rune(text)
	if x.cut {
		runes = runes[:min(len(runes), maxWarning)]
	}
	if h, err := net.NewWarningHeader(299, "-", string(runes)); err == nil {
		x.written += len(runes)
		x.header.Add("Warning", h)
	}
}

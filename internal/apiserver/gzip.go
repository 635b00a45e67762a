package apiserver

import (
	"net/http"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// described: discovery and OpenAPI, whose documents are long.
func described(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first == "api" || first == "apis" || first == "openapi"
}

// zipper compresses a handler's answer once it is longer than gzipFrom: until
// then it is held back.
type zipper struct {
	http.ResponseWriter
	code   int // 0: no word of it yet
	held   []byte
	zip    *gzip.Writer
	passed bool // the header is out
}

func (z *zipper) WriteHeader(code int) {
	if z.code == 0 {
		z.code = code
	}
}

func (z *zipper) Write(p []byte) (int, error) {
	switch {
	case z.zip != nil:
		return z.zip.Write(p)
	case z.passed:
		return z.ResponseWriter.Write(p)
	case len(z.held)+len(p) < gzipFrom:
		z.held = append(z.held, p...)
		return len(p), nil
	}
	h := z.Header()
	if h.Get("Content-Encoding") == "" {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		h.Del("Content-Length")
		zip, err := gzip.NewWriterLevel(z.ResponseWriter, gzip.BestSpeed)
		if err != nil {
			return 0, err
		}
		z.zip = zip
	}
	if err := z.pass(); err != nil {
		return 0, err
	}
	return z.Write(p)
}

// pass sends what was held back.
func (z *zipper) pass() error {
	z.passed = true
	if z.code != 0 {
		z.ResponseWriter.WriteHeader(z.code)
	}
	held := z.held
	z.held = nil
	if len(held) == 0 {
		return nil
	}
	_, err := z.Write(held)
	return err
}

// end sends the rest. A client that is gone is no error of ours.
func (z *zipper) end() {
	if !z.passed {
		_ = z.pass()
	}
	if z.zip != nil {
		_ = z.zip.Close()
	}
}

package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzip"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// chunkSize is how much of a long answer is gathered before it is sent: small
// writes cost TLS and HTTP/2 half their throughput.
const chunkSize = 256 << 10

// chunks writes an answer whose length is not known at its beginning; a short
// one goes out whole.
type chunks struct {
	s     *Server
	w     http.ResponseWriter
	a     accepted
	buf   *[]byte
	gzip  *gzip.Writer
	begun bool
}

func (s *Server) newChunks(w http.ResponseWriter, a accepted) *chunks {
	buf, ok := s.buffers.Get().(*[]byte)
	if !ok {
		b := make([]byte, 0, chunkSize)
		buf = &b
	}
	*buf = (*buf)[:0]
	return &chunks{s: s, w: w, a: a, buf: buf}
}

// free gives the buffer back; nothing may be written any more.
func (c *chunks) free() { c.s.buffers.Put(c.buf) }

// Write implements io.Writer.
func (c *chunks) Write(p []byte) (int, error) {
	if len(*c.buf) > 0 && len(*c.buf)+len(p) > chunkSize {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > chunkSize {
		return len(p), c.send(p)
	}
	*c.buf = append(*c.buf, p...)
	return len(p), nil
}

func (c *chunks) flush() error {
	err := c.send(*c.buf)
	*c.buf = (*c.buf)[:0]
	return err
}

func (c *chunks) send(p []byte) error {
	if !c.begun {
		c.begun = true
		h := c.w.Header()
		h.Set("Content-Type", c.a.contentType(false))
		h.Set("Cache-Control", "no-cache, private")
		if c.a.gzip && c.a.format == codec.JSON {
			h.Set("Content-Encoding", "gzip")
			h.Set("Vary", "Accept-Encoding")
			var err error
			if c.gzip, err = gzip.NewWriterLevel(c.w, gzip.BestSpeed); err != nil {
				return err
			}
		}
		c.w.WriteHeader(http.StatusOK)
	}
	rc := http.NewResponseController(c.w)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	var to io.Writer = c.w
	if c.gzip != nil {
		to = c.gzip
	}
	_, err := to.Write(p)
	return err
}

// end sends what is left.
func (c *chunks) end() error {
	if !c.begun {
		return c.s.write(c.w, http.StatusOK, c.a, *c.buf, nil)
	}
	err := c.flush()
	if err == nil && c.gzip != nil {
		err = c.gzip.Close()
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone, or far too slow
	}
	return nil
}

func listKind(k *kinds.Kind) string {
	if k.ListKind != "" {
		return k.ListKind
	}
	return k.GVK.Kind + "List"
}

// json writes the list out of the items' JSON.
func (l *listing) json(ctx context.Context, k *kinds.Kind, write func([]byte) (int, error)) error {
	meta, err := json.Marshal(l.meta())
	if err != nil {
		return err
	}
	head := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, listKind(k), k.GVK.GroupVersion().String(), meta)
	if _, err := write(head); err != nil {
		return err
	}
	comma := []byte(",")
	for i, it := range l.items {
		data, err := it.Bytes(ctx, codec.JSON)
		if err != nil {
			return err
		}
		if i > 0 {
			if _, err := write(comma); err != nil {
				return err
			}
		}
		if n := len(data); n > 0 && data[n-1] == '\n' {
			data = data[:n-1]
		}
		if _, err := write(data); err != nil {
			return err
		}
	}
	_, err = write([]byte("]}\n"))
	return err
}

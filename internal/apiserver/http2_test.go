package apiserver_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"knarr.dev/knarr/internal/apiserver"
)

// maxStreams is the server's bound of streams in one connection.
const maxStreams = 250

// busy authenticates nobody before it is let go, and counts who waits.
type busy struct {
	now, most atomic.Int64
	release   chan struct{}
}

func (b *busy) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for {
		if most := b.most.Load(); n <= most || b.most.CompareAndSwap(most, n) {
			break
		}
	}
	<-b.release
	return nil, false, nil
}

// h2 is a connection on which a test writes frames.
type h2 struct {
	*http2.Framer
	conn net.Conn
	buf  bytes.Buffer
	enc  *hpack.Encoder
}

func dialH2(t *testing.T, addr string) *h2 {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := &h2{Framer: http2.NewFramer(conn, conn), conn: conn}
	c.enc = hpack.NewEncoder(&c.buf)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// head is a request's header block.
func (c *h2) head(path string) []byte {
	c.buf.Reset()
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", path}} {
		_ = c.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return c.buf.Bytes()
}

// end reads until the server ends the connection, and says why.
func (c *h2) end() (streams int, code http2.ErrCode, err error) {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return streams, code, err
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			code = f.ErrCode
		case *http2.RSTStreamFrame:
			streams++
		case *http2.SettingsFrame:
			if n, ok := f.Value(http2.SettingMaxConcurrentStreams); ok && n != maxStreams {
				return streams, code, fmt.Errorf("the server allows %d streams", n)
			}
		}
	}
}

// TestCVE2023_44487: who opens streams and resets them at once makes no more
// work than who keeps them open, and loses the connection.
func TestCVE2023_44487(t *testing.T) {
	b := &busy{release: make(chan struct{})}
	w := newWorld(t, func(c *apiserver.Config) { c.Authn = b })
	l, stop := serveTLS(t, w)
	c := dialH2(t, l.Addr().String())
	go func() {
		for id := uint32(1); id < 40_000; id += 2 {
			if c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.head("/api"), EndHeaders: true, EndStream: true}) != nil ||
				c.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	_, code, err := c.end()
	if code != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("the connection ended with %v, %v", code, err)
	}
	if most := b.most.Load(); most == 0 || most > maxStreams {
		t.Errorf("%d requests were worked at", most)
	}
	close(b.release)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestStreamsAreCapped: more than so many at once are refused.
func TestStreamsAreCapped(t *testing.T) {
	b := &busy{release: make(chan struct{})}
	w := newWorld(t, func(c *apiserver.Config) { c.Authn = b })
	l, stop := serveTLS(t, w)
	c := dialH2(t, l.Addr().String())
	go func() {
		for id := uint32(1); id <= 2*(maxStreams+20); id += 2 {
			if c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.head("/api"), EndHeaders: true, EndStream: true}) != nil {
				return
			}
		}
	}()
	refused, answered := 0, 0
	for refused == 0 {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			refused++
		case *http2.GoAwayFrame:
			refused++
			if f.ErrCode == http2.ErrCodeNo {
				t.Error("the connection ended of its own")
			}
		case *http2.HeadersFrame:
			answered++
		}
	}
	if answered > 0 || b.most.Load() > maxStreams {
		t.Errorf("%d answered, %d at once", answered, b.most.Load())
	}
	close(b.release)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestContinuationFlood: a header that never ends is not read for ever
// (CVE-2023-45288).
func TestContinuationFlood(t *testing.T) {
	w := newWorld(t)
	l, _ := serveTLS(t, w)
	c := dialH2(t, l.Addr().String())
	ended := make(chan http2.ErrCode, 1)
	go func() {
		_, code, _ := c.end()
		ended <- code
	}()
	c.head("/api")
	for i := range 1000 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: fmt.Sprint("x-", i), Value: strings.Repeat("v", 8), Sensitive: true})
	}
	block := bytes.Clone(c.buf.Bytes())
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:100]})
	sent := 0
	for err == nil && sent < 64<<20 {
		err = c.WriteContinuation(1, false, block[100:min(len(block), 16<<10)])
		sent += len(block)
	}
	if err == nil {
		t.Fatalf("%d bytes of a header were read", sent)
	}
	<-ended
	w.must(t, 200, "GET", "/livez", "")
}

// TestUnsentBody: a request whose body does not come is answered all the same,
// whatever it asks for, and keeps nothing.
func TestUnsentBody(t *testing.T) {
	w := newWorld(t)
	apiserver.SetBodyTimeout(w.server, 200*time.Millisecond)
	for _, path := range []string{"/livez", cmURL, "/apis", "/nope"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.http.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", path)
		if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

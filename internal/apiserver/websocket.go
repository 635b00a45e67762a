package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// WebSocket subprotocols that no runtime speaks: they are translated to SPDY
// here. Older ones pass through.
const (
	channelsV5 = "v5.channel.k8s.io"           // exec and attach: v4, and an end of input
	tunnel     = "SPDY/3.1+portforward.k8s.io" // SPDY within binary messages
)

// The first byte of a message names its channel.
const (
	stdin = iota
	stdout
	stderr
	errorChannel // the command's result, as a Status
	resize
	closing = 255 // says which other channel has ended
)

const (
	wsBuffer  = 32 << 10        // bytes, per direction
	wsGoodbye = 5 * time.Second // to take leave from a client
)

// translated is the subprotocol to translate, and the request to the kubelet
// that does so.
func translated(r *http.Request) (string, *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", r
	}
	want, inner := channelsV5, "v4.channel.k8s.io"
	switch {
	case strings.HasPrefix(r.URL.Path, "/portForward/"):
		want, inner = tunnel, "portforward.k8s.io"
	case !strings.HasPrefix(r.URL.Path, "/exec/") && !strings.HasPrefix(r.URL.Path, "/attach/"):
		return "", r
	}
	if !slices.Contains(websocket.Subprotocols(r), want) {
		return "", r
	}
	out := r.Clone(r.Context())
	for name := range out.Header {
		if strings.HasPrefix(name, "Sec-Websocket-") {
			out.Header.Del(name)
		}
	}
	out.Method = http.MethodPost
	out.Header.Set("Upgrade", spdy.HeaderSpdy31)
	out.Header.Set(httpstream.HeaderProtocolVersion, inner)
	return want, out
}

// translate joins a WebSocket client to a kubelet that has switched to SPDY.
func translate(w *recorder, r *http.Request, protocol string, backend net.Conn) error {
	up := websocket.Upgrader{Subprotocols: []string{protocol}, ReadBufferSize: wsBuffer, WriteBufferSize: wsBuffer,
		CheckOrigin: func(*http.Request) bool { return true }, // a browser's token is the proof, as for every request
		Error:       func(http.ResponseWriter, *http.Request, int, error) {}}
	ws, err := up.Upgrade(w.ResponseWriter, r, nil)
	if err != nil {
		return badRequest("this connection cannot be upgraded: %v", err)
	}
	w.begin(http.StatusSwitchingProtocols)
	client := &messages{Conn: ws}
	defer client.Close()
	defer context.AfterFunc(r.Context(), func() { _ = ws.Close() })()
	if protocol == tunnel {
		join(client, client, backend, backend)
		return nil
	}
	conn, err := spdy.NewClientConnection(backend)
	if err != nil {
		client.status(err)
		return nil
	}
	defer conn.Close()
	if err := channels(client, conn, r.URL.Query()); err != nil {
		client.status(err)
	}
	return nil
}

// channels carries the streams that the query names until the command's verdict
// has come, and all that it wrote.
func channels(client *messages, conn httpstream.Connection, q url.Values) error {
	var open [resize + 1]httpstream.Stream
	tty := q.Get("tty") != ""
	for channel, c := range [len(open)]struct {
		name   string
		wanted bool
	}{
		stdin: {corev1.StreamTypeStdin, q.Get("input") != ""}, stdout: {corev1.StreamTypeStdout, q.Get("output") != ""},
		stderr:       {corev1.StreamTypeStderr, q.Get("error") != "" && !tty}, // a terminal has one output
		errorChannel: {corev1.StreamTypeError, true}, resize: {corev1.StreamTypeResize, tty},
	} {
		if !c.wanted {
			continue
		}
		s, err := conn.CreateStream(http.Header{corev1.StreamType: {c.name}})
		if err != nil {
			return err
		}
		open[channel] = s
	}
	go func() { // ends when either connection does
		_ = client.dispatch(open)
		_ = conn.Close()
	}()
	var g errgroup.Group
	for i, s := range open {
		if s == nil || i == stdin || i == resize {
			continue
		}
		g.Go(func() error {
			n, err := client.send(byte(i), s)
			if i == errorChannel && n == 0 && err == nil {
				return errors.New("the node ended the stream without a result")
			}
			return err
		})
	}
	return g.Wait()
}

// messages is a WebSocket as a stream of bytes, and by channels.
type messages struct {
	*websocket.Conn
	rest io.Reader
	mu   sync.Mutex // one writer at a time
}

func (m *messages) Read(p []byte) (int, error) {
	for {
		if m.rest == nil {
			kind, r, err := m.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, fmt.Errorf("a message of type %d", kind)
			}
			m.rest = r
		}
		n, err := m.rest.Read(p)
		if err == io.EOF {
			m.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (m *messages) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close says goodbye first: a client would take a bare end for a failure.
func (m *messages) Close() error {
	_ = m.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(wsGoodbye))
	return m.Conn.Close()
}

// send passes a stream on until it ends, and tells how many bytes there were.
func (m *messages) send(channel byte, s io.Reader) (int64, error) {
	buf := make([]byte, wsBuffer)
	buf[0] = channel
	var total int64
	for {
		n, err := s.Read(buf[1:])
		total += int64(n)
		if n > 0 {
			if _, err := m.Write(buf[:n+1]); err != nil {
				return total, err
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// dispatch hands what the client sends to the streams, until it leaves. What a
// command no longer reads is lost, as in a pipe; what it wrote is not.
func (m *messages) dispatch(open [resize + 1]httpstream.Stream) error {
	for {
		_, r, err := m.NextReader()
		if err != nil {
			return err
		}
		var head [1]byte
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			continue // an empty message says nothing
		} else if err != nil {
			return err
		}
		channel := head[0]
		if channel == closing {
			if _, err := io.ReadFull(r, head[:]); err != nil || head[0] != stdin || open[stdin] == nil {
				return errors.New("only the input can be ended")
			}
			_ = open[stdin].Close()
			continue
		}
		if channel != stdin && channel != resize || open[channel] == nil {
			return fmt.Errorf("channel %d is not one to write to", channel)
		}
		_, _ = io.Copy(open[channel], r) // the next message tells if it was the client that failed
	}
}

// status is the last word to a client: what kept the command from its own.
func (m *messages) status(err error) {
	if data, merr := json.Marshal(apierrors.NewInternalError(err).Status()); merr == nil {
		_, _ = m.Write(append([]byte{byte(errorChannel)}, data...)) // the client may have left
	}
}

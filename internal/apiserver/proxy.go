package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/security/audit"
)

// hop is where a request goes on to.
type hop struct {
	target    *url.URL
	transport *http.Transport
	kind      backendKind
	identify  func(http.Header) // optional: says to the backend who asks
}

// backendKind is what we may expect of a backend.
type backendKind int

const (
	aPod     backendKind = iota // may send the client on, within itself
	aKubelet                    // tells errors in plain text; never redirects
	anAPI                       // another API server; never redirects
)

// forward hands one request through.
func (s *Server) forward(w *recorder, r *http.Request, h hop) error {
	bodyUntil(w, time.Time{}) // an upload takes as long as it takes
	target := h.target
	out := r.Clone(r.Context())
	dropCredentials(out.Header)
	if h.identify != nil {
		h.identify(out.Header)
	}
	out.URL, out.Host, out.RequestURI = target, target.Host, ""
	if id := w.audit.ID(); id != "" {
		out.Header.Set(audit.Header, id) // the server behind may write down the same request
	}
	if up := r.Header.Get("Upgrade"); strings.EqualFold(up, "spdy/3.1") || strings.EqualFold(up, "websocket") {
		out, end := s.tracing.upgrading(out)
		err := upgrade(w, out, h)
		end(err)
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(pr *httputil.ProxyRequest) { pr.Out.URL, pr.Out.Host = target, target.Host },
		Transport:     s.tracing.outgoing(h.transport),
		FlushInterval: -1, // logs -f are read as they come
		ModifyResponse: func(resp *http.Response) error {
			if w.audit != nil {
				resp.Header.Del(audit.Header) // it is in the answer already
			}
			if h.kind == aKubelet && strings.HasPrefix(target.Path, "/containerLogs/") && resp.StatusCode >= http.StatusBadRequest {
				return logError(resp)
			}
			if resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.Header.Get("Location") != "" {
				return redirected(r.URL, target, resp, h.kind == aPod)
			}
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			var status apierrors.APIStatus
			if !errors.As(err, &status) {
				err = statusError(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "error trying to reach service: %v", err)
			}
			if r.Context().Err() == nil {
				s.fail(w, r, err)
			}
		},
	}
	proxy.ServeHTTP(w, out)
	return nil
}

// bearerProtocol carries a browser's token among a WebSocket's subprotocols.
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

// dropCredentials: what identifies the client to us is no business of what
// stands behind.
func dropCredentials(h http.Header) {
	for name := range h {
		if name == "Authorization" || name == "Proxy-Authorization" || name == "Cookie" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			h.Del(name)
		}
	}
	var protocols []string
	for _, line := range h.Values("Sec-Websocket-Protocol") {
		for one := range strings.SplitSeq(line, ",") {
			if one = strings.TrimSpace(one); !strings.HasPrefix(one, bearerProtocol) {
				protocols = append(protocols, one)
			}
		}
	}
	if len(protocols) > 0 {
		h.Set("Sec-Websocket-Protocol", strings.Join(protocols, ", "))
	}
}

// redirected decides on an answer that sends the client elsewhere; we never
// follow one ourselves. A kubelet or an API server has no reason to
// (CVE-2020-8559, CVE-2022-3172), and a pod may send the client on only within
// itself.
func redirected(asked, target *url.URL, resp *http.Response, within bool) error {
	to, err := target.Parse(resp.Header.Get("Location"))
	if err != nil || !within || to.Host != target.Host {
		_ = resp.Body.Close()
		return statusError(http.StatusBadGateway, metav1.StatusReasonInternalError, "the backend attempted to redirect this request, which is not permitted")
	}
	base, _, _ := strings.Cut(asked.EscapedPath(), "/proxy/")
	here := &url.URL{RawQuery: to.RawQuery, Fragment: to.Fragment}
	here = here.JoinPath(base, "proxy", to.EscapedPath())
	here.Path = "/" + strings.TrimPrefix(here.Path, "/")
	resp.Header.Set("Location", here.String())
	return nil
}

// foreign is what a backend said: it is for the client, and no business of the
// log.
type foreign struct{ *apierrors.StatusError }

// logError turns a kubelet's refusal, which is plain text, into a Status.
func logError(resp *http.Response) error {
	const longest = 2048 // bytes of text that are passed on
	text, _ := io.ReadAll(io.LimitReader(resp.Body, longest))
	_ = resp.Body.Close()
	message := strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
	switch resp.StatusCode {
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(message)
	case http.StatusInternalServerError:
		return foreign{apierrors.NewInternalError(errors.New(message))}
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, http.MethodGet, schema.GroupResource{Resource: "pods/log"}, "", message, 0, true)
}

// upgrade opens a connection of its own, and joins the two only if the backend
// agreed to switch; otherwise its answer is passed on and the connection is
// closed, never used again (CVE-2018-1002105).
func upgrade(w *recorder, r *http.Request, h hop) error {
	if r.ProtoMajor != 1 {
		return badRequest("this connection cannot be upgraded: use HTTP/1.1")
	}
	unavailable := func(err error) error {
		return statusError(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "error dialing backend: %v", err)
	}
	protocol, out := "", r
	if h.kind == aKubelet {
		protocol, out = translated(r)
	}
	conn, err := dialBackend(r.Context(), h.target, h.transport)
	if err != nil {
		return unavailable(err)
	}
	defer conn.Close()
	// A hijacked connection is none of the HTTP server's any more: it ends here
	// when the server does.
	defer context.AfterFunc(r.Context(), func() { _ = conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(upgradeTimeout)); err != nil {
		return unavailable(err)
	}
	if err := out.Write(conn); err != nil {
		return unavailable(err)
	}
	backend := readAhead{Conn: conn, r: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(backend.r, out)
	if err != nil {
		return unavailable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return refused(w, resp)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return unavailable(err)
	}
	if protocol != "" {
		return translate(w, r, protocol, backend)
	}
	client, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return badRequest("this connection cannot be upgraded: %v", err)
	}
	defer client.Close()
	defer context.AfterFunc(r.Context(), func() { _ = client.Close() })()
	w.begin(http.StatusSwitchingProtocols)
	_ = client.SetDeadline(time.Time{}) // if it fails, so does what follows
	if err := resp.Write(client); err != nil {
		return nil // the client is gone
	}
	join(client, rw.Reader, backend, backend)
	return nil
}

// readAhead is a connection of which some bytes have been read already.
type readAhead struct {
	net.Conn
	r *bufio.Reader
}

func (c readAhead) Read(p []byte) (int, error) { return c.r.Read(p) }

// upgradeTimeout bounds how long a backend may take to switch protocols.
const upgradeTimeout = 30 * time.Second

// refused passes on why a backend did not switch protocols.
func refused(w *recorder, resp *http.Response) error {
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return statusError(http.StatusBadGateway, metav1.StatusReasonInternalError, "the backend attempted to redirect this request, which is not permitted")
	}
	const longest = 64 << 10 // bytes of text that are passed on
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(resp.Body, longest))
	return nil
}

// join copies both ways until either side ends.
func join(client io.WriteCloser, fromClient io.Reader, backend io.WriteCloser, fromBackend io.Reader) {
	done := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(backend, fromClient)
		done <- struct{}{}
	}()
	go func() {
		_, _ = io.Copy(client, fromBackend)
		done <- struct{}{}
	}()
	<-done
	_ = client.Close()
	_ = backend.Close()
	<-done
}

func dialBackend(ctx context.Context, target *url.URL, t *http.Transport) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if target.Scheme == "http" {
		return t.DialContext(ctx, "tcp", target.Host)
	}
	conf := t.TLSClientConfig.Clone()
	conf.NextProtos = []string{"http/1.1"}
	return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", target.Host)
}

package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/kinds"
)

const dialTimeout = 10 * time.Second

// kubeletProxy answers the connecting subresources: it finds the node, builds
// the kubelet's URL and hands the connection through.
type kubeletProxy struct {
	s         *Server
	transport *http.Transport
}

func newKubeletProxy(s *Server) *kubeletProxy {
	p := &kubeletProxy{s: s}
	if s.cfg.KubeletTLS != nil {
		p.transport = &http.Transport{TLSClientConfig: s.cfg.KubeletTLS, TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: time.Minute,
			DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, DisableCompression: true}
	}
	return p
}

// serve routes one request.
func (p *kubeletProxy) serve(w *recorder, r *http.Request, in *info, k *kinds.Kind, u user.Info) error {
	if p.transport == nil {
		return pathNotFound()
	}
	ref := in.ref(k)
	req := &admission.Request{User: u, Operation: admission.Connect, Ref: ref}
	if err := p.s.validate(r.Context(), req); err != nil {
		return err
	}
	switch k {
	case kinds.Pod:
		return p.pod(w, r, in, ref)
	case kinds.Node:
		target, err := p.node(r.Context(), in.name)
		if err != nil {
			return err
		}
		target.Path, target.RawQuery = "/"+in.rest, r.URL.RawQuery
		return p.forward(w, r, target, p.transport)
	case kinds.Service:
		return p.service(w, r, in)
	}
	return pathNotFound()
}

func (p *kubeletProxy) pod(w *recorder, r *http.Request, in *info, ref kinds.Ref) error {
	name, port := in.name, ""
	if in.sub == "proxy" {
		_, name, port = splitName(in.name)
	}
	cur, err := p.s.lookup(r.Context(), kinds.Ref{Kind: kinds.Pod, Namespace: in.ns, Name: name}, false)
	if err != nil {
		return err
	}
	pod, ok := cur.obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("stored pod is a %T", cur.obj)
	}
	if in.sub == "proxy" {
		return p.podProxy(w, r, in, pod, port)
	}
	if pod.Spec.NodeName == "" {
		return badRequest("pod %s does not have a host assigned", pod.Name)
	}
	q := r.URL.Query()
	path := "/" + map[string]string{"log": "containerLogs", "exec": "exec", "attach": "attach", "portforward": "portForward"}[in.sub] + "/" + pod.Namespace + "/" + pod.Name
	if in.sub != "portforward" {
		c, err := containerOf(pod, q.Get("container"), in.sub)
		if err != nil {
			return err
		}
		path += "/" + c
	}
	q.Del("container")
	if in.sub == "exec" || in.sub == "attach" {
		renameStreams(q)
	}
	target, err := p.node(r.Context(), pod.Spec.NodeName)
	if err != nil {
		return err
	}
	target.Path, target.RawQuery = path, q.Encode()
	return p.forward(w, r, target, p.transport)
}

// renameStreams gives the streams of exec and attach the names that kubelets
// know: input, output, error, tty.
func renameStreams(q url.Values) {
	for from, to := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
		v := truth(q, from)
		q.Del(from)
		if v {
			q.Set(to, "1")
		}
	}
}

// containerOf is the named container, or the only one.
func containerOf(pod *corev1.Pod, name, sub string) (string, error) {
	var names, inits []string
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		inits = append(inits, c.Name)
	}
	all := append(append([]string{}, names...), inits...)
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	if name == "" {
		if d := pod.Annotations["kubectl.kubernetes.io/default-container"]; d != "" {
			name = d
		} else if len(names) == 1 {
			return names[0], nil
		} else {
			msg := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(names, " "))
			if len(inits) > 0 {
				msg += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(inits, " "))
			}
			return "", badRequest("%s", msg)
		}
	}
	for _, c := range all {
		if c == name {
			return name, nil
		}
	}
	return "", badRequest("container %s is not valid for pod %s", name, pod.Name)
}

// node is the base URL of a kubelet, from the addresses that the node itself
// reported. Addresses that could lead elsewhere are refused (CVE-2022-3294).
func (p *kubeletProxy) node(ctx context.Context, name string) (*url.URL, error) {
	_, name, _ = splitName(name)
	cur, err := p.s.lookup(ctx, kinds.Ref{Kind: kinds.Node, Name: name}, false)
	if err != nil {
		return nil, err
	}
	node, ok := cur.obj.(*corev1.Node)
	if !ok {
		return nil, fmt.Errorf("stored node is a %T", cur.obj)
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		ip, err := netip.ParseAddr(a.Address)
		if err != nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
			return nil, badRequest("address not allowed")
		}
		if port == 0 {
			break
		}
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(ip.String(), strconv.Itoa(int(port)))}, nil
	}
	return nil, statusError(http.StatusServiceUnavailable, "ServiceUnavailable", "node %s has not reported an address yet", name)
}

// splitName reads [scheme:]name[:port].
func splitName(s string) (scheme, name, port string) {
	parts := strings.SplitN(s, ":", 3)
	switch len(parts) {
	case 1:
		return "", parts[0], ""
	case 2:
		return "", parts[0], parts[1]
	default:
		return parts[0], parts[1], parts[2]
	}
}

// plain reaches pods and services over HTTP, or HTTPS without verification as
// upstream: the client named the port, there is no identity to check.
func plain() *http.Transport {
	return &http.Transport{DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, DisableKeepAlives: true, DisableCompression: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}

func (p *kubeletProxy) podProxy(w *recorder, r *http.Request, in *info, pod *corev1.Pod, port string) error {
	scheme, _, _ := splitName(in.name)
	if pod.Status.PodIP == "" {
		return badRequest("pod %s has no address yet", pod.Name)
	}
	number := port
	if number == "" {
		for _, c := range pod.Spec.Containers {
			if len(c.Ports) > 0 && number == "" {
				number = strconv.Itoa(int(c.Ports[0].ContainerPort))
			}
		}
	} else {
		for _, c := range pod.Spec.Containers {
			for _, cp := range c.Ports {
				if cp.Name == port {
					number = strconv.Itoa(int(cp.ContainerPort))
				}
			}
		}
	}
	return p.address(w, r, in, scheme, pod.Status.PodIP, number)
}

// address forwards to a pod's address, which must be one that a pod can have.
func (p *kubeletProxy) address(w *recorder, r *http.Request, in *info, scheme, ip, port string) error {
	a, err := netip.ParseAddr(ip)
	if err != nil || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return badRequest("address not allowed")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return badRequest("invalid port %q", port)
	}
	if scheme == "" {
		scheme = "http"
	}
	if scheme != "http" && scheme != "https" {
		return badRequest("invalid scheme %q", scheme)
	}
	target := &url.URL{Scheme: scheme, Host: net.JoinHostPort(ip, port), Path: "/" + in.rest, RawQuery: r.URL.RawQuery}
	return p.forward(w, r, target, plain())
}

func (p *kubeletProxy) service(w *recorder, r *http.Request, in *info) error {
	scheme, name, port := splitName(in.name)
	cur, err := p.s.lookup(r.Context(), kinds.Ref{Kind: kinds.Service, Namespace: in.ns, Name: name}, false)
	if err != nil {
		return err
	}
	svc, ok := cur.obj.(*corev1.Service)
	if !ok {
		return fmt.Errorf("stored service is a %T", cur.obj)
	}
	for _, sp := range svc.Spec.Ports {
		if port != "" && sp.Name != port && strconv.Itoa(int(sp.Port)) != port {
			continue
		}
		return p.servicePort(w, r, in, scheme, svc, sp)
	}
	return statusError(http.StatusServiceUnavailable, "ServiceUnavailable", "no service port %q found for service %q", port, name)
}

func (p *kubeletProxy) servicePort(w *recorder, r *http.Request, in *info, scheme string, svc *corev1.Service, sp corev1.ServicePort) error {
	cur, err := p.s.lookup(r.Context(), kinds.Ref{Kind: kinds.Endpoints, Namespace: svc.Namespace, Name: svc.Name}, false)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if ep, ok := cur.obj.(*corev1.Endpoints); ok {
		for _, ss := range ep.Subsets {
			for _, port := range ss.Ports {
				if port.Name == sp.Name && len(ss.Addresses) > 0 {
					a := ss.Addresses[int(p.s.now().UnixNano()/1000)%len(ss.Addresses)]
					return p.address(w, r, in, scheme, a.IP, strconv.Itoa(int(port.Port)))
				}
			}
		}
	}
	return statusError(http.StatusServiceUnavailable, "ServiceUnavailable", "no endpoints available for service %q", svc.Name)
}

// forward hands one request through. Credentials of the client never travel on.
func (p *kubeletProxy) forward(w *recorder, r *http.Request, target *url.URL, t *http.Transport) error {
	out := r.Clone(r.Context())
	for h := range out.Header {
		if h == "Authorization" || h == "Cookie" || strings.HasPrefix(h, "Impersonate-") {
			out.Header.Del(h)
		}
	}
	out.URL, out.Host, out.RequestURI = target, target.Host, ""
	if strings.EqualFold(r.Header.Get("Upgrade"), "spdy/3.1") || strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return p.upgrade(w, out, target, t)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(pr *httputil.ProxyRequest) { pr.Out.URL, pr.Out.Host = target, target.Host },
		Transport:     noRedirect{t},
		FlushInterval: -1, // logs -f are read as they come
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, err error) {
			if r.Context().Err() == nil {
				p.s.fail(w, r, statusError(http.StatusServiceUnavailable, "ServiceUnavailable", "error trying to reach service: %v", err))
			}
		},
	}
	proxy.ServeHTTP(w, out)
	return nil
}

// noRedirect refuses backends that want to send the client, or us, elsewhere
// (CVE-2020-8559, CVE-2022-3172).
type noRedirect struct{ t *http.Transport }

func (n noRedirect) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := n.t.RoundTrip(r)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.Header.Get("Location") != "" {
		_ = resp.Body.Close()
		return nil, errors.New("the backend attempted to redirect this request, which is not permitted")
	}
	return resp, err
}

// upgrade opens a connection of its own, and joins the two only if the backend
// agreed to switch; otherwise its answer is passed on and the connection is
// closed, never used again (CVE-2018-1002105).
func (p *kubeletProxy) upgrade(w *recorder, r *http.Request, target *url.URL, t *http.Transport) error {
	conn, err := dialBackend(r.Context(), target, t)
	if err != nil {
		return statusError(http.StatusServiceUnavailable, "ServiceUnavailable", "error dialing backend: %v", err)
	}
	defer conn.Close()
	if err := r.Write(conn); err != nil {
		return statusError(http.StatusServiceUnavailable, "ServiceUnavailable", "error dialing backend: %v", err)
	}
	buffered := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffered, r)
	if err != nil {
		return statusError(http.StatusServiceUnavailable, "ServiceUnavailable", "error reading the backend's answer: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		if resp.StatusCode >= 300 && resp.StatusCode < 400 {
			return statusError(http.StatusBadGateway, "InternalError", "the backend attempted to redirect this request, which is not permitted")
		}
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, io.LimitReader(resp.Body, 1<<20))
		return nil
	}
	client, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return badRequest("this connection cannot be upgraded: use HTTP/1.1")
	}
	defer client.Close()
	_ = client.SetDeadline(time.Time{})
	w.code, w.wrote = http.StatusSwitchingProtocols, true
	if err := resp.Write(client); err != nil {
		return nil // the client is gone
	}
	join(client, rw.Reader, conn, buffered)
	return nil
}

// join copies both ways until either side ends.
func join(client net.Conn, fromClient io.Reader, backend net.Conn, fromBackend io.Reader) {
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

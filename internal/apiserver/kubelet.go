package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
)

const dialTimeout = 10 * time.Second

// kubeletProxy answers the connecting subresources: it finds the node, builds
// the kubelet's URL and hands the connection through.
type kubeletProxy struct {
	s         *Server
	transport *http.Transport // to kubelets; nil: there is none
	// plain reaches pods and services over HTTP, or HTTPS without verification
	// as upstream: the client named the port, there is no identity to check.
	plain   *http.Transport
	allowed func(netip.Addr) bool // addresses of pods
}

func newKubeletProxy(s *Server) *kubeletProxy {
	dialer := &net.Dialer{Timeout: dialTimeout}
	p := &kubeletProxy{s: s, allowed: reachable, plain: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true,
		TLSHandshakeTimeout: dialTimeout, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if s.cfg.KubeletTLS != nil {
		p.transport = &http.Transport{TLSClientConfig: s.cfg.KubeletTLS, TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: time.Minute,
			DialContext: dialer.DialContext, DisableCompression: true}
	}
	return p
}

// serve routes one request.
func (p *kubeletProxy) serve(w *recorder, r *http.Request, in *info, k *kinds.Kind, u user.Info) error {
	if p.transport == nil {
		return errNoNodes()
	}
	if in.verb == "get" && (in.sub == "exec" || in.sub == "attach" || in.sub == "portforward") {
		// A WebSocket begins with a GET: whoever may only read must not get in by it.
		a := in.attributes(u)
		a.Verb = "create"
		if err := p.s.authorize(r.Context(), in, a); err != nil {
			return err
		}
	}
	// The object may have been made or changed a moment ago.
	if err := p.s.fresh(r.Context(), "", ""); err != nil {
		return err
	}
	ref := in.ref(k)
	if err := p.admit(w, r, in, ref, u); err != nil {
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
		return p.behind(w, r, in, hop{target: target, transport: p.transport, kind: aKubelet})
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
	if in.sub == "log" {
		if err := checkLogOptions(pod.Name, q); err != nil {
			return err
		}
	}
	target, err := p.node(r.Context(), pod.Spec.NodeName)
	if err != nil {
		return err
	}
	target.Path, target.RawQuery = path, q.Encode()
	return p.s.forward(w, r, hop{target: target, transport: p.transport, kind: aKubelet})
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

// checkLogOptions refuses what a kubelet would not take, in the API's words.
func checkLogOptions(pod string, q url.Values) error {
	var errs field.ErrorList
	both := q.Get("sinceSeconds") != "" && q.Get("sinceTime") != ""
	for _, o := range []struct {
		name  string
		least int64
		why   string
	}{
		{"tailLines", 0, "must be greater than or equal to 0"}, {"limitBytes", 1, "must be greater than 0"}, {"sinceSeconds", 1, "must be greater than 0"},
	} {
		v := q.Get(o.name)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return badRequest("%s: Invalid value: %q: %v", o.name, v, err)
		}
		if n < o.least && !(both && o.name == "sinceSeconds") {
			errs = append(errs, field.Invalid(field.NewPath(o.name), n, o.why))
		}
	}
	if both {
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	}
	if q.Has("stream") {
		errs = append(errs, field.Forbidden(field.NewPath("stream"), "may not be specified"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, pod, errs)
	}
	if truth(q, "insecureSkipTLSVerifyBackend") {
		return badRequest("insecureSkipTLSVerifyBackend is not supported: nodes are always verified")
	}
	return nil
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
// reported; a client may name no other. Addresses that lead elsewhere than to a
// node are refused (CVE-2022-3294).
func (p *kubeletProxy) node(ctx context.Context, asked string) (*url.URL, error) {
	scheme, name, askedPort := splitName(asked)
	cur, err := p.s.lookup(ctx, kinds.Ref{Kind: kinds.Node, Name: name}, false)
	if err != nil {
		return nil, err
	}
	node, ok := cur.obj.(*corev1.Node)
	if !ok {
		return nil, fmt.Errorf("stored node is a %T", cur.obj)
	}
	port := strconv.Itoa(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port))
	if askedPort != "" && askedPort != port || scheme != "" && scheme != "https" {
		return nil, badRequest("only the kubelet of a node can be reached, by https")
	}
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP || port == "0" {
			continue
		}
		ip, err := netip.ParseAddr(a.Address)
		if err != nil || !reachable(ip) && !(ip.IsLoopback() && name == p.s.cfg.LocalNode) {
			return nil, badRequest("address not allowed")
		}
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(ip.Unmap().String(), port)}, nil
	}
	return nil, statusError(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "node %s has not reported an address yet", name)
}

// Scrape opens what a node's kubelet tells of the use of resources. It ends with
// ctx.
func (s *Server) Scrape(ctx context.Context, node string) (io.ReadCloser, error) {
	if s.kubelet.transport == nil {
		return nil, errNoNodes()
	}
	target, err := s.kubelet.node(ctx, node)
	if err != nil {
		return nil, err
	}
	target.Path = "/metrics/resource"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.kubelet.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the kubelet answers %s", resp.Status)
	}
	return resp.Body, nil
}

func errNoNodes() error {
	return statusError(http.StatusNotImplemented, metav1.StatusReasonInternalError, "this server has no way to reach nodes")
}

// reachable: an address that a node or a pod can have. Others lead to this
// machine itself, or to a cloud's metadata service.
func reachable(ip netip.Addr) bool {
	ip = ip.Unmap()
	return !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() && !ip.IsUnspecified() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
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

func (p *kubeletProxy) podProxy(w *recorder, r *http.Request, in *info, pod *corev1.Pod, port string) error {
	scheme, _, _ := splitName(in.name)
	if pod.Status.PodIP == "" {
		return badRequest("pod %s has no address yet", pod.Name)
	}
	return p.address(w, r, in, scheme, pod.Status.PodIP, podPort(pod, scheme, port))
}

// podPort is the number of a pod's port that a URL names: without a name the
// first that it has, and if it has none that of the scheme.
func podPort(pod *corev1.Pod, scheme, port string) string {
	for _, c := range pod.Spec.Containers {
		for _, cp := range c.Ports {
			if port == "" || cp.Name == port {
				return strconv.Itoa(int(cp.ContainerPort))
			}
		}
	}
	switch {
	case port != "":
		return port
	case scheme == "https":
		return "443"
	}
	return "80"
}

// address forwards to a pod's address, which must be one that a pod can have.
func (p *kubeletProxy) address(w *recorder, r *http.Request, in *info, scheme, ip, port string) error {
	a, err := netip.ParseAddr(ip)
	if err != nil || !p.allowed(a) {
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
	return p.behind(w, r, in, hop{target: &url.URL{Scheme: scheme, Host: net.JoinHostPort(a.Unmap().String(), port)}, transport: p.plain})
}

// behind hands on what stands behind "proxy" in the URL.
func (p *kubeletProxy) behind(w *recorder, r *http.Request, in *info, h hop) error {
	if strings.HasSuffix(r.URL.Path, "/proxy") && in.verb == "get" {
		// As upstream: without the slash, links of the page would lead elsewhere.
		to := url.URL{Path: r.URL.Path + "/", RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, to.String(), http.StatusMovedPermanently)
		return nil
	}
	path, err := url.PathUnescape(in.rest)
	if err != nil {
		return badRequest("%v", err)
	}
	h.target.Path, h.target.RawPath, h.target.RawQuery = "/"+path, "/"+in.rest, r.URL.RawQuery
	return p.s.forward(w, r, h)
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
	return statusError(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "no service port %q found for service %q", port, name)
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
	return statusError(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "no endpoints available for service %q", svc.Name)
}

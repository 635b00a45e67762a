package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kubelet/plan"
)

// maxBody of an answer that is read, and shown in an event.
const maxBody = 10 << 10

// once asks one time. An error of the machinery is no outcome.
func (p *Prober) once(ctx context.Context, t Target) (plan.Outcome, string) {
	timeout := max(time.Second, time.Duration(t.Probe.TimeoutSeconds)*time.Second)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	h := t.Probe.ProbeHandler
	switch {
	case h.Exec != nil:
		out, ok, err := p.cfg.Exec(ctx, t.ID, h.Exec.Command, timeout)
		if status.Code(err) == codes.Unavailable {
			// The runtime is away: that says nothing about the container.
			return plan.NoOutcome, err.Error()
		}
		if err != nil {
			return plan.Failure, err.Error()
		}
		return outcome(ok), cut(out)
	case h.HTTPGet != nil:
		err := HTTP(ctx, t.Spec, t.IP, h.HTTPGet)
		return result(err)
	case h.TCPSocket != nil:
		return result(tcp(ctx, t, h.TCPSocket))
	case h.GRPC != nil:
		return result(askGRPC(ctx, t, h.GRPC, timeout))
	}
	return plan.Failure, "the probe has no handler"
}

func outcome(ok bool) plan.Outcome {
	if ok {
		return plan.Success
	}
	return plan.Failure
}

func result(err error) (plan.Outcome, string) {
	if err != nil {
		return plan.Failure, err.Error()
	}
	return plan.Success, ""
}

func cut(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxBody)], "\uFFFD") }

// Port of a container by number or name.
func Port(c *corev1.Container, p intstr.IntOrString) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		found := false
		for _, cp := range c.Ports {
			if cp.Name == p.StrVal {
				n, found = int(cp.ContainerPort), true
			}
		}
		if !found {
			var err error
			if n, err = strconv.Atoi(p.StrVal); err != nil {
				return 0, fmt.Errorf("container has no port named %q", p.StrVal)
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return n, nil
}

// HTTP asks a container; any status from 200 to 399 is a success. Certificates
// are not verified: the probe asks whether somebody answers. Redirects to
// other hosts are not followed and count as success, as upstream does.
func HTTP(ctx context.Context, c *corev1.Container, ip string, g *corev1.HTTPGetAction) error {
	port, err := Port(c, g.Port)
	if err != nil {
		return err
	}
	host := g.Host
	if host == "" {
		host = ip
	}
	u, err := url.Parse(g.Path)
	if err != nil {
		u = &url.URL{Path: g.Path}
	}
	u.Scheme, u.Host = strings.ToLower(string(g.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	for _, h := range g.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	if _, own := req.Header["User-Agent"]; !own {
		req.Header.Set("User-Agent", "kube-probe/1.37")
	}
	if own, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if own[0] == "" { // said to be sent not at all
		req.Header.Del("Accept")
	}
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	defer transport.CloseIdleConnections()
	cl := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := cl.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 200 && res.StatusCode < 400 {
		return nil
	}
	if _, err := io.CopyN(io.Discard, res.Body, maxBody); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("HTTP probe failed with statuscode: %d", res.StatusCode)
}

func tcp(ctx context.Context, t Target, a *corev1.TCPSocketAction) error {
	port, err := Port(t.Spec, a.Port)
	if err != nil {
		return err
	}
	host := a.Host
	if host == "" {
		host = t.IP
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

func askGRPC(ctx context.Context, t Target, a *corev1.GRPCAction, timeout time.Duration) error {
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	at := net.JoinHostPort(t.IP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+at, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"))
	if err != nil {
		return err
	}
	defer conn.Close()
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return errors.New("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)")
		case codes.DeadlineExceeded:
			return fmt.Errorf("timeout: failed to connect service %q within %v: context deadline exceeded", at, timeout)
		}
		return fmt.Errorf("error: health rpc probe failed: %w", err)
	}
	if res.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", res.Status)
	}
	return nil
}

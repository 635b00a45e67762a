package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/bootstrap"
	"knarr.dev/knarr/internal/security/pki"
	"knarr.dev/knarr/internal/view"
	viewremote "knarr.dev/knarr/internal/view/remote"
)

// joinTimeout bounds how long an agent tries to join before it gives up with
// the last reason.
const joinTimeout = 2 * time.Minute

// runAgent joins a server and runs the node with a view that it feeds.
func runAgent(ctx context.Context, c *Config, ready func()) error {
	ca, err := trust(ctx, c)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	certs, err := bootstrap.New(bootstrap.Config{Dir: c.Dir("agent", "pki"), NodeName: c.NodeName, IPs: []net.IP{net.ParseIP(c.NodeIP)}, Log: c.Log, Now: time.Now})
	if err != nil {
		return err
	}
	requests := remote.NewRequests()
	api, err := remote.New(remote.Config{Server: c.JoinServer, UserAgent: "kubelet", Requests: requests,
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, GetClientCertificate: certs.GetClientCertificate}})
	if err != nil {
		return err
	}
	c.Progress("joining " + c.JoinServer)
	if err := join(ctx, c, roots, certs, api); err != nil {
		return err
	}
	if err := pki.WriteFile(caFile(c), ca); err != nil {
		return err
	}
	if err := begin(c); err != nil {
		return err
	}
	if err := learnNetworks(ctx, api, c); err != nil {
		return err
	}
	v := view.New([]*kinds.Kind{kinds.Pod, kinds.Node, kinds.Service, kinds.EndpointSlice, kinds.Namespace,
		kinds.ServiceCIDR, kinds.ClusterTrustBundle, kinds.PodCertificateRequest}, view.PodsByNode, view.SlicesByService)
	feed, err := viewremote.New(viewremote.Config{Client: api, View: v, Log: c.Log, Sources: []viewremote.Source{
		{Kind: kinds.Pod, FieldSelector: "spec.nodeName=" + c.NodeName},
		{Kind: kinds.Node}, {Kind: kinds.Service}, {Kind: kinds.EndpointSlice}, {Kind: kinds.Namespace},
		{Kind: kinds.ServiceCIDR}, {Kind: kinds.ClusterTrustBundle}, {Kind: kinds.PodCertificateRequest, FieldSelector: "spec.nodeName=" + c.NodeName},
	}})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	objects := viewremote.NewObjects(ctx, api, c.Log)
	g.Go(func() error { return feed.Run(ctx) })
	g.Go(func() error { return certs.Run(ctx, api) })
	g.Go(func() error {
		if err := v.WaitSynced(ctx); err != nil {
			return nil // ctx has ended
		}
		n := &node{cfg: c, log: c.Log, client: api, view: v, objects: objects, cert: certs.GetCertificate, clients: roots, metrics: agentMetrics(requests, certs)}
		return n.run(ctx, ready)
	})
	err = g.Wait()
	objects.Wait()
	return err
}

// agentMetrics are those of a node that talks to its server over the network.
func agentMetrics(requests *remote.Requests, certs *bootstrap.Store) *prometheus.Registry {
	r := prometheus.NewRegistry()
	left := func() float64 {
		c, err := certs.GetClientCertificate(nil)
		if err != nil || c.Leaf == nil {
			return math.Inf(1) // as upstream, of a node without one
		}
		return time.Until(c.Leaf.NotAfter).Seconds()
	}
	r.MustRegister(requests, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubelet_certificate_manager_client_ttl_seconds",
		Help: "Time that the certificate of this node's client has left."}, left))
	return r
}

func caFile(c *Config) string { return c.Dir("agent", "pki", "ca.crt") }

// trust returns the cluster's CA: the one that this machine joined, or at the
// first time what the server shows, if it is the one that the token names.
func trust(ctx context.Context, c *Config) ([]byte, error) {
	var token pki.JoinToken
	if c.JoinToken != "" {
		var err error
		if token, err = pki.ParseJoinToken(c.JoinToken); err != nil {
			return nil, err
		}
	}
	if ca, err := os.ReadFile(caFile(c)); err == nil {
		if c.JoinToken != "" && token.VerifyCA(ca) != nil {
			return nil, errors.New("this machine has joined another cluster than the token is for: `knarr uninstall` here first, or choose another place with --data-dir")
		}
		return ca, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if c.JoinToken == "" {
		return nil, errNoToken
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	ca, err := fetchCA(ctx, c.JoinServer)
	if err != nil {
		return nil, joinError(c, err)
	}
	return ca, token.VerifyCA(ca)
}

// fetchCA asks without trusting: the answer is only believed if the token's
// hash fits.
func fetchCA(ctx context.Context, server string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/cacerts", nil)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", server, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 64<<10))
}

// join obtains the node's certificates, with the token if there are none yet.
func join(ctx context.Context, c *Config, roots *x509.CertPool, certs *bootstrap.Store, api *remote.Client) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	first := api
	if c.JoinToken != "" {
		token, err := pki.ParseJoinToken(c.JoinToken)
		if err != nil {
			return err
		}
		first, err = remote.New(remote.Config{Server: c.JoinServer, UserAgent: "knarr-agent", Token: func() (string, error) { return token.Bearer(), nil },
			TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}})
		if err != nil {
			return err
		}
	}
	if err := certs.ClientCertificate(ctx, first); err != nil {
		return joinError(c, err)
	}
	return nil
}

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/apiserver/aggregate"
	"knarr.dev/knarr/internal/apiserver/discovery"
	"knarr.dev/knarr/internal/apiserver/openapi"
	"knarr.dev/knarr/internal/apiserver/ownership"
	"knarr.dev/knarr/internal/apiserver/usage"
	"knarr.dev/knarr/internal/auth/authn"
	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/auth/bootstrap"
	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/controller/garbagecollector"
	"knarr.dev/knarr/internal/custom"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/scheduler"
	"knarr.dev/knarr/internal/security/audit"
	"knarr.dev/knarr/internal/security/pki"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/store/etcd"
	"knarr.dev/knarr/internal/store/transform"
	"knarr.dev/knarr/internal/tracing"
	"knarr.dev/knarr/internal/version"
	"knarr.dev/knarr/internal/view"
	"knarr.dev/knarr/internal/webhook"
)

// kubeletClient is who the apiserver is to kubelets.
const kubeletClient = "kube-apiserver-kubelet-client"

// frontProxyClient is who the apiserver is to other API servers.
const frontProxyClient = "front-proxy-client"

// control is the control plane: everything a server runs besides the node.
type control struct {
	cfg       *Config
	log       *slog.Logger
	table     *kinds.Table
	authority *pki.Authority
	front     *pki.Authority // of the certificate by which other API servers know us
	aggregate *aggregate.Aggregator
	custom    *custom.Registrar
	etcd      *etcd.Store
	share     *share      // what several servers have in common; nil: this is the only one
	store     store.Store // etcd, with Secrets encrypted on their way
	cache     *cache.Cache
	metrics   *prometheus.Registry // of the whole control plane
	// encryption is what --encryption-provider-config orders; may be nil.
	encryption *transform.Configuration
	rotator    *transform.Rotator
	view       *view.View
	authz      *authz.Authorizer
	access     access
	docs       *openapi.Handler
	audit      *audit.Auditor    // nil: nothing is written down
	spans      *tracing.Provider // nil: there are none
	api        *apiserver.Server
	usage      *usage.Sampler
	seen       seenServers // of several
	// loops declares the controllers anew: some remember things, which must not
	// outlive a term.
	loops    func() ([]reconcile.Controller, error)
	listener net.Listener
}

// newControl opens what has to be open before anything runs: keys, the port,
// the store.
func newControl(ctx context.Context, c *Config) (_ *control, err error) {
	s := &control{cfg: c, log: c.Log, table: kinds.Builtin(), metrics: prometheus.NewRegistry()}
	defer func() {
		if err == nil {
			return
		}
		if s.etcd != nil {
			err = errors.Join(err, s.etcd.Close())
		}
		if s.listener != nil {
			err = errors.Join(err, s.listener.Close())
		}
	}()
	if c.plane != nil {
		s.listener = c.plane.listener
	}
	if c.Etcd.external() { // which has the keys too
		if err := s.openExternal(ctx); err != nil {
			return nil, err
		}
	}
	if s.authority, err = pki.OpenAuthority(c.Dir("server", "pki"), "ca", authorities()["ca"], time.Now()); err != nil {
		return nil, err
	}
	if s.front, err = pki.OpenAuthority(c.Dir("server", "pki"), "front-proxy-ca", authorities()["front-proxy-ca"], time.Now()); err != nil {
		return nil, err
	}
	if s.listener == nil {
		if s.listener, err = net.Listen("tcp", fmt.Sprintf(":%d", c.APIPort)); err != nil {
			s.listener = nil
			return nil, fmt.Errorf("cannot listen on the API port: %w", err)
		}
	}
	if s.etcd == nil {
		c.Progress("starting etcd")
		if s.etcd, err = s.openStore(ctx); err != nil {
			return nil, err
		}
	}
	return s, s.wire(ctx)
}

// openStore starts or dials etcd.
func (s *control) openStore(ctx context.Context) (*etcd.Store, error) {
	conf, err := s.cfg.etcdStore()
	if err != nil {
		return nil, err
	}
	return etcd.Open(ctx, conf)
}

// openExternal connects to the etcd of several servers and becomes one of them.
func (s *control) openExternal(ctx context.Context) (err error) {
	s.cfg.Progress("connecting to etcd")
	if s.etcd, err = s.openStore(ctx); err != nil {
		return err
	}
	if s.share, err = openShared(ctx, s.cfg, s.etcd); err != nil || s.cfg.plane != nil {
		return err
	}
	return writeInstance(s.cfg, version.GitVersion) // with the cluster's networks
}

// wire builds the components; nothing runs yet.
func (s *control) wire(ctx context.Context) (err error) {
	if s.store, err = s.encrypted(ctx); err != nil {
		return err
	}
	if err := s.wireTracing(); err != nil {
		return err
	}
	if err := s.wireAudit(); err != nil {
		return err
	}
	seen := garbagecollector.Kinds(s.table) // all that components look at: everything but events
	s.view = view.New(seen, view.Shared()...)
	s.cache, err = cache.New(cache.Config{Store: s.store, Kinds: s.table.All(), Decoded: seen, Log: s.log})
	if err != nil {
		return err
	}
	s.docs, err = openapi.New(func() (any, []*kinds.Kind) { now := s.table.Now(); return now, now.All() }, s.described)
	if err != nil {
		return err
	}
	s.authz = authz.New(s.view)
	if err := s.wireAccess(); err != nil {
		return err
	}
	s.loops = func() ([]reconcile.Controller, error) {
		loops, err := controllers(s.cfg, s.table, s.authority, s.authz, pki.RequestSigner{Authority: s.authority, Now: time.Now}, policyTypes(s.table, s.docs, s.log), scaling{ctx, s}, s.servers())
		return append(loops, s.accessLoops()...), err
	}
	return s.wireAPI()
}

// fresh waits until the view knows all of a kind that was written before.
func (s *control) fresh(ctx context.Context, k *kinds.Kind) error {
	rev, err := s.store.Revision(ctx)
	if err != nil {
		return err
	}
	if s.share != nil { // others write too, and what is no object: that has to be asked for
		if err := s.cache.WaitRev(ctx, rev); err != nil {
			return err
		}
	}
	return s.view.WaitRev(ctx, k, rev)
}

func (s *control) wireAPI() error {
	webhooks := webhook.New(func(namespace, name string, port int32) (string, error) {
		return view.ServiceAddress(s.view.Snapshot(), namespace, name, port)
	})
	if s.spans != nil {
		webhooks.Through(tracing.Through(s.spans))
	}
	fields := ownership.New(s.table.All(), s.table.ByGVK)
	plugins, err := admission.Default(admission.Config{View: s.view, Authz: s.authz, Fresh: s.fresh, Webhooks: webhooks, Table: s.table,
		Types: fields.TypeConverter(), Log: s.log, Metrics: s.metrics,
		PodSecurity: s.cfg.admission.PodSecurity, Self: func() admission.Self { return s.as("system:apiserver", user.SystemPrivilegedGroup) }})
	if err != nil {
		return err
	}
	extra := s.access.tokens.Discovery()
	groups, err := discovery.New(s.table, s.remotes, net.JoinHostPort(s.cfg.NodeIP, fmt.Sprint(s.cfg.APIPort)))
	if err != nil {
		return err
	}
	for _, path := range groups.Paths() {
		extra[path] = groups
	}
	extra["/openapi/v3"], extra["/openapi/v3/"], extra["/openapi/v2"] = s.docs, s.docs, s.docs
	resources := prometheus.NewRegistry()
	resources.MustRegister(scheduler.Resources(s.view))
	s.usage, err = usage.New(usage.Config{View: s.view, Log: s.log,
		Scrape: func(ctx context.Context, node string) (io.ReadCloser, error) { return s.api.Scrape(ctx, node) }})
	if err != nil {
		return err
	}
	toKubelet := s.authority.Renewing(pki.Leaf{CommonName: kubeletClient}, time.Now)
	s.api, err = apiserver.New(apiserver.Config{
		Kinds: s.table, Store: s.store, Cache: s.cache, View: s.view, Authn: s.access.authn, Authz: s.authz, Rules: s.authz, Admission: plugins, Fields: fields,
		IssueToken: s.access.tokens.Issue, ReviewToken: s.access.authn.Review, Impersonate: authn.Impersonate(s.authz),
		Backend:  func(gv schema.GroupVersion) *aggregate.Backend { return s.aggregate.Backend(gv) },
		Measured: s.usage,
		Extra:    extra, Public: map[string]http.Handler{"/cacerts": caHandler(s.authority)},
		KubeletTLS:  &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.authority.Pool(), GetClientCertificate: toKubelet.GetClientCertificate},
		ServiceCIDR: netip.MustParsePrefix(s.cfg.ServiceCIDR), LockPorts: s.lockPorts(), Log: s.log,
		Metrics: s.metrics, Gatherers: map[string]prometheus.Gatherer{"resources": resources},
		Seats: s.cfg.MaxRequestsInFlight + s.cfg.MaxMutatingRequestsInFlight,
		Ready: s.checks(), Commands: map[string]apiserver.Command{rotationPath: s.rotateKey},
		Audit: s.audit, Tracer: s.tracer(),
	})
	if err != nil {
		return err
	}
	toAPIs := s.front.Renewing(pki.Leaf{CommonName: frontProxyClient}, time.Now)
	s.custom = custom.NewRegistrar(custom.Config{Table: s.table, Cache: s.cache, View: s.view, Convert: custom.ByWebhook(webhooks), Log: s.log,
		Client: s.as("system:apiserver", user.SystemPrivilegedGroup)})
	s.aggregate, err = aggregate.New(aggregate.Config{View: s.view, Client: s.as("system:kube-aggregator"), Certificate: toAPIs.GetClientCertificate, Log: s.log})
	return err
}

// remotes are what other servers answer for; nobody, while this one starts.
func (s *control) remotes() *discovery.Remotes {
	if s.aggregate == nil {
		return nil
	}
	return s.aggregate.Remotes()
}

// described is what other servers say of their APIs in OpenAPI.
func (s *control) described() openapi.Remote {
	if s.aggregate == nil {
		return nil
	}
	return s.aggregate
}

// caHandler gives agents the certificate that their token names by its hash.
func caHandler(a *pki.Authority) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(a.PEM)
	})
}

// as is the in-process client with a name of the field.
func (s *control) as(name string, groups ...string) client.Client {
	return s.api.Client(&user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)})
}

func (s *control) asController(name string) client.Client { return s.api.Client(controllerUser(name)) }

func controllerUser(name string) user.Info {
	return &user.DefaultInfo{Name: "system:serviceaccount:kube-system:" + name,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:kube-system", user.AllAuthenticated}}
}

// beginCustom registers what is defined already, before the cache reads the
// objects.
func (s *control) beginCustom(ctx context.Context) error {
	page, err := s.store.List(ctx, kinds.CustomResourceDefinition.KeyPrefix(""), store.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot read the definitions of custom resources: %w", err)
	}
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, kv := range page.KVs {
		o, err := codec.DecodeStored(kinds.CustomResourceDefinition, kv.Value, kv.Rev)
		if err != nil {
			s.log.Error("cannot decode a stored object: it is left out", "key", kv.Key, "error", err)
			continue
		}
		crds = append(crds, o.(*apiextensionsv1.CustomResourceDefinition))
	}
	s.custom.Begin(ctx, crds)
	return nil
}

// run runs the control plane; ready is closed once it answers and everything
// that every cluster has is there.
func (s *control) run(ctx context.Context, ready chan<- struct{}) error {
	if err := s.beginCustom(ctx); err != nil {
		return errors.Join(err, s.etcd.Close())
	}
	stop := s.outlast(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.cache.Run(ctx) })
	for _, run := range s.access.run {
		g.Go(func() error {
			if err := run(ctx); err != nil {
				s.log.Warn("changes of configuration files need a restart", "error", err)
			}
			return nil
		})
	}
	if s.encryption != nil {
		g.Go(func() error { return s.encryption.Run(ctx) })
	}
	g.Go(func() error {
		select {
		case err := <-s.etcd.Failed():
			return fmt.Errorf("etcd has ended: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		select {
		case <-s.cache.Ready():
		case <-ctx.Done():
			return nil
		}
		s.cache.Feed(s.view)
		g.Go(func() error { return s.custom.Run(ctx) })
		g.Go(func() error { return s.serve(ctx) })
		admin := s.as("system:apiserver", user.SystemPrivilegedGroup)
		loops, err := s.loops()
		if err != nil {
			return err
		}
		if err := bootstrap.Ensure(ctx, admin, s.view.Snapshot(), bootstrap.Objects(loops)); err != nil {
			return err
		}
		if err := publishNetworks(ctx, admin, s.cfg); err != nil {
			return err
		}
		// The controllers' roles have to be known before they use them.
		rev, err := s.store.Revision(ctx)
		if err != nil {
			return err
		}
		if err := s.cache.WaitRev(ctx, rev); err != nil {
			return err
		}
		g.Go(func() error { return s.aggregate.Run(ctx) })
		if s.cfg.plane == nil { // else there is nobody to be asked what it uses
			g.Go(func() error { return s.usage.Run(ctx) })
		}
		if err := s.runElections(ctx, g); err != nil {
			return err
		}
		if err := s.writeKubeconfig(); err != nil {
			return err
		}
		if s.share != nil {
			if err := s.register(ctx, g); err != nil {
				return err
			}
		}
		close(ready)
		return nil
	})
	err := g.Wait()
	return errors.Join(err, stop(), s.etcd.Close())
}

// serve answers HTTPS.
func (s *control) serve(ctx context.Context) error {
	leaf := pki.Leaf{CommonName: "kube-apiserver", Server: true,
		DNSNames: append([]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.cfg.ClusterDomain}, s.cfg.NodeName),
		IPs:      []net.IP{net.ParseIP(s.cfg.NodeIP), net.ParseIP(s.cfg.ServiceIP()), net.IPv4(127, 0, 0, 1), net.IPv6loopback}}
	for _, san := range s.cfg.TLSSANs {
		if ip := net.ParseIP(san); ip != nil {
			leaf.IPs = append(leaf.IPs, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, san)
		}
	}
	cert := s.authority.Renewing(leaf, time.Now)
	return s.api.Serve(ctx, s.listener, &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: cert.GetCertificate,
		ClientAuth: tls.RequestClientCert, ClientCAs: s.authority.Pool(), // authn verifies
	})
}

// writeKubeconfig gives the administrator a certificate; one that has half of
// its life left stays.
func (s *control) writeKubeconfig() error {
	file := s.cfg.Kubeconfig()
	if st, err := os.Stat(file); err == nil && time.Since(st.ModTime()) < 180*24*time.Hour {
		if data, err := os.ReadFile(file); err == nil && pki.KubeconfigServer(data) == s.cfg.APIURL() {
			return nil
		}
	}
	cert, key, err := s.authority.Issue(pki.Leaf{CommonName: "knarr-admin", Groups: []string{user.SystemPrivilegedGroup}}, time.Now())
	if err != nil {
		return err
	}
	return pki.WriteFile(file, pki.Kubeconfig(s.cfg.APIURL(), s.authority.PEM, cert, key))
}

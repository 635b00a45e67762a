// Package apiserver is the request pipeline: authenticate, audit, limit,
// authorize, decode, admit, validate, store. It is served over HTTPS, and in process to
// components, which enter it after authentication and need no codec.
package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver/aggregate"
	"knarr.dev/knarr/internal/apiserver/fair"
	"knarr.dev/knarr/internal/apiserver/ownership"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/view"
)

const (
	maxBody = 3 << 20 // upstream's limit of a request body
	// maxHeaderBytes is upstream's: long selectors, and tokens with many groups,
	// stand in URLs and headers.
	maxHeaderBytes = 1 << 20
	// defaultSeats is the sum of upstream's --max-requests-inflight and
	// --max-mutating-requests-inflight.
	defaultSeats = 400 + 200
	// maxLongRunning bounds watches and streams: 5,000 nodes with a dozen watches
	// each would fit, their goroutines take some 20 KB apiece.
	maxLongRunning = 65536
	// maxStreams bounds what one HTTP/2 connection may have open
	// (CVE-2023-44487); upstream's figure for authenticated clients.
	maxStreams = 250
	// streamBuffer is what one stream may send ahead of its reader: a quarter of
	// what its connection may, so that no stream stops the others.
	streamBuffer = 256 << 10
	// silence is how long an HTTP/2 client may say nothing before it is asked
	// whether it is still there; its watches end if it is not.
	silence = time.Minute
)

// Config of a Server.
type Config struct {
	Kinds     *kinds.Table
	Store     store.Store
	Cache     *cache.Cache
	View      *view.View // nodes and services at least
	Authn     authenticator.Request
	Authz     authorizer.UnconditionalAuthorizer
	Rules     authorizer.RuleResolver // optional: SelfSubjectRulesReview
	Admission []admission.Plugin
	// Fields are shared with the plugins; nil: the server's own.
	Fields *ownership.Fields

	// IssueToken answers serviceaccounts/token, ReviewToken TokenReview.
	IssueToken  func(ctx context.Context, namespace, serviceAccount string, r *authenticationv1.TokenRequest) error
	ReviewToken func(ctx context.Context, r *authenticationv1.TokenReview) error
	// Impersonate turns Impersonate-* headers into the user to act as and the
	// verb that allowed it; nobody if the headers ask for none.
	Impersonate func(ctx context.Context, at authorizer.AttributesRecord, h http.Header) (u user.Info, constraint string, err error)

	// Extra handlers by exact path, or by prefix if the path ends in a slash:
	// discovery, OpenAPI, OIDC documents. They run authorized.
	Extra map[string]http.Handler
	// Commands answer a POST at an exact path, authorized by that verb.
	Commands map[string]Command
	// Public handlers answer without authentication (the CA certificate).
	Public map[string]http.Handler
	// Ready are named checks of /readyz besides the store's and the cache's.
	Ready map[string]func(context.Context) error

	// Backend finds who else answers for a group and version; nil: nobody.
	Backend func(schema.GroupVersion) *aggregate.Backend

	// Measured makes the objects that are measured when somebody asks; nil: there
	// are none.
	Measured Measured

	// KubeletTLS is how the apiserver calls kubelets; nil: logs, exec and
	// proxying are refused.
	KubeletTLS *tls.Config
	// LocalNode is the name of the node on this machine: the only one whose
	// address may be a loopback one. Empty: none.
	LocalNode string

	ServiceCIDR netip.Prefix
	NodePorts   [2]int // first and last; zero: 30000 to 32767
	// LockPorts makes this server the only one that gives node ports, until
	// unlock is called; held ends when that is no longer sure. nil: it is the
	// only server.
	LockPorts func(ctx context.Context) (held context.Context, unlock func(), err error)

	// Seats are shared by the requests that are being answered, by priority and
	// fairness. 0: 600.
	Seats int

	// Audit writes down what is asked and answered; nil: nothing is.
	Audit *audit.Auditor
	// Tracer makes spans of requests; nil: there are none.
	Tracer trace.TracerProvider
	// Metrics are shown at /metrics; nil: only the server's own. Gatherers are
	// shown below it, by the last part of the path.
	Metrics   *prometheus.Registry
	Gatherers map[string]prometheus.Gatherer

	Log  *slog.Logger
	Now  func() time.Time
	UID  func() string   // optional: random UUIDs; the simulation seeds them
	Rand func(n int) int // optional: below n, for generated names, addresses and ports
}

// Measured answers for kinds whose objects are in no store. What it returns is
// the caller's; lists are in order.
type Measured interface {
	Get(ctx context.Context, k *kinds.Kind, namespace, name string) (kinds.Object, error)
	List(ctx context.Context, k *kinds.Kind, namespace string) ([]kinds.Object, error)
}

// Command does something that is no resource's, by the parameters of the URL
// alone; what it returns is sent as JSON. It ends with ctx.
type Command func(ctx context.Context, q url.Values) (any, error)

// Server implements the pipeline.
type Server struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	uid     func() string
	metrics *metrics
	plugins []admission.Plugin // of the configuration, timed
	alloc   *allocator
	pages   *pageSet
	fair    *fair.Dispatcher
	streams chan struct{} // one element per watch or stream that is open
	kubelet *kubeletProxy
	fields  *ownership.Fields
	tracing *tracing  // nil: there are no spans
	buffers sync.Pool // of *[]byte with room for a chunk

	bodyTimeout time.Duration // shortened by tests
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Kinds == nil || cfg.Store == nil || cfg.Cache == nil {
		return nil, errors.New("apiserver: kinds, store and cache are needed")
	}
	if c := cfg.ServiceCIDR; c.IsValid() && (!c.Addr().Is4() || c.Bits() < 8 || c.Bits() > 27) {
		return nil, fmt.Errorf("apiserver: the service CIDR %s is not an IPv4 network of 8 to 27 bits", c)
	}
	s := &Server{cfg: cfg, log: cfg.Log, now: cfg.Now, uid: cfg.UID,
		streams: make(chan struct{}, maxLongRunning), pages: newPageSet(), bodyTimeout: bodyTimeout}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.uid == nil {
		s.uid = randomUID
	}
	if s.cfg.Rand == nil {
		s.cfg.Rand = rand.IntN
	}
	if cfg.NodePorts == [2]int{} {
		s.cfg.NodePorts = [2]int{30000, 32767}
	}
	if s.cfg.Metrics == nil {
		s.cfg.Metrics = prometheus.NewRegistry()
	}
	if s.cfg.Seats == 0 {
		s.cfg.Seats = defaultSeats
	}
	var err error
	if s.fair, err = fair.New(fair.Config{Seats: s.cfg.Seats, View: cfg.View, Now: s.now}); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(s)
	s.plugins = s.metrics.timed(cfg.Admission)
	s.alloc = newAllocator(s.cfg)
	s.tracing = newTracing(cfg.Tracer)
	s.kubelet = newKubeletProxy(s)
	if s.fields = cfg.Fields; s.fields == nil {
		s.fields = ownership.New(cfg.Kinds.All(), cfg.Kinds.ByGVK)
	}
	return s, nil
}

// Serve answers on l until ctx ends, then lets requests finish for a moment.
func (s *Server) Serve(ctx context.Context, l net.Listener, conf *tls.Config) error {
	conf = conf.Clone()
	conf.NextProtos = []string{"h2", "http/1.1"}
	if conf.MinVersion == 0 {
		conf.MinVersion = tls.VersionTLS12
	}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler: s.Handler(), TLSConfig: conf, MaxHeaderBytes: maxHeaderBytes,
		ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerStream: streamBuffer,
			SendPingTimeout: silence, WriteByteTimeout: writeTimeout},
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    log.New(tlsNoise{s.log, s.metrics.handshakes}, "", 0),
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(newBounded(l, s.log), "", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	cancel() // ends watches and streams
	grace, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	if err := srv.Shutdown(grace); err != nil {
		_ = srv.Close()
	}
	<-done
	return nil
}

// tlsNoise turns net/http's log lines, mostly of clients that hang up in the
// handshake, into debug lines.
type tlsNoise struct {
	log    *slog.Logger
	failed prometheus.Counter
}

func (n tlsNoise) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("http: TLS handshake error")) {
		n.failed.Inc()
	}
	n.log.Debug("http server", "message", string(p))
	return len(p), nil
}

package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"knarr.dev/knarr/internal/store"
)

const (
	// DefaultRoot is what the keys of objects begin with.
	DefaultRoot = "/registry"
	// OwnRoot is what other keys of ours begin with: they are of no cluster's
	// objects, so that no watch of those delivers them.
	OwnRoot = "/knarr.dev"

	// dialTimeout bounds what a start waits for an external etcd.
	dialTimeout = 10 * time.Second
	// probeTimeout bounds the look at one endpoint.
	probeTimeout = 5 * time.Second
	// othersWait is how much longer than the first endpoint others may take to say
	// how they are.
	othersWait = time.Second
	// opTimeout bounds one request to an external etcd, so that whoever asks
	// while it is away is told so: less than a request of a client may take.
	opTimeout = 10 * time.Second
	// reconnectLimit is the longest pause between two attempts to connect. gRPC
	// would wait for up to two minutes.
	reconnectLimit = 2 * time.Second
)

// The first versions whose watches tell of progress only when it is true, which
// is what consistent reads rest on (etcd's issue 15220; upstream's figures).
var sound = map[[2]int]int{{3, 4}: 31, {3, 5}: 13}

// dial connects to an external etcd, and says what is wrong if it does not answer.
func (s *Store) dial(ctx context.Context, cfg Config) (err error) {
	if cfg.Root != "" && cfg.Root != DefaultRoot {
		s.root = cfg.Root
	}
	if err := probe(ctx, cfg); err != nil {
		return err
	}
	s.client, err = clientv3.New(clientv3.Config{Context: context.WithoutCancel(ctx), Endpoints: cfg.Endpoints, TLS: cfg.TLS,
		DialTimeout: dialTimeout, DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second, Logger: zap.New(bridge{log: cfg.Log}),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: probeTimeout,
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectLimit}})}})
	if err != nil {
		return fmt.Errorf("cannot reach etcd at %v: %w", cfg.Endpoints, err)
	}
	if err := s.greet(ctx, cfg); err != nil {
		return errors.Join(err, s.client.Close())
	}
	return nil
}

// greet asks for what every start needs.
func (s *Store) greet(ctx context.Context, cfg Config) error {
	ask, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := s.Revision(ask); err != nil {
		return refused(cfg, err)
	}
	answers, err := s.statuses(ask)
	if err != nil {
		return fmt.Errorf("etcd at %v does not say its version: %w", cfg.Endpoints, err)
	}
	for _, st := range answers {
		if err := checkVersion(st.Version); err != nil {
			return err
		}
	}
	return nil
}

// statuses of the endpoints that answer: some may be away, but not all.
func (s *Store) statuses(ctx context.Context) ([]*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	endpoints := s.client.Endpoints()
	all, errs := make([]*clientv3.StatusResponse, len(endpoints)), make([]error, len(endpoints))
	var wg sync.WaitGroup
	for i, endpoint := range endpoints {
		wg.Go(func() {
			if all[i], errs[i] = s.client.Status(ctx, endpoint); errs[i] == nil {
				time.AfterFunc(othersWait, cancel)
			}
		})
	}
	wg.Wait()
	var out []*clientv3.StatusResponse
	for i, err := range errs {
		if err == nil {
			out = append(out, all[i])
		}
	}
	if len(out) == 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

func checkVersion(version string) error {
	var v [2]int
	var patch int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &patch); n != 3 {
		return fmt.Errorf("etcd says that its version is %q", version)
	}
	least, known := sound[v]
	if v[0] < 3 || v[0] == 3 && v[1] < 4 || known && patch < least {
		return fmt.Errorf("etcd %s cannot be relied on for consistent reads: update it to 3.5.13, or to what is newer", version)
	}
	return nil
}

// refused is what an etcd that can be reached says.
func refused(cfg Config, err error) error {
	root := cfg.Root
	if root == "" {
		root = DefaultRoot
	}
	remedy := "see to its log"
	switch {
	case errors.Is(err, rpctypes.ErrUserEmpty):
		remedy = "it knows users by the common names of their client certificates: give one with --etcd-cert-file and --etcd-key-file"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		remedy = fmt.Sprintf("the user that the client certificate names may not read there: grant it readwrite on the prefixes %s/ and %s/", root, OwnRoot)
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, context.DeadlineExceeded):
		remedy = "has it a quorum? Ask `etcdctl endpoint status`"
	}
	return fmt.Errorf("etcd at %s does not answer: %s (%w)", strings.Join(cfg.Endpoints, ", "), remedy, err)
}

// probe looks whether any of the endpoints can be talked to. It speaks HTTP,
// since gRPC tells only that the time is up; what HTTP alone cannot say is
// no error here.
func probe(ctx context.Context, cfg Config) error {
	faults := make([]error, len(cfg.Endpoints))
	var wg sync.WaitGroup
	for i, endpoint := range cfg.Endpoints {
		wg.Go(func() { faults[i] = probeOne(ctx, endpoint, cfg.TLS) })
	}
	wg.Wait()
	var bad []error
	for i, err := range faults {
		if err != nil {
			bad = append(bad, fmt.Errorf("cannot use etcd at %s: %w", cfg.Endpoints[i], err))
		}
	}
	if len(bad) == len(cfg.Endpoints) {
		return errors.Join(bad...)
	}
	for _, err := range bad {
		cfg.Log.Warn("an etcd endpoint is left out until it can be used", "error", err)
	}
	return nil
}

func probeOne(ctx context.Context, endpoint string, conf *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: conf.Clone(), DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(endpoint, "/")+"/version", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		return resp.Body.Close()
	}
	remedy := remedyFor(err, conf)
	if remedy == "" && req.URL.Scheme == "https" && !shakesHands(ctx, req.URL.Host, conf) {
		remedy = "it speaks without TLS: give it certificates"
	}
	if remedy != "" {
		return fmt.Errorf("%s (%w)", remedy, err)
	}
	return nil
}

// shakesHands: there is TLS, whatever is spoken above it.
func shakesHands(ctx context.Context, host string, conf *tls.Config) bool {
	conn, err := (&tls.Dialer{Config: conf.Clone()}).DialContext(ctx, "tcp", host)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// remedyFor is empty for what need not be wrong.
func remedyFor(err error, conf *tls.Config) string {
	var op *net.OpError
	var name x509.HostnameError
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "its certificate is of another authority: give that one's certificate with --etcd-ca-file"
	case errors.As(err, &name):
		return "its certificate does not name that host: use an endpoint that it names"
	case errors.As(err, new(x509.CertificateInvalidError)):
		return "its certificate is not valid: renew it, or set this machine's clock"
	case errors.As(err, &op) && op.Op == "remote error":
		if conf == nil || conf.GetClientCertificate == nil {
			return "it wants a client certificate: give one with --etcd-cert-file and --etcd-key-file"
		}
		return "it does not take the client certificate: give one of its authority with --etcd-cert-file and --etcd-key-file"
	case errors.As(err, &op) && op.Op == "dial", errors.Is(err, context.DeadlineExceeded), os.IsTimeout(err):
		return "does etcd run there, and can this machine reach it?"
	}
	return ""
}

// bounded is ctx with the time that one request to an external etcd may take.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.server != nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, opTimeout)
}

// outer is the key as etcd has it.
func (s *Store) outer(key string) string {
	if rest, ok := strings.CutPrefix(key, DefaultRoot+"/"); ok && s.root != "" {
		return s.root + "/" + rest
	}
	return key
}

// inner gives a value back the key by which it is asked for.
func (s *Store) inner(kv store.KV) store.KV {
	if s.root == "" {
		return kv
	}
	if rest, ok := strings.CutPrefix(kv.Key, s.root+"/"); ok {
		kv.Key = DefaultRoot + "/" + rest
	}
	return kv
}

func (s *Store) innerEvent(e store.Event) store.Event {
	e.KV = s.inner(e.KV)
	if e.Prev != nil {
		prev := s.inner(*e.Prev)
		e.Prev = &prev
	}
	return e
}

// highest revision that an external etcd has had. A client's watch would wait for
// ever on one that was restored to an older one.
type highest struct {
	mu   sync.Mutex
	rev  int64
	fell chan struct{} // closed when it has
}

func (h *highest) seen() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rev
}

func (h *highest) see(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rev = max(h.rev, rev)
}

// rewind ends the watches.
func (h *highest) rewind(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rev = rev
	if h.fell != nil {
		close(h.fell)
		h.fell = nil
	}
}

func (h *highest) rewound() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fell == nil {
		h.fell = make(chan struct{})
	}
	return h.fell
}

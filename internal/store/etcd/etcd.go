// Package etcd is store.Store on etcd: embedded in the process, spoken to
// without a network, or an external one.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config of an embedded etcd, or of an external one if Endpoints is set.
type Config struct {
	Dir       string // data; made with mode 0700
	SocketDir string // unix sockets, short: their paths are limited to 107 bytes
	// Quota bounds the database in bytes; 0: 8 GiB, the most that etcd advises.
	Quota int64
	// Compaction keeps this much history; 0: 5 min, as upstream.
	Compaction time.Duration

	Endpoints []string
	TLS       *tls.Config

	Log *slog.Logger
}

// Store implements store.Store.
type Store struct {
	client *clientv3.Client
	server *embed.Etcd // nil for an external one
	log    *slog.Logger
	quota  int64
	room   chan struct{} // a write met the quota: make room
	stop   context.CancelFunc
	done   chan struct{}
}

const (
	defaultQuota = 8 << 30
	// roomInterval is the least time between two attempts to make room: a
	// defragmentation stops the database while it copies it.
	roomInterval = 30 * time.Second
	startTimeout = 2 * time.Minute
	pageSize     = 2000 // keys per request: pages keep answers below a few MiB
)

// Open starts or dials etcd and blocks until it answers.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Quota == 0 {
		cfg.Quota = defaultQuota
	}
	if cfg.Compaction == 0 {
		cfg.Compaction = 5 * time.Minute
	}
	s := &Store{log: cfg.Log, quota: cfg.Quota, room: make(chan struct{}, 1), done: make(chan struct{})}
	var err error
	if len(cfg.Endpoints) > 0 {
		err = s.dial(ctx, cfg)
	} else {
		err = s.embed(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	loop, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.makeRoom(loop)
	return s, nil
}

func (s *Store) dial(ctx context.Context, cfg Config) (err error) {
	s.client, err = clientv3.New(clientv3.Config{Context: context.WithoutCancel(ctx), Endpoints: cfg.Endpoints, TLS: cfg.TLS,
		DialTimeout: 10 * time.Second, DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
		Logger: zap.New(bridge{log: cfg.Log}), MaxCallRecvMsgSize: 64 << 20})
	if err != nil {
		return fmt.Errorf("cannot reach etcd at %v: %w", cfg.Endpoints, err)
	}
	if _, err = s.Revision(ctx); err != nil {
		_ = s.client.Close()
		return fmt.Errorf("etcd at %v does not answer: %w", cfg.Endpoints, err)
	}
	return nil
}

func (s *Store) embed(ctx context.Context, cfg Config) error {
	for _, dir := range []string{cfg.Dir, cfg.SocketDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	ec, err := embedConfig(cfg)
	if err != nil {
		return err
	}
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("cannot start etcd on %s: %w", cfg.Dir, err)
	}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		e.Close()
		return fmt.Errorf("etcd on %s ended: %w", cfg.Dir, err)
	case <-timeout.C:
		e.Close()
		return fmt.Errorf("etcd on %s is not ready after %s", cfg.Dir, startTimeout)
	case <-ctx.Done():
		e.Close()
		return ctx.Err()
	}
	s.server, s.client = e, v3client.New(e.Server)
	return nil
}

// embedConfig listens on unix sockets only: nothing but this process may speak
// to the store of a single server.
func embedConfig(cfg Config) (*embed.Config, error) {
	ec := embed.NewConfig()
	ec.Name, ec.Dir = "knarr", cfg.Dir
	peer, client := filepath.Join(cfg.SocketDir, "etcd-peer.sock"), filepath.Join(cfg.SocketDir, "etcd.sock")
	for _, path := range []string{peer, client} {
		if len(path) > 107 { // sizeof(sun_path) less the closing zero, unix(7)
			return nil, fmt.Errorf("the socket path %s is longer than 107 bytes", path)
		}
		// A socket that a killed process left would refuse the new one.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	// etcd takes the socket's path from Host.
	ec.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: peer}}
	ec.ListenClientUrls = []url.URL{{Scheme: "unix", Host: client}}
	// Nobody dials these; they are the member's name in its own cluster.
	ec.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	ec.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "localhost:2379"}}
	ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	ec.QuotaBackendBytes = cfg.Quota
	ec.AutoCompactionMode, ec.AutoCompactionRetention = embed.CompactorModePeriodic, cfg.Compaction.String()
	ec.SnapshotCount = 10000
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(bridge{log: cfg.Log}))
	ec.WatchProgressNotifyInterval = time.Minute
	return ec, nil
}

// Close ends an embedded etcd, or the connection. It blocks until the data are
// on disk.
func (s *Store) Close() error {
	s.stop()
	<-s.done
	err := s.client.Close()
	if s.server != nil {
		s.server.Close()
		err = nil // an in-process client has no connection to close
	}
	return err
}

// Failed delivers the error by which an embedded etcd ended on its own.
func (s *Store) Failed() <-chan error {
	if s.server == nil {
		return nil
	}
	return s.server.Err()
}

// bridge is a zap core over slog: etcd's info lines become debug.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (b bridge) Enabled(l zapcore.Level) bool { return b.log.Enabled(context.Background(), level(l)) }

func (b bridge) With(f []zapcore.Field) zapcore.Core {
	return bridge{log: b.log, fields: append(b.fields[:len(b.fields):len(b.fields)], f...)}
}

func (b bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(b.fields[:len(b.fields):len(b.fields)], fields...) {
		f.AddTo(enc)
	}
	args := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		args = append(args, k, v)
	}
	b.log.Log(context.Background(), level(e.Level), "etcd: "+e.Message, args...)
	return nil
}

func (bridge) Sync() error { return nil }

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}


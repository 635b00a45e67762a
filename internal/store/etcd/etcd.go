// Package etcd is store.Store on etcd: embedded in the process, spoken to
// without a network, or an external one.
package etcd

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// Config of an embedded etcd, or of an external one if Endpoints is set.
type Config struct {
	Dir       string // data; made with mode 0700
	SocketDir string // the unix socket goes into a directory etcd below it, mode 0700
	// Quota bounds the database in bytes; 0: 8 GiB, the most that etcd advises.
	Quota int64
	// Compaction keeps this much history; 0: 5 min, as upstream.
	Compaction time.Duration

	// Endpoints of an external one: URLs, all of them http or all https.
	Endpoints []string
	TLS       *tls.Config // for https
	// Root is what its keys begin with instead of DefaultRoot; empty: with that.
	Root string

	Log *slog.Logger
}

// Store implements store.Store, store.Progresser and store.LeanWatcher.
type Store struct {
	client   *clientv3.Client
	server   *embed.Etcd // nil for an external one
	dir      string      // the embedded one's data
	root     string      // instead of DefaultRoot; empty: there is no difference
	diskFull atomic.Bool
	sockets  *os.File // the directory, open while its sockets are in use
	log      *slog.Logger
	quota    int64
	room     chan struct{} // a write met the quota: make room
	stop     context.CancelFunc
	done     chan struct{}
	closing  chan struct{}
	locking  locking
	highest  highest
	open     sync.RWMutex // held for reading while the database is read directly
	asks     askSet
}

const (
	defaultQuota = 8 << 30
	startTimeout = 2 * time.Minute
)

// Open starts or dials etcd and blocks until it answers. Nothing else can be
// wired to a store that does not, hence no Run: Close ends it.
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
	s := &Store{log: cfg.Log, quota: cfg.Quota, room: make(chan struct{}, 1), done: make(chan struct{}), closing: make(chan struct{})}
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
	go s.watchSpace(loop)
	if s.server == nil {
		go s.compactEvery(loop, cfg.Compaction)
	}
	return s, nil
}

// Close ends an embedded etcd, or the connection, and everything that still
// waits for it. It blocks until the data are on disk. Once is enough.
func (s *Store) Close() error {
	select {
	case <-s.closing:
		return nil
	default:
		close(s.closing)
	}
	s.open.Lock() // for good: nobody reads any more
	s.stop()
	<-s.done
	s.locking.end()
	err := s.client.Close()
	if s.server != nil {
		s.server.Close()
		err = s.sockets.Close() // an in-process client has no connection to close
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

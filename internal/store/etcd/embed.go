package etcd

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"knarr.dev/knarr/internal/store"
)

const (
	socketName = "etcd.sock"
	// maxSocketPath is sizeof(sun_path) less the closing zero, unix(7).
	maxSocketPath = 107
	// raftEntries are kept in memory for followers that lag: a single member
	// has none, and 5000 entries, the default, are 15 MiB of pods.
	raftEntries = 100
	// tick is raft's heartbeat. A single member talks to nobody, so that it
	// only costs wake-ups, and leads at once (see campaign).
	tick = 500 * time.Millisecond
	// commitInterval is how long writes, which are in the synced log already,
	// may wait to enter the database.
	commitInterval = 500 * time.Millisecond
	// defragAtStart, in MiB, is what has to be free for a start to rewrite the
	// database without it.
	defragAtStart = 256
)

func (s *Store) embed(ctx context.Context, cfg Config) error {
	sockets := filepath.Join(cfg.SocketDir, "etcd")
	for _, dir := range []string{cfg.Dir, sockets} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	var err error
	if s.sockets, err = os.Open(sockets); err != nil {
		return err
	}
	if err := s.start(ctx, embedConfig(cfg, socketPath(s.sockets))); err != nil {
		_ = s.sockets.Close()
		return err
	}
	s.client = v3client.New(s.server.Server)
	return nil
}

// socketPath goes through the open directory if the plain path is longer than
// the kernel takes.
func socketPath(dir *os.File) string {
	if path := filepath.Join(dir.Name(), socketName); len(path) <= maxSocketPath {
		return path
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName)
}

func (s *Store) start(ctx context.Context, ec *embed.Config) error {
	tune()
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("cannot start etcd on %s: %w", ec.Dir, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("etcd on %s is not ready after %s", ec.Dir, startTimeout))
	defer cancel()
	err = campaign(ctx, e)
	if err == nil {
		select {
		case <-e.Server.ReadyNotify():
			s.server = e
			return nil
		case err = <-e.Err():
			err = fmt.Errorf("etcd on %s ended: %w", ec.Dir, err)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	e.Close()
	return err
}

// campaign makes the single member lead without waiting for the election
// timeout, which is there for others to speak up. Raft ignores the message
// while it is not ready for it, hence the repetition.
func campaign(ctx context.Context, e *embed.Etcd) error {
	id := uint64(e.Server.MemberID())
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for e.Server.Lead() == 0 {
		if err := e.Server.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &id, From: &id}); err != nil {
			return fmt.Errorf("etcd does not take the lead: %w", err)
		}
		select {
		case <-again.C:
		case err := <-e.Err():
			return fmt.Errorf("etcd ended: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// embedConfig listens on a unix socket only, for etcdctl: nothing but this
// process may speak to the store of a single server.
func embedConfig(cfg Config, socket string) *embed.Config {
	ec := embed.NewConfig()
	ec.Name, ec.Dir = "knarr", cfg.Dir
	ec.ListenPeerUrls = nil
	ec.ListenClientUrls = []url.URL{{Scheme: "unix", Host: socket}} // etcd takes the path from Host
	// Nobody dials these; they are the member's name in its own cluster.
	ec.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	ec.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "localhost:2379"}}
	ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	ec.TickMs, ec.ElectionMs = uint(tick.Milliseconds()), 5*uint(tick.Milliseconds())
	ec.BackendBatchInterval = commitInterval
	ec.SnapshotCatchUpEntries = raftEntries
	ec.QuotaBackendBytes = cfg.Quota
	ec.MaxRequestBytes = store.MaxValue + store.MaxOverhead + 4<<10
	ec.BootstrapDefragThresholdMegabytes = defragAtStart
	ec.AutoCompactionMode, ec.AutoCompactionRetention = embed.CompactorModePeriodic, cfg.Compaction.String()
	ec.DowngradeCheckTime = time.Hour // there is no other member that could have another version
	ec.EnableGRPCGateway = false
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(bridge{log: cfg.Log}))
	return ec
}

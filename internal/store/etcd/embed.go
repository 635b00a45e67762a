package etcd

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"knarr.dev/knarr/internal/store"
)

const (
	socketName = "etcd.sock"
	firstStart = "first-start" // a file beside etcd's own
	// maxSocketPath is sizeof(sun_path) less the closing zero, unix(7).
	maxSocketPath = 107
	// raftEntries are kept in memory for followers that lag: a single member
	// has none, and 5000 entries, the default, are 15 MiB of pods.
	raftEntries = 1000
	// snapshotEvery bounds the log that a start after a crash has to read.
	snapshotEvery = 5000
	// tick is raft's heartbeat. A single member talks to nobody, so that it
	// only costs wake-ups, and leads at once (see campaign).
	tick = 500 * time.Millisecond
	// commitInterval is how long writes, which are in the synced log already,
	// may wait to enter the database.
	commitInterval = 500 * time.Millisecond
	// diskReserve is what a write leaves free: an etcd that cannot commit ends.
	// The next segment of its log takes 64 MiB, a step of its database 16.
	diskReserve = 128 << 20
	// deleteReserve is what the writes of a deletion leave free: they are small,
	// and the next segment of the log lies there already.
	deleteReserve = 32 << 20
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
	if err := beginFirstStart(cfg.Dir); err != nil {
		return err
	}
	if s.sockets, err = os.Open(sockets); err != nil {
		return err
	}
	if err := s.start(ctx, embedConfig(cfg, socketPath(s.sockets))); err != nil {
		_ = s.sockets.Close()
		return err
	}
	if err := endFirstStart(cfg.Dir); err != nil {
		s.server.Close()
		return errors.Join(err, s.sockets.Close())
	}
	s.client, s.dir = v3client.New(s.server.Server), cfg.Dir
	return nil
}

// beginFirstStart marks a directory that holds no data yet. An etcd that is
// killed before it has written down its own membership never starts again; if
// the mark is still there, nobody has been told that anything is stored, and
// what there is can go.
func beginFirstStart(dir string) error {
	member, mark := filepath.Join(dir, "member"), filepath.Join(dir, firstStart)
	if _, err := os.Lstat(mark); err == nil {
		return os.RemoveAll(member)
	}
	if _, err := os.Lstat(member); err == nil {
		return nil
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	return syncDir(dir)
}

// endFirstStart is over once the mark is gone from the disk: it must not come
// back when the power fails.
func endFirstStart(dir string) error {
	if err := os.Remove(filepath.Join(dir, firstStart)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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
// timeout, which is there for others to speak up. Raft takes the message only
// when it has applied all that is committed: before, it would look through
// entries that the server may have compacted meanwhile, and panic.
func campaign(ctx context.Context, e *embed.Etcd) error {
	id := uint64(e.Server.MemberID())
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for e.Server.Lead() == 0 {
		if st, ok := raftStatus(); !ok {
			return nil // the timeout will do
		} else if st.ID == id && st.Applied > 0 && st.Applied == st.GetCommit() {
			if err := e.Server.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &id, From: &id}); err != nil {
				return fmt.Errorf("etcd does not take the lead: %w", err)
			}
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

// raftStatus of the server that was started last; etcd shows it nowhere else.
func raftStatus() (st raft.Status, ok bool) {
	f, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return st, false
	}
	st, ok = f.Value().(raft.Status)
	return st, ok
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
	// A slow start must not run into an election (see campaign).
	ec.InitialElectionTickAdvance = false
	ec.SnapshotCount, ec.SnapshotCatchUpEntries = snapshotEvery, raftEntries
	ec.QuotaBackendBytes = cfg.Quota
	ec.MaxRequestBytes = store.MaxValue + store.MaxOverhead + 4<<10
	ec.BootstrapDefragThresholdMegabytes = defragAtStart
	ec.AutoCompactionMode, ec.AutoCompactionRetention = embed.CompactorModePeriodic, cfg.Compaction.String()
	ec.DowngradeCheckTime = time.Hour // there is no other member that could have another version
	ec.EnableGRPCGateway = false
	ec.AuthToken = "" // etcd's own users: there are none
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(bridge{log: cfg.Log}))
	return ec
}

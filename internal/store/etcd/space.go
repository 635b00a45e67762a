package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/store"
)

const (
	// roomInterval is the least time between two attempts to make room: a
	// defragmentation stops the database while it copies it.
	roomInterval = 10 * time.Second
	// lookInterval is how often the size is looked at.
	lookInterval = 10 * time.Minute
	// A database is rewritten when less than half of it is in use, it is worth
	// it, and what has to be copied takes well below a second.
	minShrink = 64 << 20
	maxCopy   = 256 << 20
)

// watchSpace keeps the database small, and makes room once a write has met
// the quota.
func (s *Store) watchSpace(ctx context.Context) {
	defer close(s.done)
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		select {
		case <-s.room:
			if err := s.makeRoom(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("the store is full: delete objects, or raise its quota", "quota", s.quota, "error", err)
			}
			select {
			case <-time.After(roomInterval):
			case <-ctx.Done():
				return
			}
		case <-look.C:
			if err := s.shrink(); err != nil && ctx.Err() == nil {
				s.log.Error("cannot defragment the store", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// DiskRoom is ErrDiskFull when the disk of an embedded etcd has no room for
// more than what is on its way, and for deletes.
func (s *Store) DiskRoom() error { return s.diskRoom(diskReserve) }

// diskRoom is ErrDiskFull when less than need is free.
func (s *Store) diskRoom(need uint64) error {
	if s.server == nil {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("etcd: cannot look at the disk of %s: %w", s.dir, err)
	}
	free := st.Bavail * uint64(st.Bsize)
	if free < diskReserve {
		if !s.diskFull.Swap(true) {
			s.log.Error("the disk is full: nothing but deletes is written until some is freed", "dir", s.dir, "free", free, "needed", diskReserve)
		}
	} else if s.diskFull.Load() && s.diskFull.Swap(false) {
		s.log.Info("the disk has room again", "dir", s.dir)
	}
	if free < need {
		return store.ErrDiskFull
	}
	return nil
}

// shrink gives free pages of an embedded etcd back to the file system, and
// says so when the quota comes near. Whoever runs an external one looks after it.
func (s *Store) shrink() error {
	if s.server == nil {
		return nil
	}
	b := s.server.Server.Backend()
	if size, used := b.Size(), b.SizeInUse(); size-used > minShrink && used < size/2 && used < maxCopy {
		if err := b.Defrag(); err != nil {
			return err
		}
		s.log.Info("defragmented the store", "before", size, "after", b.Size())
	}
	if size := b.Size(); size > s.quota/10*8 {
		s.log.Warn("the store is nearly full", "bytes", size, "quota", s.quota)
	}
	return nil
}

// errForeign: whoever runs an external etcd has to see to its size.
var errForeign = errors.New("compact and defragment the external etcd and disarm its alarm (etcdctl), or raise its quota")

// makeRoom compacts and defragments, and lifts the alarm if that helped. An
// external etcd, which may serve others too, is left alone.
func (s *Store) makeRoom(ctx context.Context) error {
	if s.server == nil {
		return errForeign
	}
	rev, err := s.Revision(ctx)
	if err != nil {
		return err
	}
	if _, err := s.client.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil && !errors.Is(s.translate(err), store.ErrCompacted) {
		return err
	}
	// The in-process client does not know how to, so the server is asked itself.
	b := s.server.Server.Backend()
	if err := b.Defrag(); err != nil {
		return err
	}
	size := b.Size()
	if size >= s.quota {
		return fmt.Errorf("%d bytes are in use", size)
	}
	_, err = s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	if err == nil {
		s.log.Info("the store has room again", "bytes", size, "quota", s.quota)
	}
	return err
}

// Size is what the database takes of the disk, in bytes; of several servers,
// the largest.
func (s *Store) Size(ctx context.Context) (int64, error) {
	if s.server != nil {
		return s.server.Server.Backend().Size(), nil
	}
	answers, err := s.statuses(ctx)
	if err != nil {
		return 0, err
	}
	var size int64
	for _, st := range answers {
		size = max(size, st.DbSize)
	}
	return size, nil
}

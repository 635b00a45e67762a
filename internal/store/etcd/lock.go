package etcd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/client/v3/concurrency"
)

// lockLife is how long a lock outlives a process that died, in seconds.
const lockLife = 10

// unlockTimeout bounds the giving back; after lockLife nobody has to.
const unlockTimeout = 2 * time.Second

// locking is how a server gets what one of several may do at a time.
type locking struct {
	mu      sync.Mutex
	session *concurrency.Session
	mine    map[string]chan struct{} // one of this process at a time
}

// turn is taken by sending.
func (l *locking) turn(name string) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mine == nil {
		l.mine = map[string]chan struct{}{}
	}
	if l.mine[name] == nil {
		l.mine[name] = make(chan struct{}, 1)
	}
	return l.mine[name]
}

// end gives up what is held, if etcd hears of it.
func (l *locking) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil {
		return
	}
	l.session.Orphan()
	ctx, cancel := context.WithTimeout(context.Background(), unlockTimeout)
	defer cancel()
	_, _ = l.session.Client().Revoke(ctx, l.session.Lease()) // else it ends by itself
}

func (s *Store) session(ctx context.Context) (*concurrency.Session, error) {
	s.locking.mu.Lock()
	defer s.locking.mu.Unlock()
	if have := s.locking.session; have != nil {
		select {
		case <-have.Done(): // etcd has not heard of us for too long
		default:
			return have, nil
		}
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	lease, err := s.client.Grant(ctx, lockLife)
	if err != nil {
		return nil, err
	}
	s.locking.session, err = concurrency.NewSession(s.client, concurrency.WithLease(lease.ID))
	return s.locking.session, err
}

// Lock makes this caller the only one of all servers over an external etcd.
// It blocks until it is. The context that it returns ends with ctx, and when
// the lock may be lost; unlock has to be called.
func (s *Store) Lock(ctx context.Context, name string) (held context.Context, unlock func(), err error) {
	turn := s.locking.turn(name)
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	defer func() {
		if err != nil {
			<-turn
		}
	}()
	session, err := s.session(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("etcd: cannot lock %s: %w", name, err)
	}
	m := concurrency.NewMutex(session, OwnRoot+"/locks/"+name)
	wait, cancelWait := s.bounded(ctx)
	defer cancelWait()
	if err := m.Lock(wait); err != nil {
		return nil, nil, fmt.Errorf("etcd: cannot lock %s: %w", name, err)
	}
	held, cancel := context.WithCancel(ctx)
	stop := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-session.Done():
		case <-stop:
		}
	}()
	return held, func() {
		close(stop)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		if err := m.Unlock(ctx); err != nil {
			s.log.Warn("cannot give a lock back; it ends by itself", "lock", name, "after", lockLife*time.Second, "error", err)
			session.Orphan() // the next lock needs another
		}
		<-turn
	}, nil
}

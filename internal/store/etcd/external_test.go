package etcd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/etcd/etcdtest"
	"knarr.dev/knarr/internal/store/storetest"
)

// clientTLS trusts an authority, and shows a certificate of another, if any.
func clientTLS(t testing.TB, trusted, of *etcdtest.Authority) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(trusted.File)
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool()}
	conf.RootCAs.AppendCertsFromPEM(pem)
	if of != nil {
		cert, err := tls.LoadX509KeyPair(of.Issue("knarr"))
		if err != nil {
			t.Fatal(err)
		}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return conf
}

// TestExternalSuite: what holds for the embedded one holds over TLS, under
// another root.
func TestExternalSuite(t *testing.T) {
	ca := etcdtest.NewAuthority(t)
	conf := clientTLS(t, ca, ca)
	storetest.Run(t, func(t testing.TB) storetest.Compacter {
		return open(t, Config{Endpoints: []string{etcdtest.Start(t, ca).Endpoint}, TLS: conf, Root: "/other/root"})
	})
}

// TestRoots: two clusters in one etcd do not see each other.
func TestRoots(t *testing.T) {
	ctx := t.Context()
	e := etcdtest.Start(t, nil)
	one, two := open(t, Config{Endpoints: []string{e.Endpoint}}), open(t, Config{Endpoints: []string{e.Endpoint}, Root: "/two"})
	for i, s := range []*Store{one, two} {
		if _, err := s.Put(ctx, "/registry/x/a", fmt.Appendf(nil, "%d", i), 0); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range []*Store{one, two} {
		page, err := s.List(ctx, "/registry/", store.ListOptions{})
		if err != nil || len(page.KVs) != 1 || page.KVs[0].Key != "/registry/x/a" || string(page.KVs[0].Value) != fmt.Sprint(i) {
			t.Errorf("%d: %+v %v", i, page, err)
		}
	}
	if resp, err := two.client.Get(ctx, "/two/x/a"); err != nil || len(resp.Kvs) != 1 {
		t.Errorf("/two/x/a: %v %v", resp, err)
	}
}

// TestRefusals: each fault names its remedy, and takes less than the time that
// a start may wait.
func TestRefusals(t *testing.T) {
	ca, other := etcdtest.NewAuthority(t), etcdtest.NewAuthority(t)
	secured, plain := etcdtest.Start(t, ca), etcdtest.Start(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		endpoint string
		tls      *tls.Config
		want     string
	}{
		"unreachable":       {"https://" + nobody, clientTLS(t, ca, ca), "does etcd run there"},
		"other authority":   {secured.Endpoint, clientTLS(t, other, ca), "--etcd-ca-file"},
		"no certificate":    {secured.Endpoint, clientTLS(t, ca, nil), "it wants a client certificate"},
		"other certificate": {secured.Endpoint, clientTLS(t, ca, other), "it does not take the client certificate"},
		"other name":        {strings.Replace(secured.Endpoint, "127.0.0.1", "localhost", 1), clientTLS(t, ca, ca), "does not name that host"},
		"without TLS":       {strings.Replace(plain.Endpoint, "http:", "https:", 1), clientTLS(t, ca, ca), "it speaks without TLS"},
	} {
		began := time.Now()
		s, err := Open(t.Context(), Config{Endpoints: []string{c.endpoint}, TLS: c.tls})
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > dialTimeout {
			t.Errorf("%s: it took %s", name, took)
		}
	}
}

// TestAuthentication: an etcd that knows users says whose certificate it wants.
func TestAuthentication(t *testing.T) {
	ca := etcdtest.NewAuthority(t)
	e, plain := etcdtest.Start(t, ca), etcdtest.Start(t, nil)
	for i, at := range []*etcdtest.Etcd{e, plain} {
		conf := clientTLS(t, ca, ca)
		if i == 1 {
			conf = nil
		}
		admin, err := clientv3.New(clientv3.Config{Endpoints: []string{at.Endpoint}, TLS: conf})
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		for _, user := range []string{"root", "knarr"} {
			if _, err := admin.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := admin.RoleAdd(ctx, "root"); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.UserGrantRole(ctx, "root", "root"); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.AuthEnable(ctx); err != nil {
			t.Fatal(err)
		}
		if err := admin.Close(); err != nil {
			t.Fatal(err)
		}
		s, err := Open(ctx, Config{Endpoints: []string{at.Endpoint}, TLS: conf})
		if err == nil {
			_ = s.Close()
		}
		want := []string{"grant it readwrite", "common names of their client certificates"}[i]
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestVersions(t *testing.T) {
	for version, good := range map[string]bool{"3.7.3": true, "3.5.13": true, "3.5.12": false, "3.4.31": true, "3.4.30": false, "3.3.99": false, "2.3.8": false, "4.0.0": true, "3.6.0-rc.1": true, "": false} {
		if err := checkVersion(version); (err == nil) != good {
			t.Errorf("%q: %v", version, err)
		}
	}
}

// TestOutage: while etcd is away requests fail in bounded time, and a watch
// goes on where it was when it is back.
func TestOutage(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for an etcd that is away")
	}
	e := etcdtest.Start(t, nil)
	s := open(t, Config{Endpoints: []string{e.Endpoint}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	start, err := s.Put(ctx, "/registry/x/0", []byte("0"), 0)
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan string, 10)
	go func() {
		_ = s.Watch(ctx, "/registry/", start-1, func(b store.Batch) error {
			for _, e := range b.Events {
				events <- e.Key
			}
			return nil
		})
	}()
	if got := <-events; got != "/registry/x/0" {
		t.Fatalf("event %s", got)
	}
	e.Stop()
	began := time.Now()
	if _, err := s.Revision(ctx); err == nil {
		t.Error("an etcd that is away answers")
	}
	if _, err := s.Put(ctx, "/registry/x/lost", nil, 0); err == nil {
		t.Error("an etcd that is away takes a write")
	}
	if took := time.Since(began); took > 2*opTimeout+time.Second {
		t.Errorf("two requests took %s", took)
	}
	e.Run()
	for { // the client connects when it does
		if _, err = s.Put(ctx, "/registry/x/1", []byte("1"), 0); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	for got := ""; got != "/registry/x/1"; {
		select {
		case got = <-events:
		case <-ctx.Done():
			t.Fatal("the watch does not go on")
		}
	}
}

// TestRewound: a watch of an etcd that has lost what it knew ends, instead of
// waiting until it is there again.
func TestRewound(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for an etcd that is away")
	}
	e := etcdtest.Start(t, nil)
	s := open(t, Config{Endpoints: []string{e.Endpoint}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var rev int64
	for i := range 20 {
		var err error
		if rev, err = s.Put(ctx, fmt.Sprintf("/registry/x/%d", i), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	began, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.Watch(ctx, "/registry/", rev-1, func(store.Batch) error { close(began); return nil })
	}()
	<-began
	e.Stop()
	e.Lose()
	e.Run()
	for {
		now, err := s.Revision(ctx)
		if err == nil && now < rev {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; !errors.Is(err, errRewound) {
		t.Error(err)
	}
}

// TestCompactors: of two servers one compacts at a time, and only what is older
// than the time before.
func TestCompactors(t *testing.T) {
	ctx := t.Context()
	e := etcdtest.Start(t, nil)
	a, b := open(t, Config{Endpoints: []string{e.Endpoint}, Compaction: time.Hour}), open(t, Config{Endpoints: []string{e.Endpoint}, Compaction: time.Hour})
	var ca, cb compactor
	first, err := a.Put(ctx, "/registry/x/a", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	round := func() {
		t.Helper()
		if err := errors.Join(a.compactOnce(ctx, &ca), b.compactOnce(ctx, &cb)); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(rev int64) bool {
		_, err := a.List(ctx, "/registry/", store.ListOptions{Rev: rev})
		if err != nil && !errors.Is(err, store.ErrCompacted) {
			t.Fatal(err)
		}
		return err == nil
	}
	round() // they learn of each other
	if !kept(first) {
		t.Error("history is forgotten at once")
	}
	second, err := a.Put(ctx, "/registry/x/b", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		round()
	}
	if kept(first) {
		t.Error("nothing is compacted")
	}
	if !kept(max(second, ca.rev, cb.rev)) {
		t.Error("too much is compacted")
	}
}

// TestLock: one of two servers at a time, and of one server's callers too; a
// lock that is lost ends what goes on under it.
func TestLock(t *testing.T) {
	e := etcdtest.Start(t, nil)
	stores := []*Store{open(t, Config{Endpoints: []string{e.Endpoint}}), open(t, Config{Endpoints: []string{e.Endpoint}})}
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			held, unlock, err := stores[i%2].Lock(t.Context(), "x")
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n > most.Load() {
				most.Store(n)
			}
			if err := stores[i%2].compactOnce(held, new(compactor)); err != nil { // anything that takes a while
				t.Error(err)
			}
			inside.Add(-1)
			unlock()
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d had the lock", most.Load())
	}
	held, unlock, err := stores[0].Lock(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := stores[1].Lock(ctx, "x"); err == nil {
		t.Error("a lock that is held is given")
	}
	if _, err := stores[1].client.Revoke(t.Context(), stores[0].locking.session.Lease()); err != nil {
		t.Fatal(err)
	}
	<-held.Done()
	unlock()
	if _, unlock, err = stores[0].Lock(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestLeavesOneOut: one of several endpoints may be away.
func TestLeavesOneOut(t *testing.T) {
	var out bytes.Buffer
	e := etcdtest.Start(t, nil)
	s := open(t, Config{Endpoints: []string{"http://127.0.0.1:1", e.Endpoint}, Log: slog.New(slog.NewTextHandler(&out, nil))})
	if size, err := s.Size(t.Context()); err != nil || size == 0 {
		t.Errorf("size %d: %v", size, err)
	}
	if !strings.Contains(out.String(), "left out until it can be used") {
		t.Errorf("the log says %q", out.String())
	}
}

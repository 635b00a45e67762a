// Package etcdtest runs an etcd as others run it, for tests: over TLS, with
// client certificates, on a port of loopback.
package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Authority makes certificates, as files.
type Authority struct {
	File string // its own certificate

	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, dir: t.TempDir(), key: newKey(t)}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd-ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.File = a.write("ca.crt", "CERTIFICATE", der)
	return a
}

// Issue makes a certificate for 127.0.0.1, or for a client of that name.
func (a *Authority) Issue(name string) (certFile, keyFile string) {
	a.t.Helper()
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(name+".crt", "CERTIFICATE", der), a.write(name+".key", "PRIVATE KEY", keyDER)
}

func (a *Authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Etcd is one that runs, or can be started again.
type Etcd struct {
	Endpoint string

	t      testing.TB
	dir    string
	config func() *embed.Config
	server *embed.Etcd
}

// Start runs one until the test ends. With an authority it wants client
// certificates of it; nil: it speaks plain HTTP.
func Start(t testing.TB, ca *Authority) *Etcd {
	t.Helper()
	client, peer := freeURL(t), freeURL(t)
	if ca != nil {
		client.Scheme = "https"
	}
	e := &Etcd{Endpoint: client.String(), t: t, dir: t.TempDir()}
	e.config = func() *embed.Config {
		c := embed.NewConfig()
		c.Dir, c.ZapLoggerBuilder = e.dir, embed.NewZapLoggerBuilder(zap.NewNop())
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		c.InitialCluster = c.InitialClusterFromName(c.Name)
		c.UnsafeNoFsync = true
		return c
	}
	if ca != nil {
		plain, cert, key := e.config, "", ""
		cert, key = ca.Issue("etcd")
		e.config = func() *embed.Config {
			c := plain()
			c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = cert, key
			c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = ca.File, true
			return c
		}
	}
	e.Run()
	t.Cleanup(e.Stop)
	return e
}

// Run starts it again with its data.
func (e *Etcd) Run() {
	e.t.Helper()
	var err error
	if e.server, err = embed.StartEtcd(e.config()); err != nil {
		e.t.Fatal(err)
	}
	select {
	case <-e.server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		e.t.Fatal("etcd is not ready")
	}
}

// Lose its data, while it does not run.
func (e *Etcd) Lose() {
	e.t.Helper()
	e.dir = e.t.TempDir()
}

// Stop ends it, and cuts off whoever talks to it.
func (e *Etcd) Stop() {
	if e.server != nil {
		e.server.Close()
		e.server = nil
	}
}

func freeURL(t testing.TB) url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return url.URL{Scheme: "http", Host: l.Addr().String()}
}

// Package pki holds the cluster's keys: one CA, the signing key of service
// account tokens, and the leaf certificates that a server needs, made at the
// first start, kept in files that only root reads, and renewed while running.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	// A leaf is renewed once two thirds of its life are over.
	renewAt = 2.0 / 3
	// Clocks of joining machines may be behind.
	backdate = 5 * time.Minute
)

// Authority signs certificates.
type Authority struct {
	Cert *x509.Certificate
	PEM  []byte // of Cert
	key  crypto.Signer
	pool *x509.CertPool
}

// Pool trusts this authority alone. It must not be changed.
func (a *Authority) Pool() *x509.CertPool { return a.pool }

func newAuthority(cert *x509.Certificate, key crypto.Signer) *Authority {
	a := &Authority{Cert: cert, PEM: EncodeCert(cert.Raw), key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// OpenAuthority reads name.crt and name.key in dir, or makes both. The key is
// written first and its certificate can be made again, so that a crash in
// between does no harm; a certificate without its key is beyond repair.
func OpenAuthority(dir, name, commonName string, now time.Time) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if err := sweep(dir); err != nil {
		return nil, err
	}
	certPEM, certErr := os.ReadFile(certFile)
	key, keyErr := ReadKey(keyFile)
	noCert, noKey := errors.Is(certErr, fs.ErrNotExist), errors.Is(keyErr, fs.ErrNotExist)
	switch {
	case noCert && noKey:
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if err := WriteKey(keyFile, k); err != nil {
			return nil, fmt.Errorf("cannot store the key of the CA: %w", err)
		}
		return selfSign(certFile, k, commonName, now)
	case noCert && keyErr == nil:
		return selfSign(certFile, key, commonName, now)
	case noKey:
		return nil, fmt.Errorf("%s is there without %s: restore the key from a backup, or remove the certificate to start a new cluster", certFile, keyFile)
	case certErr != nil:
		return nil, fmt.Errorf("cannot read the CA: %w", certErr)
	case keyErr != nil:
		return nil, fmt.Errorf("cannot read the key of the CA: %w", keyErr)
	}
	return checkAuthority(certFile, keyFile, certPEM, key, now)
}

func checkAuthority(certFile, keyFile string, certPEM []byte, key crypto.Signer, now time.Time) (*Authority, error) {
	cert, err := parseCert(certPEM)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s is broken: restore it from a backup: %w", certFile, err)
	case !samePublic(cert.PublicKey, key.Public()):
		return nil, fmt.Errorf("%s and %s do not belong together: restore both from one backup", certFile, keyFile)
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("%s is not the certificate of a CA: put the cluster's own there", certFile)
	case now.After(cert.NotAfter):
		return nil, fmt.Errorf("the CA in %s has expired on %s", certFile, cert.NotAfter.Format(time.DateOnly))
	case now.Add(backdate).Before(cert.NotBefore):
		return nil, fmt.Errorf("the CA in %s is valid only from %s on: check this machine's clock", certFile, cert.NotBefore.Format(time.DateTime))
	}
	return newAuthority(cert, key), nil
}

func selfSign(certFile string, key crypto.Signer, commonName string, now time.Time) (*Authority, error) {
	id, err := keyID(key.Public())
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName}, NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, SubjectKeyId: id,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := writeFile(certFile, EncodeCert(der), 0o644); err != nil {
		return nil, fmt.Errorf("cannot store the CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return newAuthority(cert, key), nil
}

// Leaf says what a certificate is for.
type Leaf struct {
	CommonName string
	Groups     []string // organizations
	DNSNames   []string
	IPs        []net.IP
	Server     bool // server authentication; else client
	Life       time.Duration
}

// Sign makes a certificate for a public key, in PEM.
func (a *Authority) Sign(l Leaf, public crypto.PublicKey, now time.Time) ([]byte, error) {
	if err := checkStrength(public); err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	life := l.Life
	if life == 0 {
		life = leafLife
	}
	until := now.Add(life)
	if until.After(a.Cert.NotAfter) {
		until = a.Cert.NotAfter
	}
	usage := x509.ExtKeyUsageClientAuth
	if l.Server {
		usage = x509.ExtKeyUsageServerAuth
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: l.CommonName, Organization: l.Groups},
		NotBefore: now.Add(-backdate), NotAfter: until, DNSNames: l.DNSNames, IPAddresses: l.IPs,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.Cert, public, a.key)
	if err != nil {
		return nil, err
	}
	return EncodeCert(der), nil
}

// Issue makes a key and its certificate, in memory.
func (a *Authority) Issue(l Leaf, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if keyPEM, err = EncodeKey(key); err != nil {
		return nil, nil, err
	}
	certPEM, err = a.Sign(l, key.Public(), now)
	return certPEM, keyPEM, err
}

// Renewing is a leaf that lives in memory and is made anew long before it
// expires, whenever it is asked for: no timer, no restart.
type Renewing struct {
	authority *Authority
	leaf      Leaf
	now       func() time.Time

	mu    sync.Mutex
	cert  *tls.Certificate
	renew time.Time
}

// Renewing issues leaf on demand.
func (a *Authority) Renewing(leaf Leaf, now func() time.Time) *Renewing {
	return &Renewing{authority: a, leaf: leaf, now: now}
}

// Certificate is the present one.
func (r *Renewing) Certificate() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.cert != nil && now.Before(r.renew) && !now.Before(r.cert.Leaf.NotBefore) {
		return r.cert, nil
	}
	certPEM, keyPEM, err := r.authority.Issue(r.leaf, now)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	life := cert.Leaf.NotAfter.Sub(now)
	r.cert, r.renew = &cert, now.Add(time.Duration(float64(life)*renewAt))
	return r.cert, nil
}

// GetCertificate is for a server's tls.Config.
func (r *Renewing) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return r.Certificate()
}

// GetClientCertificate is for a client's tls.Config.
func (r *Renewing) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return r.Certificate()
}

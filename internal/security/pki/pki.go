// Package pki holds the cluster's keys: one CA, the signing key of service
// account tokens, and the leaf certificates that a server needs, made at the
// first start, kept in files that only root reads, and renewed while running.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
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
}

// Pool trusts this authority alone.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Cert)
	return p
}

// OpenAuthority reads name.crt and name.key in dir, or makes both if neither
// is there.
func OpenAuthority(dir, name, commonName string, now time.Time) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	certPEM, certErr := os.ReadFile(certFile)
	key, keyErr := ReadKey(keyFile)
	switch {
	case errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist):
		return newAuthority(certFile, keyFile, commonName, now)
	case certErr != nil:
		return nil, fmt.Errorf("the CA is half there: restore %s from a backup: %w", certFile, certErr)
	case keyErr != nil:
		return nil, fmt.Errorf("the CA is half there: restore %s from a backup: %w", keyFile, keyErr)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s is broken: restore it from a backup: %w", certFile, err)
	}
	if !samePublic(cert.PublicKey, key.Public()) {
		return nil, fmt.Errorf("%s and %s do not belong together: restore both from one backup", certFile, keyFile)
	}
	if now.After(cert.NotAfter) {
		return nil, fmt.Errorf("the CA in %s has expired on %s", certFile, cert.NotAfter.Format(time.DateOnly))
	}
	return &Authority{Cert: cert, PEM: certPEM, key: key}, nil
}

func newAuthority(certFile, keyFile, commonName string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
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
	if err := WriteKey(keyFile, key); err != nil {
		return nil, err
	}
	certPEM := EncodeCert(der)
	if err := writeFile(certFile, certPEM, 0o644); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{Cert: cert, PEM: certPEM, key: key}, err
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

// Sign makes a certificate for a public key.
func (a *Authority) Sign(l Leaf, public crypto.PublicKey, now time.Time) ([]byte, error) {
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
	if r.cert != nil && now.Before(r.renew) {
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

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// keyID is the identifier that RFC 5280, 4.2.1.2 suggests.
func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(der)
	return sum[:], nil
}

func samePublic(a, b crypto.PublicKey) bool {
	x, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && x.Equal(b)
}

// EncodeCert writes PEM.
func EncodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseCert(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// EncodeKey writes PEM (PKCS 8).
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ReadKey reads what WriteKey wrote.
func ReadKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM key", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s is broken: %w", file, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds no signing key", file)
	}
	return signer, nil
}

// WriteKey stores a key that only root may read.
func WriteKey(file string, key crypto.Signer) error {
	data, err := EncodeKey(key)
	if err != nil {
		return err
	}
	return writeFile(file, data, 0o600)
}

// OpenSigningKey reads the key of service account tokens, or makes it.
func OpenSigningKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ReadKey(file)
	if errors.Is(err, fs.ErrNotExist) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return k, WriteKey(file, k)
	}
	if err != nil {
		return nil, err
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s does not hold an ECDSA P-256 key", file)
	}
	return k, nil
}

// writeFile is atomic: what was there stays until the new content is on disk.
func writeFile(file string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// WriteFile is writeFile for other packages' secrets: mode 0600.
func WriteFile(file string, data []byte) error { return writeFile(file, data, 0o600) }

package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
)

// minRSA is what NIST SP 800-131A still allows.
const minRSA = 2048

var (
	errNoPEM    = errors.New("no PEM certificate")
	errMorePEM  = errors.New("more than one PEM certificate")
	errWeakKey  = errors.New("the public key is too weak: use ECDSA P-256 or better, Ed25519, or RSA with at least 2048 bits")
	errEmptyKey = errors.New("no PEM key")
)

// checkStrength refuses keys that nobody should rely on.
func checkStrength(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= 256 {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSA {
			return nil
		}
	}
	return errWeakKey
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

// parseCert takes exactly one certificate and nothing else: what follows would
// be trusted unseen by whoever reads the same bytes as a pool.
func parseCert(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
		return nil, errNoPEM
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errMorePEM
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

// ReadKey reads what WriteKey wrote, and the older forms that other tools
// write. The file must be its owner's alone.
func ReadKey(file string) (crypto.Signer, error) {
	data, err := readPrivate(file)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, broken(file, err)
	}
	return key, nil
}

func broken(file string, err error) error {
	return fmt.Errorf("%s is broken: restore it from a backup: %w", file, err)
}

func readPrivate(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): make sure that nobody has copied it, then run chmod 600 %s", file, st.Mode().Perm(), file)
	}
	return data, nil
}

func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errEmptyKey
	}
	key, err := parseBlock(block)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errEmptyKey
	}
	return signer, nil
}

// parseBlock reads a key, private or public.
func parseBlock(block *pem.Block) (key any, err error) {
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, err
	}
	public := key
	if signer, ok := key.(crypto.Signer); ok {
		public = signer.Public()
	}
	return key, checkStrength(public)
}

// WriteKey stores a key that only root may read.
func WriteKey(file string, key crypto.Signer) error {
	data, err := EncodeKey(key)
	if err != nil {
		return err
	}
	return writeFile(file, data, 0o600)
}

// OpenSigningKeys reads the keys of service account tokens, or makes one. The
// file holds them in PEM: the first, a private one, signs; those that follow,
// private or public, only check what they have signed.
func OpenSigningKeys(file string) ([]any, error) {
	keys, err := ReadSigningKeys(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return []any{k}, WriteKey(file, k)
}

// ReadSigningKeys reads what OpenSigningKeys has made or somebody has added to.
func ReadSigningKeys(file string) ([]any, error) {
	data, err := readPrivate(file)
	if err != nil {
		return nil, err
	}
	var keys []any
	for len(bytes.TrimSpace(data)) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, broken(file, errEmptyKey)
		}
		k, err := parseBlock(block)
		if err != nil {
			return nil, broken(file, err)
		}
		keys, data = append(keys, k), rest
	}
	if len(keys) == 0 {
		return nil, broken(file, errEmptyKey)
	}
	return keys, nil
}

// writeFile is atomic: what was there stays until the new content is on disk.
func writeFile(file string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), unfinished)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// unfinished files are what a crash leaves of writeFile.
const unfinished = ".tmp-*"

// sweep removes what a crash left in a directory of ours.
func sweep(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, unfinished))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// syncDir makes a rename last through a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// WriteFile is writeFile for other packages' secrets: mode 0600.
func WriteFile(file string, data []byte) error { return writeFile(file, data, 0o600) }

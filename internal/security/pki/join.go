package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// A join token names the CA by its hash, so that an agent trusts the right
// server, and carries a bootstrap token: knarr1.<sha256>.<id>.<secret>.
const joinPrefix = "knarr1"

var (
	errJoinToken = errors.New("a join token has the form knarr1.<hash>.<id>.<secret>: print one on the server with `knarr token create`")
	errOtherCA   = errors.New("the server's CA is not the one that the token was made for: either the token is of another cluster, or somebody sits in between")
	joinPattern  = regexp.MustCompile(`^knarr1\.([0-9a-f]{64})\.([a-z0-9]{6})\.([a-z0-9]{16})$`)
)

// JoinToken is a parsed one. Its String hides the secret.
type JoinToken struct {
	CAHash string
	ID     string
	secret string
}

func (t JoinToken) String() string {
	return strings.Join([]string{joinPrefix, t.CAHash, t.ID, "…"}, ".")
}

// Format prints String whatever the verb is: no log line ever holds the secret.
func (t JoinToken) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// Bearer is the bootstrap token as it goes into the Authorization header.
func (t JoinToken) Bearer() string { return t.ID + "." + t.secret }

// FormatJoinToken makes the token for a CA certificate in PEM.
func FormatJoinToken(caPEM []byte, id, secret string) (string, error) {
	cert, err := parseCert(caPEM)
	if err != nil {
		return "", fmt.Errorf("CA certificate: %w", err)
	}
	token := strings.Join([]string{joinPrefix, hashOf(cert), id, secret}, ".")
	if !joinPattern.MatchString(token) {
		return "", errJoinToken
	}
	return token, nil
}

// ParseJoinToken reads one. The error never holds the token.
func ParseJoinToken(s string) (JoinToken, error) {
	m := joinPattern.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return JoinToken{}, errJoinToken
	}
	return JoinToken{CAHash: m[1], ID: m[2], secret: m[3]}, nil
}

// VerifyCA reports whether a server's answer is the CA certificate that the
// token names, and nothing but that: the answer comes from somebody who is not
// known yet, and will be trusted as a whole.
func (t JoinToken) VerifyCA(caPEM []byte) error {
	cert, err := parseCert(caPEM)
	if err != nil {
		return fmt.Errorf("%w (%v)", errOtherCA, err)
	}
	if subtle.ConstantTimeCompare([]byte(hashOf(cert)), []byte(t.CAHash)) != 1 || !bytes.Equal(bytes.TrimSpace(caPEM), bytes.TrimSpace(EncodeCert(cert.Raw))) {
		return errOtherCA
	}
	return nil
}

func hashOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

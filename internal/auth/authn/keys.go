package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

var errKeys = errors.New("authn: service account tokens are signed with the first key: it has to be a private one, RSA or ECDSA P-256, P-384 or P-521, and so have the others")

// Keys sign and check service account tokens. They are immutable: who rotates
// them makes others.
type Keys struct {
	signer crypto.Signer
	method jwt.SigningMethod
	order  []string // key ids; the one that signs stands first
	public map[string]publicKey
}

type publicKey struct {
	key    crypto.PublicKey
	method jwt.SigningMethod
}

// NewKeys takes private and public keys: the first signs, all of them check.
func NewKeys(keys ...any) (*Keys, error) {
	ks := &Keys{public: map[string]publicKey{}}
	for i, k := range keys {
		public := crypto.PublicKey(k)
		signer, private := k.(crypto.Signer)
		if private {
			public = signer.Public()
		}
		method := methodOf(public)
		if method == nil || i == 0 && !private {
			return nil, errKeys
		}
		id, err := keyID(public)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			ks.signer, ks.method = signer, method
		}
		if _, known := ks.public[id]; !known {
			ks.order, ks.public[id] = append(ks.order, id), publicKey{public, method}
		}
	}
	if ks.signer == nil {
		return nil, errKeys
	}
	return ks, nil
}

// Same reports whether both are the same keys in the same order.
func (ks *Keys) Same(other *Keys) bool { return slices.Equal(ks.order, other.order) }

func methodOf(k crypto.PublicKey) jwt.SigningMethod {
	switch k := k.(type) {
	case *rsa.PublicKey:
		return jwt.SigningMethodRS256
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return jwt.SigningMethodES256
		case elliptic.P384():
			return jwt.SigningMethodES384
		case elliptic.P521():
			return jwt.SigningMethodES512
		}
	}
	return nil
}

// keyID is the hash of the public key, as upstream's.
func keyID(k crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

func (ks *Keys) sign(c jwt.Claims) (string, error) {
	token := jwt.NewWithClaims(ks.method, c)
	token.Header["kid"] = ks.order[0]
	return token.SignedString(ks.signer)
}

// candidates to check a token with. Those of before there were key ids name
// none: any key may have signed them.
func (ks *Keys) candidates(j *jwt.Token) (any, error) {
	if id, named := j.Header["kid"]; named {
		name, _ := id.(string)
		if k, ok := ks.public[name]; ok && k.method == j.Method {
			return k.key, nil
		}
		return nil, errNoKey
	}
	var set jwt.VerificationKeySet
	for _, id := range ks.order {
		if k := ks.public[id]; k.method == j.Method {
			set.Keys = append(set.Keys, k.key)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errNoKey
	}
	return set, nil
}

// jwk is a public key as RFC 7517 and RFC 7518, 6.2 and 6.3 write it.
func (k publicKey) jwk(id string) (map[string]string, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	out := map[string]string{"use": "sig", "kid": id, "alg": k.method.Alg()}
	switch p := k.key.(type) {
	case *rsa.PublicKey:
		out["kty"], out["n"], out["e"] = "RSA", b64(p.N.Bytes()), b64(big.NewInt(int64(p.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := p.Bytes() // 4, x, y: coordinates of fixed length
		if err != nil {
			return nil, err
		}
		half := (len(point) - 1) / 2
		out["kty"], out["crv"], out["x"], out["y"] = "EC", p.Curve.Params().Name, b64(point[1:1+half]), b64(point[1+half:])
	}
	return out, nil
}

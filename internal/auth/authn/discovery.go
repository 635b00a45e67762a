package authn

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// Paths of the OIDC documents.
const (
	keysPath   = "/openid/v1/jwks"
	configPath = "/.well-known/openid-configuration"
)

// Discovery serves the OIDC documents by which others check our tokens, by
// path.
func (t *Tokens) Discovery() (map[string]http.Handler, error) {
	keys := []map[string]string{}
	ids := make([]string, 0, len(t.keys))
	for id := range t.keys {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { // the one that signs stands first
		switch {
		case a == t.keyID:
			return -1
		case b == t.keyID:
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, id := range ids {
		k, err := publicJWK(id, t.keys[id])
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	jwks, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"issuer": t.cfg.Issuer, "jwks_uri": strings.TrimSuffix(t.cfg.Issuer, "/") + keysPath, "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"}})
	if err != nil {
		return nil, err
	}
	return map[string]http.Handler{keysPath: document("application/jwk-set+json", jwks), configPath: document("application/json", config)}, nil
}

// publicJWK is RFC 7518, 6.2.1: coordinates of fixed length.
func publicJWK(id string, k *ecdsa.PublicKey) (map[string]string, error) {
	point, err := k.Bytes() // 4, x, y
	if err != nil {
		return nil, err
	}
	half := (len(point) - 1) / 2
	b64 := base64.RawURLEncoding.EncodeToString
	return map[string]string{"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256", "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}, nil
}

func document(contentType string, data []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(data)
	})
}

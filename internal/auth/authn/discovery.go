package authn

import (
	"encoding/json"
	"net/http"
	"slices"
)

// Paths of the OIDC documents.
const (
	KeysPath   = "/openid/v1/jwks"
	configPath = "/.well-known/openid-configuration"
)

// Discovery serves the OIDC documents by which others check our tokens, by
// path.
func (t *Tokens) Discovery() map[string]http.Handler {
	return map[string]http.Handler{
		KeysPath:   document("application/jwk-set+json", t.keysDocument),
		configPath: document("application/json", t.configDocument),
	}
}

func (t *Tokens) keysDocument() (any, error) {
	ks := t.keys.Load().keys
	list := make([]map[string]string, 0, len(ks.order))
	for _, id := range ks.order {
		k, err := ks.public[id].jwk(id)
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return map[string]any{"keys": list}, nil
}

func (t *Tokens) configDocument() (any, error) {
	var algs []string
	for _, k := range t.keys.Load().keys.public {
		algs = append(algs, k.method.Alg())
	}
	slices.Sort(algs)
	return struct {
		Issuer        string   `json:"issuer"`
		KeysURI       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algs          []string `json:"id_token_signing_alg_values_supported"`
	}{t.cfg.Issuers[0], t.cfg.KeysURI, []string{"id_token"}, []string{"public"}, slices.Compact(algs)}, nil
}

func document(contentType string, content func() (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		v, err := content()
		var data []byte
		if err == nil {
			data, err = json.Marshal(v)
		}
		if err != nil {
			http.Error(w, "the keys cannot be shown", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(data)
	})
}

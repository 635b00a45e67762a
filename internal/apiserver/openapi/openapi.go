// Package openapi serves the OpenAPI v3 documents of the built-in kinds. They
// are generated (generate.sh), committed compressed and unpacked only while a
// request for one is answered.
package openapi

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

//go:generate ./generate.sh

//go:embed docs
var docs embed.FS

// Handler answers /openapi/v3 (the index) and /openapi/v3/<group version>.
type Handler struct {
	index []byte
	docs  map[string]document // by path below /openapi/v3/
}

type document struct {
	compressed []byte
	hash       string // of the compressed bytes; upper-case hex, as ETag and cache key
}

// New reads the embedded documents, without unpacking them.
func New() (*Handler, error) {
	h := &Handler{docs: map[string]document{}}
	files, err := fs.ReadDir(docs, "docs")
	if err != nil {
		return nil, err
	}
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	index := map[string]entry{}
	for _, f := range files {
		data, err := docs.ReadFile("docs/" + f.Name())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(data)
		d := document{compressed: data, hash: strings.ToUpper(hex.EncodeToString(sum[:]))}
		path := strings.ReplaceAll(strings.TrimSuffix(f.Name(), ".json.zst"), "__", "/")
		h.docs[path] = d
		index[path] = entry{URL: "/openapi/v3/" + path + "?hash=" + d.hash}
	}
	h.index, err = json.Marshal(map[string]any{"paths": index})
	return h, err
}

// Document returns one group version's document as JSON ("apis/apps/v1"), or
// nil if there is none.
func (h *Handler) Document(path string) ([]byte, error) {
	d, ok := h.docs[path]
	if !ok {
		return nil, nil
	}
	r, err := zstd.NewReader(bytes.NewReader(d.compressed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out bytes.Buffer
	if _, err := r.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("cannot unpack the OpenAPI document of %s: %w", path, err)
	}
	return out.Bytes(), nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/")
	if path == "" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(h.index)
		return
	}
	d, ok := h.docs[path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	etag := `"` + d.hash + `"`
	w.Header().Set("Etag", etag)
	w.Header().Set("Vary", "Accept")
	if r.URL.Query().Get("hash") == d.hash {
		// The address names the content, so it can be kept for good.
		w.Header().Set("Cache-Control", "public, immutable")
	}
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	data, err := h.Document(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}

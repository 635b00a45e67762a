// Package openapi serves OpenAPI documents, version 3 and 2. Those of the
// built-in kinds are generated (generate.sh), committed compressed and unpacked
// only while a request for one is answered; those of custom kinds are made when
// somebody asks, and kept until the kinds change.
package openapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"knarr.dev/knarr/internal/kinds"
)

//go:generate ./generate.sh

//go:embed docs
var docs embed.FS

// Source tells which kinds there are: all, and something comparable that is
// another one as soon as they are others.
type Source func() (id any, ks []*kinds.Kind)

// Remote are other API servers whose documents stand beside ours. Its methods
// take as long as a client may wait, whatever the servers do.
type Remote interface {
	// Third maps paths of documents of version 3 to their URLs on this server,
	// which somebody else answers.
	Third(ctx context.Context) map[string]string
	// Second are the documents of version 2.
	Second(ctx context.Context) []Foreign
}

// Foreign is another server's document of version 2, of which only the paths
// below Prefix count. Documents of one ETag are the same.
type Foreign struct {
	Prefix, ETag string
	Body         []byte
}

// Handler answers /openapi/v3 (the index), /openapi/v3/<group version> and
// /openapi/v2.
type Handler struct {
	source  Source
	remote  func() Remote       // may return nil: there are no other servers
	builtin map[string]document // by path below /openapi/v3/

	mu    sync.Mutex
	id    any // of what follows
	all   map[string]document
	whole *second // version 2; nil: nobody has asked
	made  string  // of which foreign documents whole was made
}

type document struct {
	compressed []byte
	hash       string // of the compressed bytes; upper-case hex, as ETag and cache key
}

func newDocument(compressed []byte) document {
	sum := sha256.Sum256(compressed)
	return document{compressed: compressed, hash: strings.ToUpper(hex.EncodeToString(sum[:]))}
}

// New reads the embedded documents, without unpacking them. source may be nil:
// then there are the built-in kinds only. So may remote, and what it returns.
func New(source Source, remote func() Remote) (*Handler, error) {
	if remote == nil {
		remote = func() Remote { return nil }
	}
	if source == nil {
		source = func() (any, []*kinds.Kind) { return 0, nil }
	}
	h := &Handler{source: source, remote: remote, builtin: map[string]document{}}
	files, err := fs.ReadDir(docs, "docs")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		data, err := docs.ReadFile("docs/" + f.Name())
		if err != nil {
			return nil, err
		}
		path := strings.ReplaceAll(strings.TrimSuffix(f.Name(), ".json.zst"), "__", "/")
		h.builtin[path] = newDocument(data)
	}
	return h, nil
}

// documents of version 3 as they are now, by path; h.mu is held.
func (h *Handler) documents() (map[string]document, error) {
	id, ks := h.source()
	if h.all != nil && h.id == id {
		return h.all, nil
	}
	custom, err := h.custom(ks)
	if err != nil {
		return nil, err
	}
	maps.Copy(custom, h.builtin)
	h.id, h.all, h.whole = id, custom, nil
	return h.all, nil
}

func (h *Handler) current() (map[string]document, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.documents()
}

// Document returns one group version's document as JSON ("apis/apps/v1"), or
// nil if there is none.
func (h *Handler) Document(path string) ([]byte, error) {
	all, err := h.current()
	if err != nil {
		return nil, err
	}
	d, ok := all[path]
	if !ok {
		return nil, nil
	}
	data, err := unpack(d.compressed)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack the OpenAPI document of %s: %w", path, err)
	}
	return data, nil
}

func unpack(compressed []byte) ([]byte, error) {
	r, err := zstd.NewReader(bytes.NewReader(compressed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out bytes.Buffer
	if _, err := r.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func pack(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	if strings.HasPrefix(r.URL.Path, "/openapi/v2") {
		err = h.serveV2(w, r)
	} else if path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/"); path == "" {
		err = h.serveIndex(w, r)
	} else {
		err = h.serveDocument(w, r, path)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (h *Handler) serveIndex(w http.ResponseWriter, r *http.Request) error {
	all, err := h.current()
	if err != nil {
		return err
	}
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	index := map[string]entry{}
	if remote := h.remote(); remote != nil {
		for path, url := range remote.Third(r.Context()) {
			index[path] = entry{URL: url}
		}
	}
	_, ks := h.source()
	for path, d := range all {
		if _, theirs := index[path]; theirs && yields(ks, path) {
			continue
		}
		index[path] = entry{URL: "/openapi/v3/" + path + "?hash=" + d.hash}
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(map[string]any{"paths": index})
}

// yields: what the document is of, another server may answer in our place.
func yields(ks []*kinds.Kind, path string) bool {
	return slices.ContainsFunc(ks, func(k *kinds.Kind) bool { return k.Measured && Path(k.GVK.GroupVersion()) == path })
}

func (h *Handler) serveDocument(w http.ResponseWriter, r *http.Request, path string) error {
	all, err := h.current()
	if err != nil {
		return err
	}
	d, ok := all[path]
	if !ok {
		http.NotFound(w, r)
		return nil
	}
	w.Header().Set("Vary", "Accept")
	if r.URL.Query().Get("hash") == d.hash {
		// The address names the content, so it can be kept for good.
		w.Header().Set("Cache-Control", "public, immutable")
	}
	return answer(w, r, d, "application/json")
}

// answer sends a document, unless the client has it.
func answer(w http.ResponseWriter, r *http.Request, d document, contentType string) error {
	etag := `"` + d.hash + `"`
	w.Header().Set("Etag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	data, err := unpack(d.compressed)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(data) // a client that is gone is no error of ours
	return nil
}

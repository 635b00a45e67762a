package imagestore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// content is an image as its manifest and configuration describe it, checked
// against the limits. Nothing of its layers has been seen yet.
type content struct {
	id     string
	config []byte
	user   string
	size   int64
	blobs  []v1.Descriptor // the layers as they are transferred
	diffs  []string        // their digests unpacked
	chains []string        // the digests of each with all below it
}

// unfit is an image or a layer that cannot be taken.
func unfit(format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, format, args...)
}

// document is a manifest or an index. Both are read at once, so that nothing
// can be one to us and the other to somebody else.
type document struct {
	MediaType types.MediaType `json:"mediaType"`
	Config    v1.Descriptor   `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Manifests []v1.Descriptor `json:"manifests"`
	History   []any           `json:"history"`
	FSLayers  []any           `json:"fsLayers"`
}

// parse reads a document that was sent as a media type.
func parse(data []byte, sent types.MediaType) (document, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return d, unfit("the manifest cannot be read: %v", err)
	}
	sent, _, _ = cutParams(sent)
	if d.MediaType != "" && (sent.IsImage() || sent.IsIndex()) && d.MediaType != sent {
		return d, unfit("the manifest was sent as %s and says that it is %s", sent, d.MediaType)
	}
	switch {
	case len(d.FSLayers) > 0 || sent.IsSchema1():
		return d, unfit("the manifest is of Docker's schema 1, which nobody may trust; push the image anew")
	case d.Manifests != nil && (d.Layers != nil || d.Config.Digest != v1.Hash{}):
		return d, unfit("the manifest is an index too")
	case d.Manifests == nil && d.Config.Digest == v1.Hash{}:
		return d, unfit("%s is no image: it has neither a configuration nor manifests", orElse(string(sent), "the document"))
	}
	return d, nil
}

func cutParams(t types.MediaType) (types.MediaType, string, bool) {
	a, b, ok := strings.Cut(string(t), ";")
	return types.MediaType(strings.TrimSpace(a)), b, ok
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// choose takes the manifest for this machine out of an index.
func choose(list []v1.Descriptor) (v1.Descriptor, error) {
	var offered []string
	best, rank := v1.Descriptor{}, 0
	for _, d := range list {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
			continue
		}
		if r := fit(d.Platform); r > rank {
			best, rank = d, r
		}
		if d.Platform != nil {
			offered = append(offered, d.Platform.String())
		}
	}
	if rank == 0 {
		return best, status.Errorf(codes.NotFound, "not found: no match for platform linux/%s in the index; it has %s", runtime.GOARCH, orElse(strings.Join(offered, ", "), "none"))
	}
	return best, nil
}

// variants of an architecture that this machine's programs may use, best
// first: of ARM the one that GOARM promises at least.
var variants = map[string][]string{
	"amd64": {"", "v1"}, "arm64": {"v8", ""}, "arm": {"v7", "", "v6", "v5"},
}

// fit ranks a platform, 0 being of no use. A manifest that names none may fit.
func fit(p *v1.Platform) int {
	if p == nil || p.OS == "" && p.Architecture == "" {
		return 1
	}
	if p.OS != "linux" || p.Architecture != runtime.GOARCH {
		return 0
	}
	list, ok := variants[runtime.GOARCH]
	if !ok {
		list = []string{""}
	}
	i := slices.Index(list, p.Variant)
	if i < 0 {
		return 0
	}
	return 2 + len(list) - i
}

// describe checks a manifest with its configuration.
func (l Limits) describe(m document, config []byte) (content, error) {
	c := content{id: digestOf(config), config: config, blobs: m.Layers, size: m.Config.Size}
	var cfg v1.ConfigFile
	if err := json.Unmarshal(config, &cfg); err != nil {
		return c, unfit("the configuration cannot be read: %v", err)
	}
	if cfg.OS != "" || cfg.Architecture != "" {
		if fit(&v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}) == 0 {
			return c, status.Errorf(codes.NotFound, "not found: no match for platform linux/%s: the image is for %s/%s", runtime.GOARCH, cfg.OS, cfg.Architecture)
		}
	}
	c.user = cfg.Config.User
	if len(c.blobs) > l.Layers {
		return c, unfit("the image has %d layers, more than %d", len(c.blobs), l.Layers)
	}
	if len(c.blobs) != len(cfg.RootFS.DiffIDs) {
		return c, unfit("the manifest has %d layers and the configuration %d", len(c.blobs), len(cfg.RootFS.DiffIDs))
	}
	for i, b := range c.blobs {
		if err := layerType(b.MediaType); err != nil {
			return c, err
		}
		if b.Size < 0 || b.Size > l.Compressed || c.size > l.Compressed {
			return c, unfit("the image has more than %d bytes", l.Compressed)
		}
		diff := cfg.RootFS.DiffIDs[i]
		if b.Digest.Algorithm != "sha256" || diff.Algorithm != "sha256" {
			return c, unfit("layer %s: only sha256 digests are verified, so none else is taken", b.Digest)
		}
		c.size += b.Size
		c.diffs = append(c.diffs, diff.String())
		chain := diff.String()
		if i > 0 {
			chain = digestOf([]byte(c.chains[i-1] + " " + chain))
		}
		c.chains = append(c.chains, chain)
	}
	return c, nil
}

func layerType(t types.MediaType) error {
	switch t {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.DockerUncompressedLayer,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":
		return nil
	}
	if !t.IsDistributable() {
		return unfit("the image has a foreign layer (%s), which its registry does not hold: such images are not supported", t)
	}
	return unfit("the image has a layer of type %q, which is none of a container image", t)
}

// configType refuses artifacts that are no images.
func configType(t types.MediaType) error {
	switch t {
	case types.OCIConfigJSON, types.DockerConfigJSON, "":
		return nil
	}
	return unfit("it is an artifact (%s), not a container image: such are not supported", t)
}

// readDocument reads a manifest or configuration of bounded size and checks it
// against the digest that it is known by; size is -1 when unknown.
func (l Limits) readDocument(r io.Reader, digest string, size int64) ([]byte, error) {
	if size > l.Metadata {
		return nil, unfit("%s has %d bytes, more than %d", orElse(digest, "the manifest"), size, l.Metadata)
	}
	data, err := io.ReadAll(io.LimitReader(r, l.Metadata+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > l.Metadata:
		return nil, unfit("%s has more than %d bytes", orElse(digest, "the manifest"), l.Metadata)
	case size >= 0 && int64(len(data)) != size:
		return nil, unfit("%s has %d bytes instead of %d", digest, len(data), size)
	case digest != "" && digestOf(data) != digest:
		return nil, unfit("%s came with digest %s", digest, digestOf(data))
	}
	return data, nil
}

// verified reads a blob and at its end says whether it was what was wanted.
type verified struct {
	r      io.Reader
	hash   interface{ Sum([]byte) []byte }
	digest string
	size   int64 // -1 if it does not matter
	n      int64
}

func verify(r io.Reader, digest string, size int64) *verified {
	h := sha256.New()
	return &verified{r: io.TeeReader(r, h), hash: h, digest: digest, size: size}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.n += int64(n)
	if v.size >= 0 && v.n > v.size {
		return n, unfit("%s has more than its %d bytes", v.digest, v.size)
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if v.size >= 0 && v.n != v.size {
		return n, unfit("%s ends after %d of %d bytes", v.digest, v.n, v.size)
	}
	if got := "sha256:" + hex.EncodeToString(v.hash.Sum(nil)); got != v.digest {
		return n, unfit("%s has digest %s", v.digest, got)
	}
	return n, io.EOF
}

package imagestore

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"knarr.dev/knarr/internal/runtime/ociarchive"
)

// Import takes over the images of an archive and answers their names.
func (s *Store) Import(ctx context.Context, archive string) ([]string, error) {
	if err := s.running(); err != nil {
		return nil, err
	}
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := s.importFrom(ctx, f)
	if err != nil {
		return names, fmt.Errorf("%s: %w", archive, err)
	}
	return names, nil
}

func (s *Store) importFrom(ctx context.Context, f ociarchive.File) (names []string, err error) {
	a, err := ociarchive.Read(f)
	if err != nil {
		return nil, err
	}
	list, err := a.Images()
	if err != nil {
		return nil, err
	}
	for _, im := range list {
		if im.Names, err = normalize(im.Names); err != nil {
			return names, err
		}
		if err := s.importImage(ctx, a, im); err != nil {
			return names, fmt.Errorf("image %s: %w", im.Names[0], err)
		}
		names = append(names, im.Names...)
	}
	return names, nil
}

func normalize(names []string) ([]string, error) {
	out := slices.Clone(names)
	for i, n := range names {
		named, err := reference.ParseDockerRef(n)
		if err != nil {
			return nil, fmt.Errorf("image name %q: %w", n, err)
		}
		if _, ok := named.(reference.Tagged); !ok {
			return nil, fmt.Errorf("image name %q has no tag", n)
		}
		out[i] = named.String()
	}
	return out, nil
}

func (s *Store) importImage(ctx context.Context, a *ociarchive.Archive, im ociarchive.Image) error {
	c, open, err := s.archived(a, im)
	if err != nil {
		return err
	}
	defer s.hold(c.chains)()
	if err := s.obtain(ctx, c, open); err != nil {
		return err
	}
	slices.Sort(im.Names)
	return s.add(record{ID: c.id, Tags: im.Names, Layers: c.chains, Size: c.size, User: c.user}, c.config)
}

// archived reads the metadata of an image, and says how its layers are read.
func (s *Store) archived(a *ociarchive.Archive, im ociarchive.Image) (content, opener, error) {
	if im.Digest == "" {
		return s.savedByDocker(a, im)
	}
	d := v1.Descriptor{MediaType: types.MediaType(im.MediaType), Size: -1}
	if err := d.Digest.UnmarshalText([]byte(im.Digest)); err != nil {
		return content{}, nil, err
	}
	var indexes int64
	for range maxIndexes + 1 {
		data, err := s.blobOf(a, d)
		if err != nil {
			return content{}, nil, err
		}
		indexes += int64(len(data))
		m, err := parse(data, d.MediaType)
		if err != nil {
			return content{}, nil, err
		}
		if m.Manifests == nil {
			c, err := s.configured(a, m)
			c.size += indexes
			return c, func(_ context.Context, i int) (io.ReadCloser, error) { return layerOf(a, c.blobs[i]) }, err
		}
		if d, err = choose(m.Manifests); err != nil {
			return content{}, nil, err
		}
	}
	return content{}, nil, unfit("there are more than %d indexes one in the other", maxIndexes)
}

func (s *Store) configured(a *ociarchive.Archive, m document) (content, error) {
	if err := configType(m.Config.MediaType); err != nil {
		return content{}, err
	}
	config, err := s.blobOf(a, m.Config)
	if err != nil {
		return content{}, err
	}
	return s.cfg.Limits.describe(m, config)
}

func (s *Store) blobOf(a *ociarchive.Archive, d v1.Descriptor) ([]byte, error) {
	r, err := a.Blob(d.Digest.String())
	if err != nil {
		return nil, err
	}
	return s.cfg.Limits.readDocument(r, d.Digest.String(), d.Size)
}

// layerOf reads a layer where it lies; what has been unpacked of it is thrown
// away if its digest is wrong at the end.
func layerOf(a *ociarchive.Archive, d v1.Descriptor) (io.ReadCloser, error) {
	r, err := a.Blob(d.Digest.String())
	if err != nil {
		return nil, err
	}
	return io.NopCloser(verify(r, d.Digest.String(), d.Size)), nil
}

// savedByDocker reads docker save's own list, which has no digests: what the
// configuration says of the unpacked layers is what is verified.
func (s *Store) savedByDocker(a *ociarchive.Archive, im ociarchive.Image) (content, opener, error) {
	r, err := a.File(im.Config)
	if err != nil {
		return content{}, nil, err
	}
	config, err := s.cfg.Limits.readDocument(r, "", -1)
	if err != nil {
		return content{}, nil, err
	}
	var cfg v1.ConfigFile
	if err := json.Unmarshal(config, &cfg); err != nil {
		return content{}, nil, unfit("the configuration cannot be read: %v", err)
	}
	if len(cfg.RootFS.DiffIDs) != len(im.Layers) {
		return content{}, nil, unfit("the archive has %d layers and the configuration %d", len(im.Layers), len(cfg.RootFS.DiffIDs))
	}
	m := document{Config: v1.Descriptor{Size: int64(len(config))}}
	for i, name := range im.Layers {
		f, err := a.File(name)
		if err != nil {
			return content{}, nil, err
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.DockerUncompressedLayer, Size: f.Size(), Digest: cfg.RootFS.DiffIDs[i]})
	}
	c, err := s.cfg.Limits.describe(m, config)
	return c, func(_ context.Context, i int) (io.ReadCloser, error) {
		f, err := a.File(im.Layers[i])
		return io.NopCloser(f), err
	}, err
}

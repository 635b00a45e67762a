package imagestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pullKey tells pulls apart: who has other credentials has another pull, and is
// judged by the registry.
type pullKey struct {
	name string
	auth credentials
}

// pull fetches what a name stands for. The registry is always asked, even if
// the image is here: it says whether these credentials may have it.
func (s *Store) pull(ctx context.Context, key pullKey, named reference.Named) (string, error) {
	list, err := sources(s.cfg.Registries, named, key.auth)
	if err != nil {
		return "", err
	}
	defer func() {
		for _, src := range list {
			src.close()
		}
	}()
	var errs []error
	for i, src := range list {
		f := fetcher{Store: s, first: src, others: list[i+1:]}
		top, c, err := f.resolve(ctx, referenceOf(named))
		if err == nil {
			return c.id, f.fetch(ctx, named, top, c)
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		errs = append(errs, fmt.Errorf("%s: %w", src.base, err))
	}
	if len(errs) == 1 {
		return "", errors.Unwrap(errs[0])
	}
	// The registry itself comes last; it is the one whose word counts.
	return "", fmt.Errorf("%w (before, mirrors: %v)", errors.Unwrap(errs[len(errs)-1]), errors.Join(errs[:len(errs)-1]...))
}

// referenceOf is what a manifest is asked for by.
func referenceOf(named reference.Named) string {
	if d, ok := named.(reference.Digested); ok {
		return d.Digest().String()
	}
	return named.(reference.Tagged).Tag()
}

// fetcher fetches one image, from the source that knew its name first.
type fetcher struct {
	*Store
	first  *source
	others []*source
}

// acceptable are the manifests that are understood.
var acceptable = strings.Join([]string{string(types.OCIManifestSchema1), string(types.OCIImageIndex), string(types.DockerManifestSchema2), string(types.DockerManifestList)}, ", ")

// maxIndexes is how many indexes may stand one in the other.
const maxIndexes = 3

// resolve follows a name to the image for this machine. top is the digest that
// the name stands for.
func (f fetcher) resolve(ctx context.Context, ref string) (top string, c content, err error) {
	digest, size, indexes := "", int64(-1), int64(0)
	if strings.Contains(ref, ":") {
		digest = ref
	}
	for range maxIndexes + 1 {
		data, sent, err := f.manifest(ctx, ref, digest, size)
		if err != nil {
			return "", c, err
		}
		if top == "" {
			top = digestOf(data)
		}
		indexes += int64(len(data))
		m, err := parse(data, sent)
		if err != nil {
			return "", c, err
		}
		if m.Manifests == nil {
			c, err = f.configure(ctx, m)
			c.size += indexes
			return top, c, err
		}
		next, err := choose(m.Manifests)
		if err != nil {
			return "", c, err
		}
		digest, size = next.Digest.String(), next.Size
		ref = digest
	}
	return "", c, unfit("there are more than %d indexes one in the other", maxIndexes)
}

func (f fetcher) configure(ctx context.Context, m document) (content, error) {
	if err := configType(m.Config.MediaType); err != nil {
		return content{}, err
	}
	var config []byte
	err := f.document(ctx, "blobs/"+m.Config.Digest.String(), nil, func(resp *http.Response, body io.Reader) (err error) {
		config, err = f.cfg.Limits.readDocument(body, m.Config.Digest.String(), m.Config.Size)
		return err
	})
	if err != nil {
		return content{}, err
	}
	return f.cfg.Limits.describe(m, config)
}

func (f fetcher) manifest(ctx context.Context, ref, digest string, size int64) (data []byte, sent types.MediaType, err error) {
	err = f.document(ctx, "manifests/"+ref, http.Header{"Accept": {acceptable}}, func(resp *http.Response, body io.Reader) (err error) {
		sent = types.MediaType(resp.Header.Get("Content-Type"))
		data, err = f.cfg.Limits.readDocument(body, digest, size)
		return err
	})
	return data, sent, err
}

// document fetches something small from the first source.
func (f fetcher) document(ctx context.Context, what string, header http.Header, read func(*http.Response, io.Reader) error) error {
	return retry(ctx, func() error {
		return watched(ctx, f.cfg.Progress, func(ctx context.Context, tick func()) error {
			resp, err := f.first.get(ctx, f.cfg.Progress, what, header, http.StatusOK)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			return read(resp, ticking{resp.Body, tick})
		})
	})
}

// fetch brings the layers and makes the image known.
func (f fetcher) fetch(ctx context.Context, named reference.Named, top string, c content) error {
	defer f.hold(c.chains)()
	if err := f.obtain(ctx, c, func(ctx context.Context, i int) (io.ReadCloser, error) { return f.blob(ctx, c.blobs[i]) }); err != nil {
		return err
	}
	r := record{ID: c.id, Digests: []string{named.Name() + "@" + top}, Layers: c.chains, Size: c.size, User: c.user}
	if _, ok := named.(reference.Tagged); ok {
		r.Tags = []string{named.String()}
	}
	return f.add(r, c.config)
}

// blob downloads a layer into a file that has no name, so that nothing is left
// whatever happens. What it returns is what the digest says.
func (f fetcher) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	release, err := acquire(ctx, f.downloads)
	if err != nil {
		return nil, err
	}
	defer release()
	file, err := os.CreateTemp(f.path("tmp"), "blob-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	for _, src := range append([]*source{f.first}, f.others...) {
		if err = f.download(ctx, src, d, file); err == nil || ctx.Err() != nil || noSpace(err) != nil {
			break
		}
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// download fetches a blob from one source. After an interruption it goes on
// where it was.
func (f fetcher) download(ctx context.Context, src *source, d v1.Descriptor, file *os.File) error {
	t := transfer{file: file, size: d.Size}
	if err := t.restart(); err != nil {
		return err
	}
	err := retry(ctx, func() error {
		return watched(ctx, f.cfg.Progress, func(ctx context.Context, tick func()) error {
			header := http.Header{}
			if t.done > 0 {
				header.Set("Range", fmt.Sprintf("bytes=%d-", t.done))
			}
			resp, err := src.get(ctx, f.cfg.Progress, "blobs/"+d.Digest.String(), header, http.StatusOK, http.StatusPartialContent)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if t.done > 0 && !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", t.done)) {
				if err := t.restart(); err != nil { // it sends all of it again
					return err
				}
			}
			return t.copy(ticking{resp.Body, tick})
		})
	})
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(t.hash.Sum(nil)); got != d.Digest.String() {
		return unfit("%s came with digest %s", d.Digest, got)
	}
	return nil
}

// transfer is a blob on its way.
type transfer struct {
	file *os.File
	hash hash.Hash
	done int64
	size int64
}

func (t *transfer) restart() error {
	t.hash, t.done = sha256.New(), 0
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return t.file.Truncate(0)
}

// copy takes what is missing, and not a byte more.
func (t *transfer) copy(r io.Reader) error {
	n, err := io.Copy(io.MultiWriter(t.file, t.hash), io.LimitReader(r, t.size-t.done))
	t.done += n
	if err != nil {
		return err
	}
	if t.done < t.size {
		return fmt.Errorf("the registry sent %d of %d bytes: %w", t.done, t.size, io.ErrUnexpectedEOF)
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 {
		return status.Errorf(codes.FailedPrecondition, "the registry sends more than the %d bytes that the manifest declares", t.size)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

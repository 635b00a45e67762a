// Package ociarchive reads images out of tar archives: OCI image layouts, as
// images/build, skopeo and ctr write them, and what docker save writes.
package ociarchive

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
)

const (
	// maxMetadata bounds the JSON documents of an archive; registries allow 4 MiB.
	maxMetadata = 4 << 20
	// maxFiles bounds an archive: an image has a few hundred files at most.
	maxFiles = 1 << 16
	// maxLinks bounds links to links.
	maxLinks = 8
)

// ErrNoFile: it is no archive of images, or it lacks a file.
var ErrNoFile = errors.New("not an OCI archive")

// File is what an archive is read from.
type File interface {
	io.ReadSeeker
	io.ReaderAt
}

// Archive that is read as far as is needed: one of images/build has its
// metadata first. Its methods may be called at the same time.
type Archive struct {
	file File

	mu    sync.Mutex
	next  *tar.Reader // stands behind what is known
	files map[string]span
	links map[string]string
	end   error // why nothing more can be known
}

type span struct{ at, size int64 }

// Image of an archive, under one name or several. Either Digest is set, or
// Config and Layers are.
type Image struct {
	Names     []string
	Digest    string // of its manifest or index
	MediaType string
	Config    string   // file of its configuration
	Layers    []string // files of its layers, bottom first
}

// Read reads an archive from its start.
func Read(f File) (*Archive, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return &Archive{file: f, next: tar.NewReader(f), files: map[string]span{}, links: map[string]string{}}, nil
}

// advance learns of one more entry. Content is skipped by seeking.
func (a *Archive) advance() error {
	h, err := a.next.Next()
	if err != nil {
		return err
	}
	if len(a.files)+len(a.links) > maxFiles {
		return fmt.Errorf("it has more than %d files", maxFiles)
	}
	name := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeReg:
		at, err := a.file.Seek(0, io.SeekCurrent) // the reader does not read ahead
		if err != nil {
			return err
		}
		if _, ok := a.files[name]; !ok {
			a.files[name] = span{at, h.Size}
		}
	case tar.TypeSymlink: // old versions of docker save store a layer once
		a.links[name] = path.Join(path.Dir(name), h.Linkname)
	case tar.TypeLink:
		a.links[name] = path.Clean(h.Linkname)
	}
	return nil
}

// File opens a file of the archive.
func (a *Archive) File(name string) (*io.SectionReader, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := path.Clean(name)
	for links := 0; ; {
		if s, ok := a.files[at]; ok {
			return io.NewSectionReader(a.file, s.at, s.size), nil
		}
		if to, ok := a.links[at]; ok && links < maxLinks {
			links++
			at = to
			continue
		}
		if a.end == nil {
			a.end = a.advance()
			continue
		}
		if errors.Is(a.end, io.EOF) {
			return nil, fmt.Errorf("%w: it has no %s", ErrNoFile, name)
		}
		return nil, fmt.Errorf("%w: %w", ErrNoFile, a.end)
	}
}

// Blob opens content by its digest, which is not verified.
func (a *Archive) Blob(digest string) (*io.SectionReader, error) {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok {
		return nil, fmt.Errorf("digest %q is malformed", digest)
	}
	return a.File(path.Join("blobs", algorithm, hex))
}

// JSON decodes a document of the archive.
func JSON(r *io.SectionReader, into any) error {
	if r.Size() > maxMetadata {
		return fmt.Errorf("a document has %d bytes, more than %d", r.Size(), maxMetadata)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// Images lists what the archive holds. docker save writes a layout since
// version 25, and its own list beside it.
func (a *Archive) Images() ([]Image, error) {
	list, err := a.layout()
	if err == nil {
		return list, nil
	}
	saved, savedErr := a.saved()
	if errors.Is(savedErr, ErrNoFile) {
		return nil, err
	}
	return saved, savedErr
}

func (a *Archive) layout() ([]Image, error) {
	f, err := a.File("index.json")
	if err != nil {
		return nil, err
	}
	var index struct {
		Manifests []struct {
			Digest      string            `json:"digest"`
			MediaType   string            `json:"mediaType"`
			Annotations map[string]string `json:"annotations"`
		} `json:"manifests"`
	}
	if err := JSON(f, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var list []Image
	for _, d := range index.Manifests {
		name := d.Annotations["io.containerd.image.name"]
		if name == "" {
			name = d.Annotations["org.opencontainers.image.ref.name"]
		}
		if name == "" {
			return nil, errors.New("an image of the archive has no name")
		}
		list = append(list, Image{Names: []string{name}, Digest: d.Digest, MediaType: d.MediaType})
	}
	if len(list) == 0 {
		return nil, errors.New("not an OCI archive: its index names no image")
	}
	return list, nil
}

func (a *Archive) saved() ([]Image, error) {
	f, err := a.File("manifest.json")
	if err != nil {
		return nil, err
	}
	var saved []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := JSON(f, &saved); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var list []Image
	for _, s := range saved {
		if len(s.RepoTags) == 0 {
			return nil, errors.New("an image of the archive has no name")
		}
		list = append(list, Image{Names: s.RepoTags, Config: s.Config, Layers: s.Layers})
	}
	if len(list) == 0 {
		return nil, errors.New("manifest.json names no image")
	}
	return list, nil
}

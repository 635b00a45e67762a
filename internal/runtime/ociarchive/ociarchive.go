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
)

const (
	// maxMetadata bounds the JSON documents of an archive; registries allow 4 MiB.
	maxMetadata = 4 << 20
	// maxFiles bounds an archive: an image has a few hundred files at most.
	maxFiles = 1 << 16
	// maxLinks bounds links to links.
	maxLinks = 8
)

// ErrNoFile: the archive does not have it.
var ErrNoFile = errors.New("not an OCI archive")

// File is what an archive is read from.
type File interface {
	io.ReadSeeker
	io.ReaderAt
}

// Archive whose table of contents has been read.
type Archive struct {
	file  File
	files map[string]span
	links map[string]string
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

// Read reads the table of contents. Content is skipped by seeking.
func Read(f File) (*Archive, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	a := &Archive{file: f, files: map[string]span{}, links: map[string]string{}}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoFile, err)
		}
		if len(a.files)+len(a.links) > maxFiles {
			return nil, fmt.Errorf("%w: it has more than %d files", ErrNoFile, maxFiles)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent) // the reader does not read ahead
			if err != nil {
				return nil, err
			}
			if _, ok := a.files[name]; !ok {
				a.files[name] = span{at, h.Size}
			}
		case tar.TypeSymlink: // old versions of docker save store a layer once
			a.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			a.links[name] = path.Clean(h.Linkname)
		}
	}
}

// File opens a file of the archive.
func (a *Archive) File(name string) (*io.SectionReader, error) {
	at := path.Clean(name)
	for range maxLinks {
		if s, ok := a.files[at]; ok {
			return io.NewSectionReader(a.file, s.at, s.size), nil
		}
		to, ok := a.links[at]
		if !ok {
			break
		}
		at = to
	}
	return nil, fmt.Errorf("%w: it has no %s", ErrNoFile, name)
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

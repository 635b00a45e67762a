package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Image that is here.
type Image struct {
	ID      string // digest of its configuration
	Tags    []string
	Digests []string
	Size    int64 // as it was transferred
	Pinned  bool
	Config  v1.ConfigFile // what to run, as whom, where

	layers []string // chain IDs, bottom first
}

// ChainID names the image's file system; "" of one without layers.
func (i Image) ChainID() string {
	if len(i.layers) == 0 {
		return ""
	}
	return i.layers[len(i.layers)-1]
}

// Get finds an image by tag, digest, ID or the beginning of its ID.
func (s *Store) Get(ref string) (Image, error) {
	r, err := s.find(ref)
	if err != nil {
		return Image{}, err
	}
	data, err := s.config(r.ID)
	if errors.Is(err, os.ErrNotExist) {
		return Image{}, fmt.Errorf("%w: %s", ErrNoImage, ref) // removed this moment
	}
	if err != nil {
		return Image{}, err
	}
	im := Image{ID: r.ID, Tags: r.Tags, Digests: r.Digests, Size: r.Size, Pinned: r.Pinned, layers: r.Layers}
	if err := json.Unmarshal(data, &im.Config); err != nil {
		return Image{}, fmt.Errorf("configuration of image %s: %w", r.ID, err)
	}
	return im, nil
}

// errAmbiguous: several images' IDs begin so.
var errAmbiguous = errors.New("several images have an ID that begins so")

func (s *Store) find(ref string) (record, error) {
	if err := s.running(); err != nil {
		return record{}, err
	}
	return find(s.all(), ref)
}

// all images by ID; not to be changed.
func (s *Store) all() map[string]record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images
}

func find(images map[string]record, ref string) (record, error) {
	if r, ok := images[ref]; ok {
		return r, nil
	}
	if named, err := reference.ParseDockerRef(ref); err == nil {
		name := named.String()
		for _, r := range images {
			if slices.Contains(r.Tags, name) || slices.Contains(r.Digests, name) {
				return r, nil
			}
		}
	}
	prefix := strings.TrimPrefix(ref, "sha256:")
	var found []record
	for id, r := range images {
		if prefix != "" && strings.HasPrefix(encoded(id), prefix) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return record{}, fmt.Errorf("%w: %s", ErrNoImage, ref)
	case 1:
		return found[0], nil
	}
	return record{}, fmt.Errorf("%w: %s", errAmbiguous, ref)
}

// change replaces the images: on the disk, then in memory.
func (s *Store) change(edit func(map[string]record)) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.changeLocked(edit)
}

func (s *Store) changeLocked(edit func(map[string]record)) error {
	old := s.all()
	next := maps.Clone(old)
	edit(next)
	data, err := json.Marshal(slices.SortedFunc(maps.Values(next), func(a, b record) int { return strings.Compare(a.ID, b.ID) }))
	if err != nil {
		return err
	}
	if err := s.write(s.path("images.json"), data); err != nil {
		return fmt.Errorf("cannot write down the images: %w", err)
	}
	s.mu.Lock()
	s.images = next
	s.mu.Unlock()
	for id := range old {
		if _, ok := next[id]; !ok {
			s.remove(s.path("configs", encoded(id)))
		}
	}
	return nil
}

// add makes an image known whose layers are all held. A name that another
// image had is this one's from now on.
func (s *Store) add(r record, config []byte) error {
	if _, ok := s.all()[r.ID]; !ok {
		if err := s.syncfs(); err != nil { // its layers, before anything refers to them
			return err
		}
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if _, ok := s.all()[r.ID]; !ok {
		if err := s.write(s.path("configs", encoded(r.ID)), config); err != nil {
			return err
		}
	}
	return s.changeLocked(func(images map[string]record) {
		for id, other := range images {
			if id != r.ID {
				other.Tags, other.Digests = without(other.Tags, r.Tags), without(other.Digests, r.Digests)
				images[id] = other
			}
		}
		if before, ok := images[r.ID]; ok {
			r.Tags, r.Digests = union(before.Tags, r.Tags), union(before.Digests, r.Digests)
			r.Size, r.Pinned = before.Size, before.Pinned
		}
		images[r.ID] = r
	})
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

func without(list, taken []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return slices.Contains(taken, n) })
}

func (s *Store) syncfs() error {
	dir, err := os.Open(s.cfg.Root)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return nil
}

// Pin marks an image as one that nobody should collect, or takes that back.
func (s *Store) Pin(ref string, pinned bool) error {
	r, err := s.find(ref)
	if err != nil || r.Pinned == pinned {
		return err
	}
	return s.change(func(images map[string]record) {
		if now, ok := images[r.ID]; ok {
			now.Pinned = pinned
			images[r.ID] = now
		}
	})
}

// Remove forgets an image, by all its names. Its layers stay for as long as
// other images or containers have them.
func (s *Store) Remove(ref string) error {
	r, err := s.find(ref)
	if err != nil {
		return err
	}
	err = s.change(func(images map[string]record) { delete(images, r.ID) })
	s.collect()
	return err
}

// hold keeps layers from being collected until the returned function is called.
func (s *Store) hold(chains []string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range chains {
		s.holds[c]++
	}
	return func() {
		s.mu.Lock()
		for _, c := range chains {
			if s.holds[c]--; s.holds[c] == 0 {
				delete(s.holds, c)
			}
		}
		s.mu.Unlock()
		s.collect()
	}
}

// collect removes the layers that nothing needs.
func (s *Store) collect() {
	for _, dir := range s.unneeded() {
		s.remove(dir)
	}
}

// unneeded takes the layers that nothing needs out of the way and says where
// they lie now.
func (s *Store) unneeded() (gone []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := map[string]bool{}
	for _, r := range s.images {
		for _, c := range r.Layers {
			used[c] = true
		}
	}
	for _, r := range s.roots {
		for _, c := range r.Layers {
			used[c] = true
		}
	}
	for chain := range s.layers {
		if used[chain] || s.holds[chain] > 0 {
			continue
		}
		dir, err := s.aside(s.layerPath(chain))
		if err != nil {
			s.cfg.Log.Warn("cannot remove a layer that nothing needs", "layer", chain, "error", err)
			continue
		}
		delete(s.layers, chain)
		gone = append(gone, dir)
	}
	return gone
}

// has says whether a layer is here.
func (s *Store) has(chain string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.layers[chain]
	return ok
}

// settle moves a finished layer to its place.
func (s *Store) settle(chain, dir string, l layer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.layers[chain]; ok {
		return nil
	}
	if err := os.Rename(dir, s.layerPath(chain)); err != nil {
		return err
	}
	s.layers[chain] = l
	return nil
}

// fsOf lists the file systems of layers, the topmost first.
func (s *Store) fsOf(chains []string) []string {
	out := make([]string, 0, len(chains))
	for _, c := range slices.Backward(chains) {
		out = append(out, filepath.Join(s.layerPath(c), "fs"))
	}
	return out
}

// acquire takes a slot, unless ctx ends first.
func acquire(ctx context.Context, slots chan struct{}) (release func(), err error) {
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

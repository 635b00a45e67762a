package imagestore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/internal/rmtree"
)

// record of an image in images.json. Its slices are never changed in place.
type record struct {
	ID      string   `json:"id"`      // digest of the configuration
	Tags    []string `json:"tags"`    // docker.io/library/x:1
	Digests []string `json:"digests"` // docker.io/library/x@sha256:…, by manifest or index
	Layers  []string `json:"layers"`  // chain IDs, bottom first
	Size    int64    `json:"size"`    // as it is transferred
	User    string   `json:"user"`
	Pinned  bool     `json:"pinned"`
}

// layer is what layer.json says beside its fs.
type layer struct {
	Bytes  int64 `json:"bytes"`
	Inodes int64 `json:"inodes"`
	// Opaque: it hides all layers below. Overlayfs heeds that mark of a
	// directory everywhere but at a layer's root.
	Opaque bool `json:"opaque,omitempty"`
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Root}, parts...)...)
}

// encoded is the part of a digest that names files.
func encoded(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex
}

func (s *Store) layerPath(chain string) string { return s.path("layers", encoded(chain)) }

// open takes the store over and reads what is there.
func (s *Store) open() (unlock func(), err error) {
	for _, dir := range []string{"", "configs", "layers", "containers", "tmp", "empty/1", "empty/2"} {
		// Layers hold setuid programs: nobody but root may come near.
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	// The root of a user namespace must get to its own root file system, whose
	// name nobody can list.
	if err := errors.Join(os.Chmod(s.cfg.Root, 0o711), os.Chmod(s.path("containers"), 0o711), os.Chmod(s.path("empty/1"), 0o755), os.Chmod(s.path("empty/2"), 0o755)); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	spread(s.path("tmp"))
	lock, err := os.OpenFile(s.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("image store %s: %w", s.cfg.Root, ErrBusy)
	}
	if err := s.load(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("image store: %w", err)
	}
	return func() { lock.Close() }, nil
}

func (s *Store) load() error {
	s.sweepTmp()
	var err error
	if s.layers, err = s.loadLayers(); err != nil {
		return err
	}
	if s.roots, err = s.loadRoots(); err != nil {
		return err
	}
	images, err := s.loadImages()
	if err != nil {
		return err
	}
	s.images = map[string]record{}
	for _, r := range images {
		if why := s.whole(r); why != nil {
			s.cfg.Log.Error("an image on the disk is damaged and forgotten; it will be pulled again", "image", r.ID, "tags", r.Tags, "error", why)
			continue
		}
		s.images[r.ID] = r
	}
	if len(images) != len(s.images) {
		if err := s.change(func(map[string]record) {}); err != nil {
			return err
		}
	}
	s.sweepConfigs()
	s.collect()
	return nil
}

func (s *Store) loadImages() ([]record, error) {
	data, err := os.ReadFile(s.path("images.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []record
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", s.path("images.json"), err)
	}
	return list, nil
}

// loadLayers knows the layers whose directories are whole; others are removed.
func (s *Store) loadLayers() (map[string]layer, error) {
	entries, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return nil, err
	}
	known := map[string]layer{}
	for _, e := range entries {
		data, err := os.ReadFile(s.path("layers", e.Name(), "layer.json"))
		var l layer
		if err == nil {
			err = json.Unmarshal(data, &l)
		}
		if err != nil {
			s.cfg.Log.Warn("a layer on the disk is not whole and is removed", "layer", e.Name(), "error", err)
			s.remove(s.path("layers", e.Name()))
			continue
		}
		known["sha256:"+e.Name()] = l
	}
	return known, nil
}

// whole says what an image lacks.
func (s *Store) whole(r record) error {
	if _, err := s.config(r.ID); err != nil {
		return err
	}
	for _, chain := range r.Layers {
		if _, ok := s.layers[chain]; !ok {
			return fmt.Errorf("layer %s is missing", chain)
		}
	}
	return nil
}

// config reads an image's configuration, as it was pulled.
func (s *Store) config(id string) ([]byte, error) {
	data, err := os.ReadFile(s.path("configs", encoded(id)))
	if err != nil {
		return nil, err
	}
	if got := digestOf(data); got != id {
		return nil, fmt.Errorf("configuration has digest %s", got)
	}
	return data, nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (s *Store) sweepTmp() {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		s.cfg.Log.Warn("cannot sweep", "error", err)
	}
	for _, e := range entries {
		if err := unmount(s.path("tmp", e.Name())); err != nil {
			s.cfg.Log.Warn("cannot sweep", "error", err)
			continue
		}
		s.remove(s.path("tmp", e.Name()))
	}
}

func (s *Store) sweepConfigs() {
	entries, err := os.ReadDir(s.path("configs"))
	if err != nil {
		s.cfg.Log.Warn("cannot sweep", "error", err)
	}
	for _, e := range entries {
		if _, ok := s.images["sha256:"+e.Name()]; !ok {
			s.remove(s.path("configs", e.Name()))
		}
	}
}

// remove deletes a tree that nothing refers to. What stays is swept at the
// next start, so a failure is only told.
func (s *Store) remove(path string) {
	if err := rmtree.Remove(path); err != nil {
		s.cfg.Log.Warn("cannot remove", "path", path, "error", err)
	}
}

// spread tells ext4 (chattr +T) that what is in dir has nothing to do with each other.
// It puts each directory that is made there, with what is in it, where there is room,
// instead of all beside dir, where it would have to pass by the inodes of what was
// deleted not long ago: 20 times as long for each. Other file systems need no telling.
func spread(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|topDir))
}

const topDir = 0x20000 // FS_TOPDIR_FL of linux/fs.h

// temp makes a directory of its own in tmp.
func (s *Store) temp(kind string) (string, error) { return os.MkdirTemp(s.path("tmp"), kind+"-") }

// aside moves a tree out of sight in one step, to be removed then. It returns
// where it is.
func (s *Store) aside(path string) (string, error) {
	to := s.path("tmp", fmt.Sprintf("gone-%d-%d", os.Getpid(), s.gone.Add(1)))
	return to, os.Rename(path, to)
}

// write replaces a file in one step, and it stays so after a power loss.
func (s *Store) write(path string, data []byte) error {
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

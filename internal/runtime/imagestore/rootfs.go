package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// RootfsOptions of a root file system.
type RootfsOptions struct {
	// ReadOnly leaves the upper directory out: not even mount points can be
	// made in it.
	ReadOnly bool
	// UIDs and GIDs of a user namespace; none is the host's own.
	UIDs, GIDs []*runtimeapi.IDMapping
}

// Rootfs that is mounted.
type Rootfs struct {
	Path  string
	Upper string // what was written; "" if read-only
}

// root is what root.json says.
type root struct {
	Image  string   `json:"image"`
	Layers []string `json:"layers"`
}

// rootName is what a root file system may be called: it names a directory.
var rootName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$`)

// Prepare mounts an image's file system for a container, under a name that
// Release takes. The image may be removed then: its layers stay.
func (s *Store) Prepare(ctx context.Context, id string, image Image, o RootfsOptions) (Rootfs, error) {
	if err := ctx.Err(); err != nil {
		return Rootfs{}, err
	}
	if err := s.running(); err != nil {
		return Rootfs{}, err
	}
	if !rootName.MatchString(id) {
		return Rootfs{}, fmt.Errorf("root file system %q: not a name", id)
	}
	ids, err := newMapping(o.UIDs, o.GIDs)
	if err != nil {
		return Rootfs{}, fmt.Errorf("root file system %s: %w", id, err)
	}
	defer s.rooting.lock(id)()
	dir, err := s.claim(id, root{Image: image.ID, Layers: image.layers}, !o.ReadOnly, ids)
	if err != nil {
		return Rootfs{}, fmt.Errorf("root file system %s: %w", id, err)
	}
	m := overlay{target: filepath.Join(dir, "rootfs"), lower: s.lower(image.layers), layers: s.path("layers"), temp: s.path("tmp"), ids: ids}
	out := Rootfs{Path: m.target}
	if !o.ReadOnly {
		m.upper, m.work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
		out.Upper = m.upper
	}
	if err := m.mount([]string{s.path("empty/1"), s.path("empty/2")}); err != nil {
		return Rootfs{}, errors.Join(fmt.Errorf("root file system %s: %w", id, err), s.release(id))
	}
	return out, nil
}

// claim makes the directory of a root file system and takes hold of its
// layers. It is not synced: a power loss ends containers anyway.
func (s *Store) claim(id string, r root, writable bool, ids mapping) (dir string, err error) {
	tmp, err := s.temp("root")
	if err != nil {
		return "", err
	}
	defer s.remove(tmp)
	parts := []string{"rootfs"}
	if writable {
		parts = append(parts, "upper", "work")
	}
	for _, p := range parts {
		if err := os.Mkdir(filepath.Join(tmp, p), 0o755); err != nil {
			return "", err
		}
	}
	if writable { // the upper directory is the container's /
		upper := filepath.Join(tmp, "upper")
		if err := os.Chmod(upper, 0o755); err != nil { // whatever the umask
			return "", err
		}
		if ids.set() {
			if err := os.Lchown(upper, ids.rootUID(), ids.rootGID()); err != nil {
				return "", err
			}
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(tmp, "root.json"), data, 0o600); err != nil {
		return "", err
	}
	dir = s.path("containers", id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.roots[id]; ok {
		return "", ErrExists
	}
	for _, c := range r.Layers {
		if _, ok := s.layers[c]; !ok {
			return "", fmt.Errorf("%w: %s was removed", ErrNoImage, r.Image)
		}
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", err
	}
	s.roots[id] = r
	return dir, nil
}

// lower lists the directories to stack, the topmost first.
func (s *Store) lower(chains []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range slices.Backward(chains) {
		if s.layers[c].Opaque {
			return s.fsOf(chains[i:])
		}
	}
	return s.fsOf(chains)
}

// Release unmounts a root file system, or an image that was mounted, and
// deletes what was written. One that is not there is fine.
func (s *Store) Release(id string) error {
	if err := s.running(); err != nil {
		return err
	}
	if !rootName.MatchString(id) {
		return fmt.Errorf("root file system %q: not a name", id)
	}
	defer s.rooting.lock(id)()
	if err := s.release(id); err != nil {
		return fmt.Errorf("root file system %s: %w", id, err)
	}
	return nil
}

// release is Release for who has locked the name.
func (s *Store) release(id string) error {
	dir := s.path("containers", id)
	if err := unmount(filepath.Join(dir, "rootfs")); err != nil {
		return err
	}
	s.mu.Lock()
	_, known := s.roots[id]
	gone, err := "", error(nil)
	if known {
		if gone, err = s.aside(dir); err == nil {
			delete(s.roots, id)
		}
	}
	s.mu.Unlock()
	if known && err == nil {
		s.remove(gone)
		s.collect()
	}
	return err
}

// Roots are the names of all root file systems, those of an earlier process
// too, whether they are still mounted or not: whoever starts releases those
// that it does not know.
func (s *Store) Roots() []string {
	if s.running() != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.roots))
}

// Usage of a container is what it wrote; of one that is read-only or gone,
// nothing.
func (s *Store) Usage(ctx context.Context, id string) (bytes, inodes int64, err error) {
	if !rootName.MatchString(id) {
		return 0, 0, fmt.Errorf("root file system %q: not a name", id)
	}
	return usage(ctx, s.path("containers", id, "upper"))
}

// MountImage mounts an image to be looked at only, for a volume, and answers
// the directory at subPath in it. Release unmounts it.
func (s *Store) MountImage(ctx context.Context, id string, image Image, subPath string, o RootfsOptions) (string, error) {
	o.ReadOnly = true
	r, err := s.Prepare(ctx, id, image, o)
	if err != nil {
		return "", fmt.Errorf("%w: %w", crierrors.ErrImageVolumeMountFailed, err)
	}
	if subPath == "" {
		return r.Path, nil
	}
	path, err := inside(r.Path, subPath)
	if err != nil {
		return "", errors.Join(fmt.Errorf("%w: image %s has no directory %q: %w", crierrors.ErrImageVolumeMountFailed, image.ID, subPath, err), s.Release(id))
	}
	return path, nil
}

// inside resolves a directory below root, whose symbolic links may not lead
// out. Nobody can change the tree afterwards, so the answer has none left.
func inside(root, sub string) (string, error) {
	f, err := os.OpenInRoot(root, sub)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return "", err
	} else if !info.IsDir() {
		return "", errors.New("not a directory")
	}
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// loadRoots knows the root file systems that an earlier process made. What it
// was still making is removed.
func (s *Store) loadRoots() (map[string]root, error) {
	entries, err := os.ReadDir(s.path("containers"))
	if err != nil {
		return nil, err
	}
	known := map[string]root{}
	for _, e := range entries {
		dir := s.path("containers", e.Name())
		data, err := os.ReadFile(filepath.Join(dir, "root.json"))
		var r root
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err == nil {
			known[e.Name()] = r
			continue
		}
		s.cfg.Log.Warn("a root file system is not whole and is removed", "name", e.Name(), "error", err)
		if err := unmount(filepath.Join(dir, "rootfs")); err != nil {
			return nil, err
		}
		s.remove(dir)
	}
	return known, nil
}

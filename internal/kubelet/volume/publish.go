package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	dataLink = "..data"
	nextLink = "..data_tmp"
)

// publish shows files in dir: they lie in a directory with a time in its name,
// ..data links to it, and each visible name links through ..data. One rename
// of ..data changes all files at once.
func publish(dir string, files map[string]File, group *int64) error {
	now, err := os.Readlink(filepath.Join(dir, dataLink))
	if err == nil && same(filepath.Join(dir, now), files) {
		return nil
	}
	fresh := stamp(time.Now())
	if err := write(filepath.Join(dir, fresh), files, group); err != nil {
		return errors.Join(err, os.RemoveAll(filepath.Join(dir, fresh)))
	}
	next := filepath.Join(dir, nextLink)
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(fresh, next); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	return links(dir, fresh, files)
}

// links makes the visible names and removes what is no longer behind ..data.
func links(dir, fresh string, files map[string]File) error {
	top := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		top[first] = true
	}
	for name := range top {
		at := filepath.Join(dir, name)
		if target, err := os.Readlink(at); err == nil && target == filepath.Join(dataLink, name) {
			continue
		}
		if err := os.RemoveAll(at); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(dataLink, name), at); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n := e.Name(); n != fresh && n != dataLink && !top[n] {
			if err := os.RemoveAll(filepath.Join(dir, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func write(dir string, files map[string]File, group *int64) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return err
	}
	for name, f := range files {
		if err := checkName(name); err != nil {
			return err
		}
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, f.Data, f.Mode); err != nil {
			return err
		}
		uid, gid, mode := -1, -1, f.Mode
		if f.User != nil {
			uid = int(*f.User)
		}
		if group != nil {
			gid, mode = int(*group), mode|(mode&0o400)>>3 // the group reads what the owner reads
		}
		if uid >= 0 || gid >= 0 {
			if err := os.Chown(at, uid, gid); err != nil {
				return err
			}
		}
		if err := os.Chmod(at, mode); err != nil {
			return err
		}
	}
	return nil
}

func checkName(name string) error {
	if name == "" || filepath.IsAbs(name) || strings.HasPrefix(name, "..") {
		return fmt.Errorf("invalid file name %q", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return fmt.Errorf("invalid file name %q", name)
		}
	}
	return nil
}

// same reports whether dir shows exactly files. Modes and owners follow from
// the pod's spec, which does not change.
func same(dir string, files map[string]File) bool {
	count := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, ok := files[name]
		if !ok {
			return errors.New("gone")
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, f.Data) {
			return errors.New("changed")
		}
		count++
		return nil
	})
	return err == nil && count == len(files)
}

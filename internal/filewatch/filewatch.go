// Package filewatch notices when configuration files change, also when they are
// replaced, or when they are links that are made to point elsewhere, as volumes
// of ConfigMaps do it.
package filewatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const events = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ATTRIB

// Run calls look at first and whenever something has happened in a directory
// that leads to one of the files, until ctx ends. look decides whether that
// matters: it is called too often rather than too seldom, and never twice at a
// time.
func Run(ctx context.Context, look func(), files ...string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch files: %w", err)
	}
	notify := os.NewFile(uintptr(fd), "inotify")
	defer notify.Close()
	stop := context.AfterFunc(ctx, func() { _ = notify.SetReadDeadline(time.Unix(1, 0)) }) // wakes it
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		// Links may have changed: directories are watched anew each time, which
		// costs nothing for those that are watched already. That comes before
		// the look, so that nothing falls in between.
		for _, f := range files {
			if err := watch(fd, f); err != nil {
				return err
			}
		}
		look()
		if _, err := notify.Read(buf); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("cannot watch files: %w", err)
		}
	}
}

// watch the file's directory, and those of every link on the way to it.
func watch(fd int, file string) error {
	for range 40 { // as many links as the kernel follows
		dir := filepath.Dir(file)
		for dir != "/" && dir != "." {
			_, err := unix.InotifyAddWatch(fd, dir, events)
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot watch %s: %w", dir, err)
			}
			dir = filepath.Dir(dir) // it may come
		}
		next, err := os.Readlink(file)
		if err != nil {
			// The last part is no link; a directory on the way may be one.
			real, err := filepath.EvalSymlinks(filepath.Dir(file))
			if err != nil || real == filepath.Dir(file) {
				return nil
			}
			if link := firstLink(filepath.Dir(file)); link != "" {
				if _, err := unix.InotifyAddWatch(fd, filepath.Dir(link), events); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("cannot watch %s: %w", filepath.Dir(link), err)
				}
			}
			file = filepath.Join(real, filepath.Base(file))
			continue
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(filepath.Dir(file), next)
		}
		file = next
	}
	return nil
}

// firstLink on the way down to a directory.
func firstLink(dir string) string {
	if dir == "/" || dir == "." {
		return ""
	}
	if above := firstLink(filepath.Dir(dir)); above != "" {
		return above
	}
	if st, err := os.Lstat(dir); err == nil && st.Mode()&fs.ModeSymlink != 0 {
		return dir
	}
	return ""
}

// Follow calls apply with each content of the file that is another than the
// one before, have being the first, until ctx ends. What apply refuses changes
// nothing and is not tried twice. told counts it; it may be nil.
func Follow(ctx context.Context, path string, have []byte, log *slog.Logger, told *Reloads, apply func([]byte) error) error {
	told.Holds(Hash(have))
	return Run(ctx, func() {
		data, err := os.ReadFile(path)
		if err == nil && bytes.Equal(data, have) {
			return
		}
		if err == nil {
			have = data
			err = apply(data)
		}
		told.Told(Hash(data), err, time.Now())
		if err != nil {
			log.Error("a changed configuration is not taken; the former one holds", "file", path, "error", err)
			return
		}
		log.Info("a changed configuration holds", "file", path)
	}, path)
}

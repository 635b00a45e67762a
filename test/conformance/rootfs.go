package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// epoch is the time of every file and image.
var epoch = time.Unix(0, 0).UTC()

// rootfs is a layer being written. Who writes a path first keeps it.
type rootfs struct {
	buf  bytes.Buffer
	w    *tar.Writer
	seen map[string]bool
}

// merged are the directories that a current Debian has below /usr. Packages
// of older ones say /bin: with the names rewritten, both kinds fit together.
var merged = []string{"bin", "sbin", "lib", "lib64"}

func newRootfs() *rootfs {
	r := &rootfs{seen: map[string]bool{}}
	r.w = tar.NewWriter(&r.buf)
	return r
}

// base adds what every system has, and packages of the distribution.
func (r *rootfs) base(ctx context.Context, debs string, packages []string) error {
	for _, d := range []string{"home", "proc", "root", "run", "sys", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local/bin", "var/run"} {
		if err := r.dir(d, 0o755); err != nil {
			return err
		}
	}
	for _, d := range merged {
		if err := r.link(d, "usr/"+d); err != nil {
			return err
		}
	}
	err := errors.Join(r.dir("tmp", 0o1777), r.dir("var/tmp", 0o1777), r.file("etc/passwd", []byte(passwd), 0o644), r.file("etc/group", []byte(group), 0o644))
	if err != nil {
		return err
	}
	if len(packages) > 0 {
		if err := r.debian(ctx, debs, packages); err != nil {
			return err
		}
	}
	return r.busybox(ctx, debs)
}

func (r *rootfs) dir(name string, mode int64) error {
	return r.write(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

func (r *rootfs) link(name, target string) error {
	return r.write(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (r *rootfs) file(name string, data []byte, mode int64) error {
	return r.write(tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: mode}, bytes.NewReader(data))
}

// write an entry, and the directories above it.
func (r *rootfs) write(h tar.Header, data io.Reader) error {
	h.Name = rooted(h.Name)
	if h.Name == "" || r.seen[h.Name] {
		return nil
	}
	if parent := path.Dir(h.Name); parent != "." {
		if err := r.dir(parent, 0o755); err != nil {
			return err
		}
	}
	r.seen[h.Name] = true
	if h.Typeflag == tar.TypeLink {
		h.Linkname = rooted(h.Linkname)
	}
	h.ModTime, h.Format = epoch, tar.FormatGNU
	if err := r.w.WriteHeader(&h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	_, err := io.Copy(r.w, data)
	return err
}

// rooted is a name without ./ at its beginning, and below usr if it belongs there.
func rooted(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if top, _, below := strings.Cut(name, "/"); below && slices.Contains(merged, top) {
		return "usr/" + name
	}
	return name
}

// debian adds packages of the distribution and what they depend on. Their
// maintainer scripts do not run: what those would set up is in the recipe.
func (r *rootfs) debian(ctx context.Context, cache string, packages []string) error {
	debs, err := download(ctx, cache, packages)
	if err != nil {
		return err
	}
	for _, deb := range debs {
		files, err := output(exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb))
		if err != nil {
			return err
		}
		for in := tar.NewReader(bytes.NewReader(files)); ; {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("%s: %w", deb, err)
			}
			if unneeded(h.Name) {
				continue
			}
			if err := r.write(tar.Header{Typeflag: h.Typeflag, Name: h.Name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid}, in); err != nil {
				return fmt.Errorf("%s: %w", deb, err)
			}
		}
	}
	return nil
}

// unneeded are the files of a package that no program reads.
func unneeded(name string) bool {
	for _, d := range []string{"doc", "man", "info", "locale", "lintian", "bash-completion"} {
		if strings.HasPrefix(name, "./usr/share/"+d+"/") {
			return true
		}
	}
	return false
}

// download fetches packages and all they depend on with the distribution's
// own tool, which checks them, as if nothing were installed.
func download(ctx context.Context, cache string, packages []string) ([]string, error) {
	dir := filepath.Join(cache, strings.Join(packages, "+"))
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"install", "--download-only", "--yes", "--no-install-recommends",
		"-o", "Dir::State::Status=/dev/null", "-o", "Dir::Cache::Archives=" + dir, "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"}, packages...)...)
	if _, err := output(cmd); err != nil {
		return nil, fmt.Errorf("%w (is the list of packages current? apt-get update)", err)
	}
	return filepath.Glob(filepath.Join(dir, "*.deb"))
}

// busybox adds the distribution's static one, with a link for every program
// that nothing else brought.
func (r *rootfs) busybox(ctx context.Context, cache string) error {
	if err := r.debian(ctx, cache, []string{"busybox-static"}); err != nil {
		return err
	}
	debs, err := download(ctx, cache, []string{"busybox-static"})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, deb := range debs {
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", deb, dir)); err != nil {
			return err
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "busybox"))
	if err != nil || len(found) == 0 {
		found, err = filepath.Glob(filepath.Join(dir, "usr", "bin", "busybox"))
	}
	if err != nil || len(found) == 0 {
		return fmt.Errorf("no busybox in busybox-static: %w", err)
	}
	applets, err := output(exec.CommandContext(ctx, found[0], "--list"))
	if err != nil {
		return err
	}
	for _, a := range strings.Fields(string(applets)) {
		if r.seen["usr/bin/"+a] || r.seen["usr/sbin/"+a] {
			continue
		}
		if err := r.link("usr/bin/"+a, "/usr/bin/busybox"); err != nil {
			return err
		}
	}
	return nil
}

// output runs a command; what it says on failure is in the error.
func output(cmd *exec.Cmd) ([]byte, error) {
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		text := msg.String() + out.String()
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, text[max(0, len(text)-2000):])
	}
	return out.Bytes(), nil
}

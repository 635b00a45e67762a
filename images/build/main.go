// Command build makes the images that knarr brings along, as OCI archives:
// pause, demo, and busybox for tests. The same sources and toolchain give the
// same digests: times are fixed, files are in order, programs are built with
// -trimpath and without version control stamps.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	out := flag.String("out", "bin/images", "directory for the archives")
	flag.Parse()
	if err := build(*out); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// nobody runs our programs: no name lookup, no rights.
const nobody = "65532:65532"

// file of an image.
type file struct {
	path string
	data []byte
	link string // symbolic link to this
	mode int64
	dir  bool
}

// image to build.
type image struct {
	name, ref string
	config    v1.Config
	files     func(tmp string) ([]file, error)
}

var images = []image{
	{
		name: "pause", ref: "registry.knarr.dev/pause:1",
		config: v1.Config{Entrypoint: []string{"/pause"}, User: nobody, WorkingDir: "/"},
		files: func(tmp string) ([]file, error) {
			data, err := program(tmp, "pause")
			return []file{{path: "pause", data: data, mode: 0o755}}, err
		},
	},
	{
		name: "demo", ref: "registry.knarr.dev/demo:1",
		config: v1.Config{Entrypoint: []string{"/demo"}, User: nobody, WorkingDir: "/", ExposedPorts: map[string]struct{}{"8080/tcp": {}}},
		files: func(tmp string) ([]file, error) {
			data, err := program(tmp, "demo")
			return []file{{path: "demo", data: data, mode: 0o755}}, err
		},
	},
	{
		name: "busybox", ref: "registry.knarr.dev/busybox:1",
		config: v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}},
		files:  func(string) ([]file, error) { return busybox() },
	},
}

func build(out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "knarr-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, im := range images {
		files, err := im.files(tmp)
		if err != nil {
			return fmt.Errorf("%s: %w", im.name, err)
		}
		img, err := assemble(files, im.config)
		if err != nil {
			return fmt.Errorf("%s: %w", im.name, err)
		}
		archive, err := ociArchive(img, im.ref)
		if err != nil {
			return fmt.Errorf("%s: %w", im.name, err)
		}
		path := filepath.Join(out, im.name+".tar")
		if err := replace(path, archive); err != nil {
			return err
		}
		digest, err := img.Digest()
		if err != nil {
			return err
		}
		fmt.Printf("%s %s %d KiB %s\n", im.ref, digest, len(archive)>>10, path)
	}
	return nil
}

// replace leaves an equal file alone, so that its time says when it changed.
func replace(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// program compiles one of the commands beside this one.
func program(tmp, name string) ([]byte, error) {
	bin := filepath.Join(tmp, name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", bin, "knarr.dev/knarr/images/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w: %s", err, bytes.TrimSpace(msg))
	}
	return os.ReadFile(bin)
}

// busyboxPaths are where distributions put a static busybox.
var busyboxPaths = []string{"/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"}

// busybox is Debian's static one with a link per applet.
func busybox() ([]file, error) {
	i := slices.IndexFunc(busyboxPaths, func(p string) bool { _, err := os.Stat(p); return err == nil })
	if i < 0 {
		return nil, fmt.Errorf("no static busybox; install it: apt-get install busybox-static")
	}
	path := busyboxPaths[i]
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(data[:min(len(data), 1<<16)], []byte("/lib64/ld-linux")) {
		return nil, fmt.Errorf("%s is not static; install it: apt-get install busybox-static", path)
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", path, err)
	}
	files := []file{
		{path: "bin", dir: true, mode: 0o755}, {path: "etc", dir: true, mode: 0o755}, {path: "home", dir: true, mode: 0o755},
		{path: "root", dir: true, mode: 0o700}, {path: "tmp", dir: true, mode: 0o1777}, {path: "usr", dir: true, mode: 0o755},
		{path: "usr/bin", dir: true, mode: 0o755}, {path: "var", dir: true, mode: 0o755}, {path: "var/run", dir: true, mode: 0o755},
		{path: "bin/busybox", data: data, mode: 0o755},
		{path: "usr/bin/env", link: "/bin/busybox"},
		{path: "etc/passwd", data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"), mode: 0o644},
		{path: "etc/group", data: []byte("root:x:0:\nnogroup:x:65534:\n"), mode: 0o644},
	}
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" && !strings.Contains(a, "/") {
			files = append(files, file{path: "bin/" + a, link: "busybox"})
		}
	}
	return files, nil
}

// epoch is the time of every file and image.
var epoch = time.Unix(0, 0).UTC()

func assemble(files []file, config v1.Config) (v1.Image, error) {
	slices.SortStableFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.path, Mode: f.mode, ModTime: epoch, Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Size: int64(len(f.data))}
		switch {
		case f.dir:
			h.Typeflag, h.Name = tar.TypeDir, f.path+"/"
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "knarr images/build"}}); err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Created = v1.Time{Time: epoch}
	cf.OS, cf.Architecture, cf.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(img, cf)
}

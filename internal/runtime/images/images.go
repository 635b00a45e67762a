// Package images loads OCI archives into the node's containerd, so that what
// knarr brings along needs no registry.
package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/containerd"
	"knarr.dev/knarr/internal/runtime/ociarchive"
)

// knownTimeout bounds the wait for the CRI to notice a loaded image.
const knownTimeout = 20 * time.Second

// Image that an archive holds.
type Image struct {
	Name   string // registry.knarr.dev/pause:1
	Config string // digest of the image's configuration: what CRI calls its ID
}

// Import loads an archive into the containerd behind socket and returns what
// it holds. An archive whose images are all present costs one look at its
// first kilobytes.
func Import(ctx context.Context, socket, archive string) ([]Image, error) {
	list, err := Inspect(archive)
	if err != nil {
		return nil, err
	}
	present, err := havesAll(ctx, socket, list)
	if err != nil {
		return nil, fmt.Errorf("cannot ask containerd for its images: %w", err)
	}
	if present {
		return list, nil
	}
	ctr, err := containerd.Find("ctr")
	if err != nil {
		return nil, fmt.Errorf("cannot load images: %w; install it: apt-get install containerd", err)
	}
	cmd := exec.CommandContext(ctx, ctr, "--address", socket, "--namespace", "k8s.io", "images", "import", archive)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it has no use without us
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot load %s: %w: %s", archive, err, lastLine(out))
	}
	// The CRI learns of new images by an event; wait until it knows them.
	return list, await(ctx, socket, list)
}

// ImportDir loads every archive (*.tar) of a directory. A missing directory
// holds none.
func ImportDir(ctx context.Context, socket, dir string) ([]Image, error) {
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return nil, err
	}
	slices.Sort(archives)
	var all []Image
	for _, a := range archives {
		list, err := Import(ctx, socket, a)
		if err != nil {
			return all, err
		}
		all = append(all, list...)
	}
	return all, nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	line := lines[len(lines)-1]
	return line[:min(len(line), 500)]
}

func connect(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// havesAll reports whether the runtime has every image with that content.
func havesAll(ctx context.Context, socket string, list []Image) (bool, error) {
	conn, err := connect(socket)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	cri := runtimeapi.NewImageServiceClient(conn)
	for _, im := range list {
		st, err := cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: im.Name}})
		if err != nil {
			return false, err
		}
		if st.Image == nil || st.Image.Id != im.Config {
			return false, nil
		}
	}
	return true, nil
}

// Inspect reads which images an archive holds. Archives of images/build have
// their metadata first, so only their beginning is read.
func Inspect(archive string) ([]Image, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := inspect(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	return list, nil
}

func inspect(f ociarchive.File) ([]Image, error) {
	a, err := ociarchive.Read(f)
	if err != nil {
		return nil, err
	}
	held, err := a.Images()
	if err != nil {
		return nil, err
	}
	var list []Image
	for _, im := range held {
		if im.Digest == "" {
			return nil, errors.New("not an OCI archive: it has no index.json")
		}
		blob, err := a.Blob(im.Digest)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", im.Names[0], err)
		}
		var manifest struct {
			Config struct {
				Digest string `json:"digest"`
			} `json:"config"`
		}
		if err := ociarchive.JSON(blob, &manifest); err != nil {
			return nil, fmt.Errorf("image %s: %w", im.Names[0], err)
		}
		list = append(list, Image{Name: im.Names[0], Config: manifest.Config.Digest})
	}
	return list, nil
}

// await polls until the CRI knows the images; ctr returns a moment earlier.
func await(ctx context.Context, socket string, list []Image) error {
	ctx, cancel := context.WithTimeout(ctx, knownTimeout)
	defer cancel()
	for {
		ok, err := havesAll(ctx, socket, list)
		if ok {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("containerd does not show %s after loading it", list[0].Name), err)
		}
	}
}

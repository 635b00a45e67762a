package imagestore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: layers have owners, and overlays are mounted")
	}
}

// open runs a store until the test ends; stop ends it sooner.
func open(t testing.TB, cfg Config) (s *Store, stop func()) {
	t.Helper()
	needRoot(t)
	if cfg.Root == "" {
		cfg.Root = filepath.Join(t.TempDir(), "images")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		for _, id := range s.Roots() {
			if t.Context().Err() != nil { // the test is over
				if err := s.Release(id); err != nil {
					t.Error(err)
				}
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

// server is a registry whose answers a test may change.
type server struct {
	*httptest.Server
	host string
	mu   sync.Mutex
	// before answers a request itself, or lets it through.
	before func(w http.ResponseWriter, r *http.Request) (answered bool)
	asked  []string // paths
}

func serve(t testing.TB) *server {
	t.Helper()
	srv := &server{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv.mu.Lock()
		before := srv.before
		srv.asked = append(srv.asked, r.Method+" "+r.URL.Path)
		srv.mu.Unlock()
		if before == nil || !before(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	t.Cleanup(srv.Close)
	srv.host = strings.TrimPrefix(srv.URL, "http://")
	return srv
}

func (srv *server) fault(before func(w http.ResponseWriter, r *http.Request) bool) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.before = before
}

// count is how often a path was asked for that holds part.
func (srv *server) count(part string) (n int) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, a := range srv.asked {
		if strings.Contains(a, part) {
			n++
		}
	}
	return n
}

func (srv *server) push(t testing.TB, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(srv.host+"/"+repo, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

// file of a layer.
type file struct {
	tar.Header
	body string
}

func reg(name, body string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}, body}
}

func dir(name string, mode int64) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}, ""}
}

func symlink(name, to string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, ""}
}

func pack(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		f.Header.ModTime = time.Unix(1e9, 0)
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zst(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// blobLayer is a layer whose transferred bytes and whose diff ID are given.
type blobLayer struct {
	v1.Layer
	diff v1.Hash
}

func (l blobLayer) DiffID() (v1.Hash, error) { return l.diff, nil }

func layerAs(t testing.TB, blob []byte, plain []byte, kind types.MediaType) v1.Layer {
	t.Helper()
	h, _, err := v1.SHA256(bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	return blobLayer{static.NewLayer(blob, kind), h}
}

func layerOfFiles(t testing.TB, files ...file) v1.Layer {
	t.Helper()
	plain := pack(t, files...)
	return layerAs(t, gz(t, plain), plain, types.DockerLayer)
}

func image(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	base, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(base, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func simple(t testing.TB, body string) v1.Image {
	t.Helper()
	return image(t, v1.Config{User: "7:8"}, layerOfFiles(t, dir("etc/", 0o755), reg("etc/base", "base")), layerOfFiles(t, reg("etc/own", body)))
}

func idOf(t testing.TB, img v1.Image) string {
	t.Helper()
	h, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func digestOfImage(t testing.TB, img v1.Image) string {
	t.Helper()
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func pull(ctx context.Context, s *Store, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	res, err := s.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: auth})
	return res.GetImageRef(), err
}

func mustPull(t testing.TB, s *Store, ref string) Image {
	t.Helper()
	id, err := pull(t.Context(), s, ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	im, err := s.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func statusOf(t testing.TB, s *Store, ref string) *runtimeapi.Image {
	t.Helper()
	res, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		t.Fatal(err)
	}
	return res.Image
}

// tree lists what lies on the disk in some directories of a store.
func tree(t testing.TB, s *Store, dirs ...string) (out []string) {
	t.Helper()
	for _, d := range dirs {
		entries, err := os.ReadDir(s.path(d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, d+"/"+e.Name())
		}
	}
	return out
}

// clean fails the test if something is left half done, or if other layers and
// configurations are there than so many.
func clean(t testing.TB, s *Store, layers, configs int) {
	t.Helper()
	if left := tree(t, s, "tmp"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if l, c := tree(t, s, "layers"), tree(t, s, "configs"); len(l) != layers || len(c) != configs {
		t.Errorf("%d layers and %d configurations, want %d and %d: %v %v", len(l), len(c), layers, configs, l, c)
	}
}

func contents(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// files lists the paths below a directory.
func paths(t testing.TB, root string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != root {
			out = append(out, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	slices.Sort(out)
	return out
}

// until waits for a condition that another goroutine brings about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatal(fmt.Sprintf("in vain: %s", what))
		}
	}
}

package cri_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var buildDir string

// build makes knarr's own images once per test run: pause, and the busybox
// that the suite's images stand on.
var build = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "knarr-cri-images")
	if err != nil {
		return err
	}
	buildDir = dir
	for _, args := range [][]string{
		{"run", "-tags", "grpcnotrace", "knarr.dev/knarr/images/build", "-out", dir},
		{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, "probe"), "knarr.dev/knarr/test/cri/probe"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
})

func archives(t *testing.T) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return buildDir
}

// passwd and group of the suite's images: app is in two groups more than its
// own.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1001:1002:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
	groups = "root:x:0:\napp:x:1002:\nextra:x:50000:app\nmore:x:50001:app,nobody\nnogroup:x:65534:\n"
)

// entry of a layer.
type entry struct {
	name, text string
	data       []byte
	mode       int64
	dir        bool
	link       string
}

func layerOf(entries ...entry) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		data := append([]byte(e.text), e.data...)
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(data)), Typeflag: tar.TypeReg}
		switch {
		case e.dir:
			h.Typeflag = tar.TypeDir
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
}

func appendEntries(img v1.Image, entries ...entry) (v1.Image, error) {
	layer, err := layerOf(entries...)
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layer)
}

// baseImage is busybox with users, our probe, and the probe again as a
// set-user-ID program.
func baseImage(t *testing.T) v1.Image {
	t.Helper()
	dir := archives(t)
	img, err := fromArchive(filepath.Join(dir, "busybox.tar"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	probe, err := os.ReadFile(filepath.Join(dir, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	img, err = appendEntries(img,
		entry{name: "etc/passwd", text: passwd, mode: 0o644}, entry{name: "etc/group", text: groups, mode: 0o644},
		entry{name: "home/app", dir: true, mode: 0o755},
		entry{name: "bin/probe", data: probe, mode: 0o755}, entry{name: "bin/suid-probe", data: probe, mode: 0o4755},
		entry{name: "data", dir: true, mode: 0o755}, entry{name: "data/inner", dir: true, mode: 0o755},
		entry{name: "data/file", text: "from the image\n", mode: 0o644}, entry{name: "data/inner/deep", text: "deep in the image\n", mode: 0o644},
	)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// fromArchive reads an OCI layout in a tar; dir takes its files.
func fromArchive(archive, dir string) (v1.Image, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return nil, err
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return index.Image(m.Manifests[0].Digest)
}

// with changes what an image says of how it runs.
func with(img v1.Image, change func(*v1.Config)) (v1.Image, error) {
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c := *cf.Config.DeepCopy()
	change(&c)
	return mutate.Config(img, c)
}

// Who may pull what lies below private/ (by a password) and token/ (by a token
// that the password buys).
const (
	user, password = "me", "s3cret:with colon"
	token          = "a-token"
)

// registryServer serves one content under two addresses.
type registryServer struct {
	handler    http.Handler
	host, twin string
	servers    []*httptest.Server
	stuck      chan struct{} // closed at the end: what lies below slow/ is never sent before

	mu    sync.Mutex
	blobs map[string]int // how often each path was asked for
}

func newRegistry(t *testing.T, in func(func() error) error) *registryServer {
	t.Helper()
	r := &registryServer{stuck: make(chan struct{}), blobs: map[string]int{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.handler = inner
	serve := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !r.allowed(w, req) {
			return
		}
		if strings.Contains(req.URL.Path, "/blobs/") {
			if req.Method == http.MethodGet {
				r.mu.Lock()
				r.blobs[req.URL.Path]++
				r.mu.Unlock()
			}
			if strings.Contains(req.URL.Path, "/slow/") {
				select {
				case <-r.stuck:
				case <-req.Context().Done():
				}
				return
			}
			if strings.Contains(req.URL.Path, "/broken/") {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			if strings.Contains(req.URL.Path, "/false/") {
				_, _ = io.WriteString(w, "not what the digest says")
				return
			}
		}
		inner.ServeHTTP(w, req)
	})
	for _, host := range []*string{&r.host, &r.twin} {
		s := httptest.NewUnstartedServer(serve)
		err := in(func() error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				_ = s.Listener.Close()
				s.Listener = l
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		r.servers = append(r.servers, s)
		*host = s.Listener.Addr().String()
	}
	return r
}

func (r *registryServer) close() {
	close(r.stuck)
	for _, s := range r.servers {
		s.CloseClientConnections()
		s.Close()
	}
}

// fetched counts the blobs that were read from repositories by this part of
// their path.
func (r *registryServer) fetched(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := 0
	for path, n := range r.blobs {
		if strings.Contains(path, part) {
			sum += n
		}
	}
	return sum
}

// allowed answers requests that lack what they need.
func (r *registryServer) allowed(w http.ResponseWriter, req *http.Request) bool {
	name, pass, _ := req.BasicAuth()
	known := name == user && pass == password
	switch {
	case req.URL.Path == "/token":
		// Distribution's token specification: a password by GET, an identity
		// token by POST.
		if req.Method == http.MethodPost {
			known = req.FormValue("refresh_token") == "identity" || req.FormValue("username") == user && req.FormValue("password") == password
		}
		if !known {
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
		return false
	case strings.Contains(req.URL.Path, "/private/") && !known:
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return false
	case strings.Contains(req.URL.Path, "/token/") && req.Header.Get("Authorization") != "Bearer "+token:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:token/x:pull"`, req.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	return true
}

// RoundTrip lets the suite push without a network.
func (r *registryServer) RoundTrip(req *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if req.Body == nil {
		req.Body = http.NoBody
	}
	r.handler.ServeHTTP(w, req)
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

// publish makes an image available as REPO:1.
func (r *registryServer) publish(repo string, img v1.Image) error {
	tag := "1"
	if at := strings.LastIndexByte(repo, ':'); at >= 0 {
		repo, tag = repo[:at], repo[at+1:]
	}
	ref, err := name.NewTag(r.host+"/"+repo+":"+tag, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithTransport(r))
}

// get reads an image back.
func (r *registryServer) get(repo string) (v1.Image, error) {
	ref, err := name.NewTag(r.host+"/"+repo+":1", name.Insecure)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, remote.WithTransport(r))
}

// pull of one image, once for all cases.
type pull struct {
	once sync.Once
	ref  string
	err  error
}

// imageOf publishes and pulls a variant of the base image, and returns what to
// put into a container's configuration. Equal names are one image.
func (t *T) imageOf(name string, change func(*v1.Config)) *runtimeapi.ImageSpec {
	return t.pulled(name, func(base v1.Image) (v1.Image, error) { return with(base, change) })
}

// imageWith is the base image with a layer more.
func (t *T) imageWith(name string, entries ...entry) *runtimeapi.ImageSpec {
	return t.pulled(name, func(base v1.Image) (v1.Image, error) {
		return appendEntries(base, entries...)
	})
}

func (t *T) pulled(name string, change func(v1.Image) (v1.Image, error)) *runtimeapi.ImageSpec {
	p := t.known(name)
	p.once.Do(func() {
		if change != nil {
			p.err = t.publish(name, change)
		}
		if p.err == nil {
			p.ref, p.err = t.pull(t.registry.host + "/" + name + ":1")
		}
	})
	if p.err != nil {
		t.fatalf("image %s: %v", name, p.err)
	}
	return &runtimeapi.ImageSpec{Image: p.ref, UserSpecifiedImage: t.registry.host + "/" + name + ":1"}
}

func (n *node) known(name string) *pull {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pulls[name] == nil {
		n.pulls[name] = &pull{}
	}
	return n.pulls[name]
}

// publish puts a variant of the base image into the registry.
func (t *T) publish(repo string, change func(v1.Image) (v1.Image, error)) error {
	img, err := t.registry.get("base")
	if err != nil {
		return err
	}
	if img, err = change(img); err != nil {
		return err
	}
	return t.registry.publish(repo, img)
}

func (t *T) pull(image string) (string, error) {
	resp, err := t.images.PullImage(t.ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	return resp.GetImageRef(), err
}

// base is the image of most cases.
func (t *T) base() *runtimeapi.ImageSpec { return t.pulled("base", nil) }

// otherPlatform is an image for a machine that this is not.
func otherPlatform(img v1.Image) (v1.Image, error) {
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Architecture = "s390x"
	return mutate.ConfigFile(img, cf)
}

// publishIndex makes an index of this machine's image between two others; each
// says in /which what it is for.
func (t *T) publishIndex() (ref, want string) {
	repo := t.unique("index")
	base, err := t.registry.get("base")
	t.must(err)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"s390x", runtime.GOARCH, "ppc64le"} {
		img, err := appendEntries(base, entry{name: "which", text: arch + "\n", mode: 0o644})
		t.must(err)
		cf, err := img.ConfigFile()
		t.must(err)
		cf = cf.DeepCopy()
		cf.Architecture = arch
		img, err = mutate.ConfigFile(img, cf)
		t.must(err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	tag, err := name.NewTag(t.registry.host+"/"+repo+":1", name.Insecure)
	t.must(err)
	t.must(remote.WriteIndex(tag, index, remote.WithTransport(t.registry)))
	return t.registry.host + "/" + repo + ":1", runtime.GOARCH
}

// nothingEscaped looks where a layer wanted to write.
func (t *T) nothingEscaped(name string) {
	found, err := filepath.Glob("/knarr-cri-*")
	t.must(err)
	if len(found) > 0 {
		t.errorf("%s: the layer wrote %v", name, found)
		for _, f := range found {
			_ = os.Remove(f)
		}
	}
}

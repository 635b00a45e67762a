package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	suite "k8s.io/kubernetes/test/utils/image"
)

// recipe of an image that tests name: the distribution's packages, upstream's
// programs and files of its module, and busybox for the rest; or what it adds
// to another image.
type recipe struct {
	ID       suite.ImageID
	Base     suite.ImageID // stands before it in the list; none if zero
	Packages []string
	Programs map[string]program // by path
	Module   map[string]string  // path: file in k8s.io/kubernetes
	Files    map[string]string  // path: content
	Links    map[string]string  // path: target
	Dirs     []string
	Config   v1.Config
}

type program struct {
	Package string
	Dir     string // of the module that builds it; this one's, if empty
	Mode    int64
}

const (
	searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	passwd     = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
	group      = "root:x:0:\nnogroup:x:65534:\n"

	// nginx as the official image sets it up, where tests look for its files.
	nginxConf = `user www-data;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
	include /etc/nginx/mime.types;
	access_log /dev/stdout;
	server { listen 80; root /usr/share/nginx/html; index index.html; }
}
`
)

var agnhost = recipe{
	ID:       suite.Agnhost,
	Packages: []string{"bash", "bind9-dnsutils", "curl", "iperf", "iproute2", "libc-bin", "netcat-openbsd", "socat", "util-linux"},
	Programs: map[string]program{"agnhost": {Package: "k8s.io/kubernetes/test/images/agnhost"}},
	Module: map[string]string{
		"localhost.crt": "test/images/agnhost/porter/localhost.crt",
		"localhost.key": "test/images/agnhost/porter/localhost.key",
	},
	Files: map[string]string{
		"etc/passwd": passwd + "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
		"etc/group":  group + "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
	},
	Links: map[string]string{"agnhost-2": "agnhost", "bin/nc": "/bin/nc.openbsd", "usr/local/bin/iperf": "/usr/bin/iperf"},
	Dirs:  []string{"uploads"},
	Config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{searchPath},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "8080/tcp": {}, "8081/tcp": {}, "9376/tcp": {}, "5000/tcp": {}}},
}

// website is agnhost with a page of upstream's.
func website(id suite.ImageID, name string) recipe {
	r := recipe{ID: id, Base: suite.Agnhost, Module: map[string]string{}, Config: agnhost.Config}
	for _, f := range []string{"data.json", name + ".jpg"} {
		r.Module[f] = "test/images/" + name + "/html/" + f
	}
	r.Config.Cmd = []string{"test-webserver"}
	return r
}

var nginx = recipe{
	ID: suite.Nginx, Packages: []string{"nginx-light", "nginx-common"},
	Files: map[string]string{"etc/nginx/nginx.conf": nginxConf,
		"etc/passwd": passwd + "www-data:x:33:33:www-data:/var/www:/bin/false\n", "etc/group": group + "www-data:x:33:\n"},
	Dirs: []string{"var/lib/nginx", "var/log/nginx"},
	Config: v1.Config{Entrypoint: []string{"/usr/sbin/nginx"}, Cmd: []string{"-g", "daemon off;"}, Env: []string{searchPath},
		ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGQUIT"},
}

// recipes are the images that conformance tests run.
func recipes() []recipe {
	shell := v1.Config{Cmd: []string{"sh"}, Env: []string{searchPath}}
	previous := map[string]string{"etc/release": "previous\n"} // an image of its own, not a second name
	return []recipe{
		agnhost, {ID: suite.AgnhostPrev, Base: suite.Agnhost, Files: previous, Config: agnhost.Config},
		website(suite.Kitten, "kitten"), website(suite.Nautilus, "nautilus"),
		nginx, {ID: suite.NginxNew, Base: suite.Nginx, Files: map[string]string{"etc/release": "new\n"}, Config: nginx.Config},
		{ID: suite.BusyBox, Config: shell},
		{ID: suite.Pause, Programs: map[string]program{"pause": {Package: "knarr.dev/knarr/images/pause", Dir: "../.."}},
			Config: v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535", Env: []string{searchPath}}},
		{ID: suite.Perl, Packages: []string{"perl-base"}, Config: v1.Config{Cmd: []string{"perl", "-de0"}, Env: []string{searchPath}}},
		{ID: suite.GlibcDnsTesting, Packages: []string{"bash", "bind9-dnsutils", "libc-bin"}, Config: shell},
		{ID: suite.NonRoot, Config: v1.Config{Cmd: []string{"sh"}, Env: []string{searchPath}, User: "1234"}},
		{ID: suite.Nonewprivs, Programs: map[string]program{"usr/local/bin/nnp": {Package: "k8s.io/kubernetes/test/images/nonewprivs", Mode: 0o4755}},
			Config: v1.Config{Cmd: []string{"nnp"}, Env: []string{searchPath}}},
		{ID: suite.APIServer, Programs: map[string]program{"sample-apiserver": {Package: "k8s.io/sample-apiserver"}},
			Config: v1.Config{Entrypoint: []string{"/sample-apiserver"}, Env: []string{searchPath}}},
		{ID: suite.Etcd, Programs: map[string]program{"usr/local/bin/etcd": {Package: "go.etcd.io/etcd/server/v3"}},
			Config: v1.Config{Entrypoint: []string{"/usr/local/bin/etcd"}, Env: []string{searchPath}}},
	}
}

// name is the image's, with its tag, without the registry.
func (r recipe) name() string {
	config := suite.GetOriginalImageConfigs()[r.ID]
	_, name, _ := strings.Cut(config.GetE2EImage(), "/")
	return name
}

// Annotations of the images in the layout.
const (
	refAnnotation    = "org.opencontainers.image.ref.name"
	recipeAnnotation = "dev.knarr.conformance.recipe"
)

// buildImages brings the OCI layout in dir up to date with the recipes.
func buildImages(ctx context.Context, dir, version string) error {
	path, err := layout.FromPath(dir)
	if os.IsNotExist(err) {
		path, err = layout.Write(dir, empty.Index)
	}
	if err != nil {
		return err
	}
	index, err := path.ImageIndex()
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	sums := map[suite.ImageID]string{suite.None: version} // of what is in an image
	images := map[suite.ImageID]v1.Image{suite.None: empty.Image}
	for _, r := range recipes() {
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(append(text, sums[r.Base]...))
		sums[r.ID] = hex.EncodeToString(sum[:])
		annotations := map[string]string{refAnnotation: r.name(), recipeAnnotation: sums[r.ID]}
		if i := slices.IndexFunc(manifest.Manifests, func(d v1.Descriptor) bool { return maps.Equal(d.Annotations, annotations) }); i >= 0 {
			if images[r.ID], err = path.Image(manifest.Manifests[i].Digest); err != nil {
				return err
			}
			continue
		}
		fmt.Println("building", r.name())
		if images[r.ID], err = r.build(ctx, images[r.Base], filepath.Join(dir, "..", "debs")); err != nil {
			return fmt.Errorf("%s: %w", r.name(), err)
		}
		if err := path.ReplaceImage(images[r.ID], match.Name(r.name()), layout.WithAnnotations(annotations)); err != nil {
			return err
		}
	}
	return nil
}

func (r recipe) build(ctx context.Context, base v1.Image, debs string) (v1.Image, error) {
	fs := newRootfs()
	if err := r.own(ctx, fs); err != nil {
		return nil, err
	}
	if r.Base == suite.None {
		if err := fs.base(ctx, debs, r.Packages); err != nil {
			return nil, err
		}
	}
	if err := fs.w.Close(); err != nil {
		return nil, err
	}
	return withLayer(base, fs.buf.Bytes(), r.Config)
}

// own adds what the recipe names, other than packages.
func (r recipe) own(ctx context.Context, fs *rootfs) error {
	for _, p := range slices.Sorted(maps.Keys(r.Programs)) {
		data, err := r.Programs[p].build(ctx)
		if err != nil {
			return err
		}
		if err := fs.file(p, data, max(r.Programs[p].Mode, 0o755)); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.Module)) {
		dir, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"))
		if err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), r.Module[p]))
		if err != nil {
			return err
		}
		if err := fs.file(p, data, 0o644); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.Files)) {
		if err := fs.file(p, []byte(r.Files[p]), 0o644); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.Links)) {
		if err := fs.link(p, r.Links[p]); err != nil {
			return err
		}
	}
	for _, d := range r.Dirs {
		if err := fs.dir(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// build compiles a program without symbols, stamps and C.
func (p program) build(ctx context.Context) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "program")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, p.Package)
	cmd.Dir, cmd.Env = p.Dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if _, err := output(cmd); err != nil {
		return nil, err
	}
	return os.ReadFile(bin)
}

func withLayer(base v1.Image, layerTar []byte, config v1.Config) (v1.Image, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layerTar)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(base, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, layer); err != nil {
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

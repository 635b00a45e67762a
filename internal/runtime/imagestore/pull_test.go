package imagestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/registry"
)

// putManifest stores a manifest as it is given.
func (srv *server) putManifest(t testing.TB, path string, kind types.MediaType, data []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, srv.URL+"/v2/"+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", string(kind))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
}

// TestMediaTypes: every kind of manifest and of compression, and layers whose
// type says something else than their bytes.
func TestMediaTypes(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	plain := pack(t, reg("f", "content"))
	n := 0
	for _, manifest := range []types.MediaType{types.OCIManifestSchema1, types.DockerManifestSchema2} {
		for kind, blob := range map[types.MediaType][]byte{
			types.OCILayer: gz(t, plain), types.OCILayerZStd: zst(t, plain), types.OCIUncompressedLayer: plain,
			types.DockerLayer: zst(t, plain), types.DockerUncompressedLayer: gz(t, plain), "application/vnd.docker.image.rootfs.diff.tar.zstd": zst(t, plain),
		} {
			n++
			img := mutate.MediaType(image(t, v1.Config{}, layerAs(t, blob, plain, kind)), manifest)
			im := mustPull(t, s, srv.push(t, fmt.Sprintf("app:%d", n), img))
			r := prepare(t, s, "c", im, RootfsOptions{})
			if got := contents(t, r.Path+"/f"); got != "content" {
				t.Errorf("%s %s: %q", manifest, kind, got)
			}
			if err := errors.Join(s.Release("c"), s.Remove(im.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
	clean(t, s, 0, 0)
}

func platform(os, arch, variant string) *v1.Platform {
	return &v1.Platform{OS: os, Architecture: arch, Variant: variant}
}

func TestChoose(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the table is amd64's")
	}
	for _, c := range []struct {
		list []*v1.Platform
		want int // -1: none
	}{
		{[]*v1.Platform{platform("windows", "amd64", ""), platform("linux", "arm64", ""), platform("linux", "amd64", "")}, 2},
		{[]*v1.Platform{platform("linux", "amd64", "v1"), platform("linux", "amd64", "")}, 1},
		{[]*v1.Platform{platform("linux", "amd64", "v4"), platform("linux", "amd64", "v1")}, 1},
		{[]*v1.Platform{platform("linux", "amd64", ""), platform("linux", "amd64", "")}, 0},
		{[]*v1.Platform{platform("unknown", "unknown", ""), nil}, 1},
		{[]*v1.Platform{nil, platform("linux", "amd64", "")}, 1},
		{[]*v1.Platform{platform("linux", "arm", "v7"), platform("unknown", "unknown", "")}, -1},
		{nil, -1},
	} {
		var list []v1.Descriptor
		for i, p := range c.list {
			list = append(list, v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(i), Platform: p})
		}
		got, err := choose(list)
		if (err != nil) != (c.want < 0) || err == nil && got.Size != int64(c.want) {
			t.Errorf("%v: %v %v", c.list, got.Size, err)
		}
		if err != nil && (status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "no match for platform")) {
			t.Error(err)
		}
	}
}

// TestIndex: the image for this machine out of an index in an index; its name
// is the outer index's digest.
func TestIndex(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	mine, other := simple(t, "mine"), simple(t, "other")
	var index v1.ImageIndex = mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: platform("linux", "s390x", "")}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: platform("linux", runtime.GOARCH, "")}})
	for depth := 1; depth <= maxIndexes+1; depth++ {
		srv.push(t, "app:mine", mine)
		srv.push(t, "app:other", other)
		for inner := index; ; {
			raw, err := inner.RawManifest()
			if err != nil {
				t.Fatal(err)
			}
			h, err := inner.Digest()
			if err != nil {
				t.Fatal(err)
			}
			srv.putManifest(t, "app/manifests/"+h.String(), types.OCIImageIndex, raw)
			srv.putManifest(t, "app/manifests/list", types.OCIImageIndex, raw)
			id, err := pull(t.Context(), s, srv.host+"/app:list", nil)
			if depth > maxIndexes {
				if status.Code(err) != codes.FailedPrecondition {
					t.Error("endless indexes", err)
				}
				return
			}
			if err != nil || id != idOf(t, mine) {
				t.Fatalf("%s %v", id, err)
			}
			if st := statusOf(t, s, srv.host+"/app@"+h.String()); st == nil || st.Id != id {
				t.Errorf("depth %d: by the index's digest: %v", depth, st)
			}
			break
		}
		index = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index, Descriptor: v1.Descriptor{MediaType: types.OCIImageIndex}})
	}
}

// TestOnce: pulls of one image at the same time are one; layers of several
// images are fetched once; who has other credentials has another pull.
func TestOnce(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	base := layerOfFiles(t, reg("base", strings.Repeat("x", 1<<20)))
	digest, err := base.Digest()
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for i := range 3 {
		refs = append(refs, srv.push(t, fmt.Sprintf("app:%d", i), image(t, v1.Config{}, base, layerOfFiles(t, reg("own", fmt.Sprint(i))))))
	}
	gate := make(chan struct{})
	srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, digest.String()) {
			<-gate
		}
		return false
	})
	var pulls sync.WaitGroup
	for i := range 12 {
		auth := &runtimeapi.AuthConfig{}
		if i >= 9 {
			auth = &runtimeapi.AuthConfig{Username: "u", Password: "p"}
		}
		pulls.Go(func() {
			if _, err := pull(t.Context(), s, refs[i%3], auth); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, "all ask for their manifests", func() bool { return srv.count("GET /v2/app/manifests") >= 6 && srv.count(digest.String()) > 0 })
	close(gate)
	pulls.Wait()
	if n := srv.count("GET /v2/app/blobs/" + digest.String()); n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}
	if n := srv.count("GET /v2/app/manifests"); n != 6 {
		t.Errorf("%d pulls, want one for each image and each secret", n)
	}
	clean(t, s, 4, 3)
}

// TestRiding: who waits for somebody else's download does not fail with him,
// and who is refused is refused although the image is here.
func TestRiding(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	ref := srv.push(t, "app:1", simple(t, "x"))
	started, gate := make(chan struct{}, 100), make(chan struct{})
	srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
		user, _, _ := r.BasicAuth()
		if user == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") && user == "first" {
			started <- struct{}{}
			<-gate
		}
		return false
	})
	ctx, leave := context.WithCancel(t.Context())
	var pulls sync.WaitGroup
	pulls.Go(func() {
		if _, err := pull(ctx, s, ref, &runtimeapi.AuthConfig{Username: "first", Password: "p"}); status.Code(err) != codes.Canceled {
			t.Error("the first was to leave", err)
		}
	})
	<-started
	pulls.Go(func() {
		if _, err := pull(t.Context(), s, ref, &runtimeapi.AuthConfig{Username: "second", Password: "p"}); err != nil {
			t.Error(err)
		}
	})
	leave()
	close(gate)
	pulls.Wait()
	clean(t, s, 2, 1)
	_, err := pull(t.Context(), s, ref, nil)
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), denied) {
		t.Error("no credentials, and served:", err)
	}
}

// TestCredentials: all kinds, to whom they go, and to whom not.
func TestCredentials(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	ref := srv.push(t, "app:1", simple(t, "x"))
	var bearer, open atomic.Bool
	srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
		user, pass, _ := r.BasicAuth()
		if open.Load() && r.URL.Path == "/v2/" {
			return false
		}
		if r.URL.Path == "/token" {
			if err := r.ParseForm(); err != nil {
				t.Error(err)
			}
			scope := r.Form.Get("scope")
			if (user == "me" && pass == "secret" || r.Form.Get("refresh_token") == "identity") && scope == "repository:app:pull" {
				fmt.Fprint(w, `{"token":"short-lived","access_token":"short-lived"}`)
				return true
			}
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		header := r.Header.Get("Authorization")
		if bearer.Load() && (header == "Bearer short-lived" || header == "Bearer ready") || !bearer.Load() && user == "me" && pass == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		if bearer.Load() {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, srv.URL))
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	pair := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	good := map[string]*runtimeapi.AuthConfig{
		"user":          {Username: "me", Password: "secret"},
		"auth":          {Auth: pair},
		"its address":   {Username: "me", Password: "secret", ServerAddress: srv.URL},
		"its host":      {Username: "me", Password: "secret", ServerAddress: srv.host},
		"its old path":  {Auth: pair, ServerAddress: srv.URL + "/v1/"},
		"user and auth": {Username: "me", Password: "secret", Auth: "ignored"},
	}
	bad := map[string]*runtimeapi.AuthConfig{
		"nothing": nil, "wrong": {Username: "me", Password: "wrong"}, "of another": {Username: "me", Password: "secret", ServerAddress: "https://other.example"},
	}
	check := func(kind string) {
		for name, auth := range good {
			if _, err := pull(t.Context(), s, ref, auth); err != nil {
				t.Errorf("%s, %s: %v", kind, name, err)
			}
		}
		for name, auth := range bad {
			if _, err := pull(t.Context(), s, ref, auth); status.Code(err) != codes.PermissionDenied || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s, %s: %v", kind, name, err)
			}
		}
	}
	check("basic")
	bearer.Store(true)
	good["identity"] = &runtimeapi.AuthConfig{IdentityToken: "identity"}
	good["registry token"] = &runtimeapi.AuthConfig{RegistryToken: "ready"}
	bad["other identity"] = &runtimeapi.AuthConfig{IdentityToken: "nobody"}
	check("bearer")
	open.Store(true)
	check("bearer, at the repository only")
	delete(good, "identity")
	delete(good, "registry token")
	bearer.Store(false)
	check("basic, at the repository only")
}

// TestMirrors: in their order, then the registry; none of them learns a secret
// that is not its own; their CA is theirs.
func TestMirrors(t *testing.T) {
	t.Parallel()
	first, second, home := serve(t), serve(t), serve(t)
	tls := httptest.NewUnstartedServer(second.Config.Handler)
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	tlsHost := strings.TrimPrefix(tls.URL, "https://")
	s, _ := open(t, Config{Registries: registry.Hosts{
		Mirrors: map[string][]string{"registry.example:5000": {first.URL + "/prefix", tls.URL}, home.host: {first.URL + "/prefix", tls.URL}}, CAs: map[string]string{tlsHost: ca},
	}})
	leaked := func(srv *server) {
		srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("%s was sent credentials", srv.URL)
			}
			if r.URL.Path != "/v2/" && r.URL.Path != "/prefix/v2/" && r.URL.Query().Get("ns") == "" {
				t.Errorf("%s is not told what it stands for: %s", srv.URL, r.URL)
			}
			r.URL.Path = strings.TrimPrefix(r.URL.Path, "/prefix")
			return false
		})
	}
	leaked(first)
	leaked(second)
	auth := &runtimeapi.AuthConfig{Username: "me", Password: "secret"}
	img := simple(t, "x")
	second.fault(nil)
	second.push(t, "app:1", img)
	leaked(second)
	if id, err := pull(t.Context(), s, "registry.example:5000/app:1", auth); err != nil || id != idOf(t, img) {
		t.Error(err)
	}
	if first.count("/prefix/v2/app/manifests") == 0 {
		t.Errorf("the first mirror was not asked: %v", first.asked)
	}
	if st := statusOf(t, s, "registry.example:5000/app:1"); st == nil || !strings.HasPrefix(st.RepoDigests[0], "registry.example:5000/app@") {
		t.Errorf("%v", st)
	}

	home.push(t, "own:1", simple(t, "own")) // mirrors do not have it
	if _, err := pull(t.Context(), s, home.host+"/own:1", nil); err != nil {
		t.Error(err)
	}
	_, err := pull(t.Context(), s, home.host+"/none:1", nil)
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), first.host) {
		t.Error(err)
	}
	// A mirror that breaks off in the middle is replaced by the registry.
	both := simple(t, "both")
	second.fault(nil)
	second.push(t, "both:1", both)
	home.push(t, "both:1", both)
	second.fault(func(w http.ResponseWriter, r *http.Request) bool {
		broken := strings.Contains(r.URL.Path, "/blobs/") && !strings.Contains(r.URL.Path, idOf(t, both))
		if broken {
			w.WriteHeader(http.StatusNotFound)
		}
		return broken
	})
	if _, err := pull(t.Context(), s, home.host+"/both:1", nil); err != nil {
		t.Error(err)
	}
	// Without its CA nobody is trusted, and nobody asks again for that.
	stranger, _ := open(t, Config{Registries: registry.Hosts{Mirrors: map[string][]string{home.host: {tls.URL}}}})
	home.fault(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusNotFound); return true })
	if _, err := pull(t.Context(), stranger, home.host+"/both:1", nil); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Error(err)
	}
}

// TestDocker: short names are Docker Hub's, as everywhere.
func TestDocker(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{Registries: registry.Hosts{Mirrors: map[string][]string{"docker.io": {srv.URL}}}})
	srv.push(t, "library/busybox:latest", simple(t, "x"))
	for _, ref := range []string{"busybox", "busybox:latest", "library/busybox", "docker.io/busybox", "index.docker.io/library/busybox:latest"} {
		im := mustPull(t, s, ref)
		if got := fmt.Sprint(im.Tags); got != "[docker.io/library/busybox:latest]" {
			t.Errorf("%s: %s", ref, got)
		}
	}
}

// TestInterrupted: a transfer goes on where it broke off; servers that are
// busy are asked again.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	srv := serve(t)
	s, _ := open(t, Config{})
	random := make([]byte, 256<<10)
	for i := range random {
		random[i] = byte(sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})[0])
	}
	big := layerOfFiles(t, reg("big", string(random)))
	ref := srv.push(t, "app:1", image(t, v1.Config{}, big))
	digest, err := big.Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob := func() []byte {
		r, err := big.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}()
	for name, ranges := range map[string]bool{"with ranges": true, "without": false} {
		var ranged []string
		n := 0
		srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, digest.String()) {
				return false
			}
			n++
			ranged = append(ranged, r.Header.Get("Range"))
			switch {
			case n == 1:
				w.WriteHeader(http.StatusServiceUnavailable)
			case n == 2:
				w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
				if _, err := w.Write(blob[:len(blob)/2]); err != nil {
					t.Error(err)
				}
				panic(http.ErrAbortHandler)
			case ranges:
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
			default:
				if _, err := w.Write(blob); err != nil {
					t.Error(err)
				}
			}
			return true
		})
		im := mustPull(t, s, ref)
		if len(ranged) != 3 || ranged[1] != "" || !strings.HasPrefix(ranged[2], "bytes=") || ranged[2] == "bytes=0-" {
			t.Errorf("%s: %q", name, ranged)
		}
		r := prepare(t, s, "c", im, RootfsOptions{})
		if contents(t, r.Path+"/big") != string(random) {
			t.Errorf("%s: other bytes", name)
		}
		if err := errors.Join(s.Release("c"), s.Remove(im.ID)); err != nil {
			t.Error(err)
		}
	}
}

// TestStops: a registry that stands still, one that is not there, and a caller
// who has enough.
func TestStops(t *testing.T) {
	t.Parallel()
	srv := serve(t)
	s, _ := open(t, Config{Progress: 100 * time.Millisecond})
	ref := srv.push(t, "app:1", simple(t, "x"))
	for _, part := range []string{"/v2/", "/manifests/", "/blobs/"} {
		gate := make(chan struct{})
		srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, part) || part != "/v2/" && strings.Contains(r.URL.Path, part) {
				w.(http.Flusher).Flush()
				<-gate
			}
			return false
		})
		_, err := pull(t.Context(), s, ref, nil)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "RegistryUnavailable") || !strings.Contains(err.Error(), errStalled.Error()) {
			t.Errorf("%s: %v", part, err)
		}
		close(gate)
		clean(t, s, 0, 0)
	}
	patient, _ := open(t, Config{})
	for _, part := range []string{"/manifests/", "/blobs/"} {
		gate, asked := make(chan struct{}), make(chan struct{}, 10)
		srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, part) {
				asked <- struct{}{}
				<-gate
			}
			return false
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := pull(ctx, patient, ref, nil)
			ended <- err
		}()
		<-asked
		cancel()
		if err := <-ended; status.Code(err) != codes.Canceled {
			t.Errorf("%s: %v", part, err)
		}
		clean(t, patient, 0, 0)
		close(gate)
	}
	srv.Close()
	if _, err := pull(t.Context(), s, ref, nil); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

// TestDowngrade: a registry that is spoken to in TLS is never spoken to otherwise.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	plain := serve(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	other := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, Config{Registries: registry.Hosts{CAs: map[string]string{plain.host: ca}}})
	if _, err := pull(t.Context(), s, plain.host+"/app:1", &runtimeapi.AuthConfig{Username: "u", Password: "p"}); err == nil {
		t.Error("pulled")
	}
	if plain.count("/") != 0 {
		t.Errorf("it was asked in plain: %v", plain.asked)
	}
}

// TestRedirect: blobs may lie elsewhere; the signature in the URL and the
// registry's credentials stay out of errors and of that place.
func TestRedirect(t *testing.T) {
	t.Parallel()
	srv := serve(t)
	s, _ := open(t, Config{})
	ref := srv.push(t, "app:1", simple(t, "x"))
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials went to the store")
		}
		resp, err := http.Get(srv.URL + r.URL.Path + "?direct")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if _, err := io.Copy(w, resp.Body); err != nil {
			t.Error(err)
		}
	}))
	srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.RawQuery == "direct" {
			return false
		}
		if user, _, _ := r.BasicAuth(); user == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, store.URL+r.URL.Path+"?signature=hidden", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	auth := &runtimeapi.AuthConfig{Username: "u", Password: "p"}
	if _, err := pull(t.Context(), s, ref, auth); err != nil {
		t.Error(err)
	}
	if err := s.Remove(ref); err != nil {
		t.Error(err)
	}
	store.Close()
	if _, err := pull(t.Context(), s, ref, auth); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Error(err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"mediaType":"x","config":{"digest":"sha256:`+strings.Repeat("0", 64)+`","size":1},"layers":[{"size":-1}]}`), []byte(`{"rootfs":{"diff_ids":[""]}}`))
	f.Add([]byte(`{"manifests":[{"platform":{"os":"linux","architecture":"amd64"}}]}`), []byte(`{}`))
	var limits Limits
	limits.complete()
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		d, err := parse(manifest, "")
		if err != nil {
			return
		}
		if d.Manifests != nil {
			if m, err := choose(d.Manifests); err == nil && fit(m.Platform) == 0 {
				t.Errorf("chose %v", m)
			}
			return
		}
		c, err := limits.describe(d, config)
		if err != nil {
			return
		}
		var back v1.ConfigFile
		if json.Unmarshal(config, &back) != nil || len(c.chains) != len(c.blobs) || len(c.diffs) != len(c.blobs) || len(c.blobs) > limits.Layers || c.size < 0 {
			t.Errorf("%+v", c)
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"", "a", "sha256:aa", "docker.io/a:1", "a@sha256:" + strings.Repeat("a", 64)} {
		f.Add(s)
	}
	id := "sha256:" + strings.Repeat("ab", 32)
	images := map[string]record{id: {ID: id, Tags: []string{"docker.io/library/a:latest"}}}
	f.Fuzz(func(t *testing.T, ref string) {
		if r, err := find(images, ref); err == nil && r.ID != id {
			t.Errorf("%q is %v", ref, r)
		} else if err != nil && !errors.Is(err, ErrNoImage) {
			t.Errorf("%q: %v", ref, err)
		}
	})
}

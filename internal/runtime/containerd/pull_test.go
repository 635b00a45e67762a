package containerd_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPull pulls from a plain registry on this machine, directly, as a mirror
// and with credentials.
func TestPull(t *testing.T) {
	needRoot(t)
	var asked, refused atomic.Int64
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/v2/" || strings.Contains(r.URL.Path, "/private/") {
			if user, pass, _ := r.BasicAuth(); user != "me" || pass != "secret" {
				if strings.Contains(r.URL.Path, "/private/") {
					refused.Add(1)
					w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, repo := range []string{"plain", "org/mirrored"} {
		ref, err := name.ParseReference(host+"/"+repo+":1", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		img, err := random.Image(1024, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config(t, "a")
	cfg.Registries.Mirrors = map[string][]string{"registry.example": {srv.URL}}
	in := run(t, cfg)
	_, cri := in.cri(t)
	pull := func(image string, auth *runtimeapi.AuthConfig) error {
		_, err := cri.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}, Auth: auth})
		return err
	}
	if err := pull(host+"/plain:1", nil); err != nil {
		t.Errorf("plain HTTP on loopback: %v", err)
	}
	if err := pull(strings.Replace(host, "127.0.0.1", "localhost", 1)+"/plain:1", nil); err != nil {
		t.Errorf("plain HTTP on localhost: %v", err)
	}
	before := asked.Load()
	if err := pull("registry.example/org/mirrored:1", nil); err != nil || asked.Load() == before {
		t.Errorf("by a mirror: %v", err)
	}
	if err := pull(host+"/private/x:1", nil); err == nil || refused.Load() == 0 {
		t.Errorf("without credentials: %v", err)
	}
	err := pull(host+"/private/x:1", &runtimeapi.AuthConfig{Username: "me", Password: "secret"})
	if err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("with credentials the registry says that there is none: %v", err)
	}
	// Registries are configured while containerd runs, and go again.
	hosts := filepath.Join(cfg.Root, "hosts")
	if entries, err := os.ReadDir(hosts); err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
	pid := in.pid(t)
	in.stop()
	cfg.Registries.Mirrors, cfg.Registries.Insecure = nil, []string{fmt.Sprintf("registry.example:%d", 5000)}
	next := run(t, cfg)
	if next.pid(t) != pid {
		t.Error("a change of registries restarted containerd")
	}
	if data, err := os.ReadFile(filepath.Join(hosts, "registry.example:5000", "hosts.toml")); err != nil || !strings.Contains(string(data), "http://registry.example:5000") {
		t.Errorf("%s %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(hosts, "registry.example")); err == nil {
		t.Error("the old mirror stays")
	}
}

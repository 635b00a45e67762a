package scenario

import (
	"archive/tar"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// listen opens a TCP port in the host's network, served by this process.
func (h *host) listen(t testing.TB, address string) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its network
		ns, err := os.Open("/run/netns/" + h.netns)
		if err != nil {
			done <- result{nil, err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		l, err := net.Listen("tcp", address)
		done <- result{l, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.l.Close() })
	return r.l
}

// registryServer is a registry in this process. Repositories below private/
// want a password, the layers of those below broken/ are not what they should be.
type registryServer struct {
	inner http.Handler
	base  v1.Image
	// fault, if any, answers in the place of inner, or says that it does not.
	fault func(w http.ResponseWriter, r *http.Request) bool

	mu    sync.Mutex
	asked map[string]int // manifests, by image
}

func newRegistry(t testing.TB) *registryServer {
	t.Helper()
	return &registryServer{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0))), base: archived(t, "busybox"), asked: map[string]int{}}
}

func (s *registryServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	repo, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	if user, password, _ := r.BasicAuth(); strings.HasPrefix(repo, "private/") && (user != "me" || password != "right") {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if what != "" {
		s.mu.Lock()
		s.asked[repo+":"+what]++
		s.mu.Unlock()
	}
	if strings.HasPrefix(repo, "broken/") && strings.Contains(repo, "/blobs/") && r.Method == http.MethodGet {
		w = breaker{w}
	}
	if s.fault != nil && s.fault(w, r) {
		return
	}
	s.inner.ServeHTTP(w, r)
}

func (s *registryServer) count(image string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[image]
}

// breaker changes what goes through it, and not its length.
type breaker struct{ http.ResponseWriter }

func (b breaker) Write(p []byte) (int, error) {
	q := append([]byte(nil), p...)
	q[len(q)-1] ^= 1
	return b.ResponseWriter.Write(q)
}

// push a busybox with a layer of its own, so that nothing of it is there
// before it was pulled, and return its digest.
func (s *registryServer) push(t testing.TB, repo string) string {
	t.Helper()
	layer, err := random.Layer(1024, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	return s.pushLayer(t, repo, layer)
}

// pushLayer pushes a busybox with one layer more.
func (s *registryServer) pushLayer(t testing.TB, repo string, layer v1.Layer) string {
	t.Helper()
	srv := httptest.NewServer(s.inner)
	defer srv.Close()
	img, err := mutate.AppendLayers(s.base, layer)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://")+"/"+repo+":1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// archived is one of the images in bin.
func archived(t testing.TB, name string) v1.Image {
	t.Helper()
	f, err := os.Open(filepath.Join(binDir(t), "images", name+".tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, filepath.FromSlash(hdr.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// selfSigned makes a certificate for an address, and its PEM file.
func selfSigned(t testing.TB, ip string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.ParseIP(ip)}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// TestRegistries: what a node pulls, and what it says when it cannot.
func TestRegistries(t *testing.T) {
	l := newLAN(t)
	h := l.newHost(t)
	s := newRegistry(t)
	digests := map[string]string{}
	for _, repo := range []string{"plain", "digest", "never", "private/pod", "private/account", "private/late", "private/digest", "private/volume", "broken/layer", "mirrored", "secure"} {
		digests[repo] = s.push(t, repo)
	}
	serve := func(l net.Listener) {
		go func() { _ = (&http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}).Serve(l) }()
	}
	cert, ca := selfSigned(t, h.ip)
	serve(h.listen(t, "127.0.0.1:5000"))
	serve(h.listen(t, h.ip+":5001")) // a mirror, and insecure
	for _, port := range []string{":5443", ":5444"} {
		serve(tls.NewListener(h.listen(t, h.ip+port), &tls.Config{Certificates: []tls.Certificate{cert}}))
	}
	flags := []string{"--registry-mirror", "registry.example=http://" + h.ip + ":5002", "--registry-mirror", "registry.example=http://" + h.ip + ":5001",
		"--insecure-registry", h.ip + ":5001", "--registry-ca", h.ip + ":5443=" + ca}
	h.up(t, flags...)

	secret := func(name, server, password string) string {
		out, err := h.kubectl("create", "secret", "docker-registry", name, "--docker-server="+server, "--docker-username=me", "--docker-password="+password, "--dry-run=client", "-o", "yaml")
		if err != nil {
			t.Fatal(out)
		}
		return out + "---\n"
	}
	h.apply(t, secret("good", "localhost:5000", "right")+secret("exact", "http://localhost:5000/private/digest", "right")+
		secret("other", "localhost:5009", "right")+secret("late", "localhost:5000", "wrong")+
		"{apiVersion: v1, kind: ServiceAccount, metadata: {name: puller}, imagePullSecrets: [{name: other}, {name: good}]}\n")

	const local = "localhost:5000/"
	all, table := "", []struct{ name, image, policy, more, want string }{
		{"plain", local + "plain:1", "IfNotPresent", "", "running"},
		{"digest", local + "digest@" + digests["digest"], "IfNotPresent", "", "running"},
		{"pod-secret", local + "private/pod:1", "IfNotPresent", "imagePullSecrets: [{name: nothing}, {name: other}, {name: good}]", "running"},
		{"account-secret", local + "private/account:1", "IfNotPresent", "serviceAccountName: puller", "running"},
		{"secret-digest", local + "private/digest@" + digests["private/digest"], "IfNotPresent", "imagePullSecrets: [{name: exact}]", "running"},
		{"mirrored", "registry.example/mirrored:1", "IfNotPresent", "", "running"},
		{"insecure", h.ip + ":5001/plain:1", "IfNotPresent", "", "running"},
		{"secure", h.ip + ":5443/secure:1", "IfNotPresent", "", "running"},
		{"late", local + "private/late:1", "IfNotPresent", "imagePullSecrets: [{name: late}]", "ImagePull.*401 Unauthorized"},
		{"no-ca", h.ip + ":5444/secure:1", "IfNotPresent", "", "ImagePull.*x509: certificate signed by unknown authority"},
		{"missing", local + "plain:2", "IfNotPresent", "", "ImagePull.*not found.*plain:2"},
		{"never", local + "never:1", "Never", "", "ErrImageNeverPull.*is not present with pull policy of Never"},
		{"missing-secure", h.ip + ":5443/secure:2", "IfNotPresent", "", "ImagePull.*not found.*secure:2"},
		{"missing-insecure", h.ip + ":5001/secure:2", "IfNotPresent", "", "ImagePull.*not found.*secure:2"},
		{"missing-mirrored", "registry.example/mirrored:2", "IfNotPresent", "", "ImagePull.*(not found.*mirrored:2|dial tcp)"},
		{"broken", local + "broken/layer:1", "IfNotPresent", "", "ImagePull.*(unexpected commit|came with) digest"},
		{"bad-name", local + "Plain:1", "IfNotPresent", "", "InvalidImageName.*invalid reference format: repository name .*must be lowercase"},
	}
	for _, p := range table {
		all += podOf(p.name, p.image, p.policy, p.more)
	}
	h.apply(t, all)
	for _, p := range table {
		h.awaitState(t, p.name, p.want)
	}
	h.awaitState(t, "late", "ImagePullBackOff.*Back-off pulling image.*401 Unauthorized")
	if out := h.mustKubectl(t, "get", "events", "--field-selector", "involvedObject.name=late"); !regexp.MustCompile(`Failed to pull image "localhost:5000/private/late:1".*401`).MatchString(out) ||
		!strings.Contains(out, "Error: ImagePullBackOff") {
		t.Errorf("events of a refused pull:\n%s", out)
	}
	if out := h.mustKubectl(t, "get", "events", "--field-selector", "involvedObject.name=pod-secret"); !strings.Contains(out, "Unable to retrieve some image pull secrets (nothing)") {
		t.Errorf("events of a missing secret:\n%s", out)
	}
	h.apply(t, secret("late", "localhost:5000", "right"))

	// What is there already: asked for again or not, and by whom.
	plain := s.count("plain:1")
	h.apply(t, podOf("again", local+"plain:1", "IfNotPresent", "")+podOf("offline", local+"plain:1", "Never", "")+
		podOf("thief", local+"private/pod:1", "Always", "")+podOf("quiet-thief", local+"private/pod:1", "IfNotPresent", "")+
		podOf("sitting-thief", local+"private/pod:1", "Never", "")+
		podOf("friend", local+"private/pod:1", "IfNotPresent", "imagePullSecrets: [{name: good}]"))
	h.awaitState(t, "again", "running")
	h.awaitState(t, "offline", "running")
	h.awaitState(t, "friend", "running")
	if n := s.count("plain:1"); n != plain {
		t.Errorf("an image that is present was asked for %d times", n-plain)
	}
	h.apply(t, mountsImage("volume-thief", local+"private/pod:1", "")+mountsImage("volume-friend", local+"private/pod:1", "imagePullSecrets: [{name: good}]")+
		mountsImage("volume-puller", local+"private/volume:1", "serviceAccountName: puller"))
	h.awaitState(t, "volume-friend", "running")
	h.awaitState(t, "volume-puller", "running")
	h.awaitState(t, "volume-thief", "ImagePull.*private/pod:1.*401 Unauthorized")
	h.awaitState(t, "thief", "ImagePull.*401 Unauthorized")
	h.awaitState(t, "quiet-thief", "ImagePull.*401 Unauthorized")
	h.awaitState(t, "sitting-thief", "ErrImageNeverPull.*does not have the proper credentials")
	h.apply(t, podOf("always", local+"plain:1", "Always", ""))
	h.awaitState(t, "always", "running")
	if s.count("plain:1") == plain {
		t.Error("pull policy Always did not ask the registry")
	}
	h.awaitState(t, "late", "running")

	// knarr dies and comes again: what runs goes on, and nobody has gained a right.
	running := func() string {
		return h.mustKubectl(t, "get", "pods", "-o", `jsonpath={range .items[?(@.status.phase=="Running")]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
	}
	before := running()
	kill(t, pidOf(t, h), syscall.SIGKILL)
	h.up(t, flags...)
	h.apply(t, podOf("new-thief", local+"private/pod:1", "IfNotPresent", "")+podOf("new-friend", local+"private/pod:1", "IfNotPresent", "imagePullSecrets: [{name: good}]"))
	h.awaitState(t, "new-thief", "ImagePull.*401 Unauthorized")
	h.awaitState(t, "new-friend", "running")
	h.mustKubectl(t, "delete", "pod", "new-friend", "--timeout=180s")
	if after := running(); after != before || strings.Count(before, "\n") < 10 {
		t.Errorf("before the restart:\n%safter it:\n%s", before, after)
	}
}

func podOf(name, image, policy, more string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n"+
		"  - {name: main, image: %q, imagePullPolicy: %s, command: [sleep, \"3600\"]}\n  %s\n---\n", name, image, policy, more)
}

// mountsImage is a pod that mounts an image as a volume.
func mountsImage(name, image, more string) string {
	return podOf(name, "registry.knarr.dev/busybox:1", "IfNotPresent, volumeMounts: [{name: image, mountPath: /image}]",
		fmt.Sprintf("volumes: [{name: image, image: {reference: %q}}]\n  %s", image, more))
}

// awaitState waits until what the pod's container is doing matches.
func (h *host) awaitState(t testing.TB, pod, want string) {
	t.Helper()
	re := regexp.MustCompile(want)
	eventually(t, pod+" is "+want, func() (string, bool) {
		out, _ := h.kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason} {.status.containerStatuses[0].state}")
		return out, re.MatchString(out)
	})
}

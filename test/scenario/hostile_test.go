package scenario

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// archive packs entries; what has a body is a file.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// compressed is data and then so many zeros.
func compressed(t testing.TB, data []byte, more int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.Copy(w, io.MultiReader(bytes.NewReader(data), io.LimitReader(zeros{}, more))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// stored is what a node's image store holds, and what is mounted below it.
func stored(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	for _, sub := range []string{"layers", "configs", "containers", "tmp"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, filepath.Join(sub, e.Name()))
		}
	}
	var images []struct {
		Tags []string `json:"tags"`
	}
	data, err := os.ReadFile(filepath.Join(dir, "images.json"))
	if err == nil {
		err = json.Unmarshal(data, &images)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range images {
		out = append(out, fmt.Sprint("image ", im.Tags))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir) {
			out = append(out, "mount "+f[4])
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// hostile is an image with a layer that is not as it should be, or does not
// come so.
type hostile struct {
	name  string
	layer v1.Layer
	fault func(digest string) // of the layer
	want  string              // in the message
}

// TestHostileImages: what the built-in runtime does not take from a registry.
// The pod's events say why, nothing of the image is on the node afterwards,
// and the other pods go on; with a full disk it is the same until there is room.
func TestHostileImages(t *testing.T) {
	if r := os.Getenv("KNARR_RUNTIME"); r != "" && r != "builtin" {
		t.Skip("about the built-in runtime's image store")
	}
	h := newLAN(t).newHost(t)
	images := filepath.Join(h.dataDir, "agent", "runtime", "images")
	if err := os.MkdirAll(images, 0o700); err != nil {
		t.Fatal(err)
	}
	// Small, and larger than what the store never uses.
	if err := unix.Mount("tmpfs", images, "tmpfs", 0, "size=600m,mode=0711"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := run(filepath.Join(h.bin, "knarr"), "down", "--data-dir", h.dataDir); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		if err := unix.Unmount(images, 0); err != nil {
			t.Errorf("the images are in use: %v", err)
		}
	})

	s := newRegistry(t)
	faults := map[string]http.HandlerFunc{} // by a part of the path
	s.fault = func(w http.ResponseWriter, r *http.Request) bool {
		for part, answer := range faults {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, part) {
				answer(w, r)
				return true
			}
		}
		return false
	}
	const local = "localhost:5000/"
	raw := func(data []byte, kind types.MediaType) v1.Layer { return static.NewLayer(data, kind) }
	files := func(entries ...tar.Header) v1.Layer {
		return raw(archive(t, entries...), types.DockerUncompressedLayer)
	}
	plain := archive(t, tar.Header{Name: "f", Size: 3000})
	outside := t.TempDir()
	fails := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	// The layer comes in another way than it should.
	sent := func(answer func(w http.ResponseWriter, blob []byte)) func(digest string) {
		return func(digest string) {
			faults["/blobs/"+digest] = func(w http.ResponseWriter, _ *http.Request) { answer(w, plain) }
		}
	}
	repo := func(name string, answer http.HandlerFunc) func(string) {
		return func(string) { faults["/v2/hostile/"+name+"/"] = answer }
	}
	stuck := make(chan struct{})
	defer close(stuck)
	odd := []hostile{ // they run
		{"symbolic-link-out", files(tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside}, tar.Header{Name: "d/escaped", Size: 3}), nil, ""},
		{"slow", files(tar.Header{Name: "f", Size: 3000}), sent(func(w http.ResponseWriter, b []byte) {
			for part := range slices.Chunk(b, 100) {
				_, _ = w.Write(part)
				_ = http.NewResponseController(w).Flush()
				<-time.After(20 * time.Millisecond)
			}
		}), ""},
	}
	table := []hostile{
		{"wrong-digest", files(tar.Header{Name: "wrong", Size: 3000}), sent(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(append([]byte("x"), b[1:]...)) }), "came with digest sha256:"},
		{"wrong-content", raw(compressed(t, plain, 0), types.DockerLayer), nil, "has digest sha256:"},
		{"too-long", files(tar.Header{Name: "long"}), sent(func(w http.ResponseWriter, b []byte) { _, _ = w.Write(b) }), "more than the [0-9]+ bytes that the manifest declares"},
		{"cut-off", files(tar.Header{Name: "cut", Size: 9000}), sent(func(w http.ResponseWriter, b []byte) {
			w.Header().Set("Content-Length", "12000")
			_, _ = w.Write(b)
		}), "unexpected EOF"},
		{"broken-gzip", raw(compressed(t, plain, 0)[:40], types.DockerLayer), nil, "unexpected EOF"},
		{"no-archive", raw([]byte(strings.Repeat("text", 300)), types.DockerUncompressedLayer), nil, "cannot be unpacked"},
		{"gzip-bomb", raw(compressed(t, plain, 1<<30), types.DockerLayer), nil, "unpacks to more than 1073741824 bytes"},
		{"path-out", files(tar.Header{Name: "../../../knarr-escaped"}), nil, "outside of its root"},
		{"hard-link-out", files(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../../../../etc/passwd"}), nil, "outside of its root"},
		{"hard-link-by-link", files(tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "d/machine-id"}), nil, "no such file"},
		{"foreign-layer", raw(plain, types.DockerForeignLayer), nil, "foreign layer"},
		{"server-error", files(tar.Header{Name: "500"}), repo("server-error", fails(http.StatusInternalServerError)), "RegistryUnavailable.*500 Internal Server Error"},
		{"layer-error", files(tar.Header{Name: "503"}), func(digest string) { faults["/blobs/"+digest] = fails(http.StatusServiceUnavailable) }, "RegistryUnavailable.*503 Service Unavailable"},
		{"no-manifest", files(tar.Header{Name: "text"}), repo("no-manifest", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{") }), "manifest cannot be read"},
		{"silent", files(tar.Header{Name: "silent"}), repo("silent", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-stuck:
			case <-r.Context().Done():
			}
		}), "RegistryUnavailable.*no data came for 1m0s"},
	}
	for _, c := range append(odd, table...) {
		digest, err := c.layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		s.pushLayer(t, "hostile/"+c.name, c.layer)
		if c.fault != nil {
			c.fault(digest.String())
		}
	}
	for _, repo := range []string{"good/steady", "good/later", "good/full"} {
		s.push(t, repo)
	}
	l := h.listen(t, "127.0.0.1:5000")
	go func() { _ = (&http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}).Serve(l) }()
	h.up(t, "--container-runtime-endpoint", "builtin")
	runs := func(name, repo string) {
		h.apply(t, podOf(name, local+repo+":1", "IfNotPresent", ""))
		h.awaitState(t, name, "running")
	}
	gone := func(name string) { h.mustKubectl(t, "delete", "pod", name, "--timeout=180s") }
	runs("steady", "good/steady")
	life := func() string {
		return h.mustKubectl(t, "get", "pod", "steady", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}")
	}
	steady := life()
	for _, c := range odd {
		runs(c.name, "hostile/"+c.name)
		gone(c.name)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("a layer wrote to %s: %v %v", outside, left, err)
	}
	before := stored(t, images)

	refused := func(pod, image, want string) {
		t.Helper()
		h.awaitState(t, pod, "^(ErrImagePull|ImagePullBackOff) .*"+want)
		h.awaitEvent(t, pod, `Failed Failed to pull image "`+image+`": .*`+want)
		h.awaitEvent(t, pod, `BackOff Back-off pulling image "`+image+`"`)
	}
	clean := func() {
		t.Helper()
		eventually(t, "the store is as it was, "+before, func() (string, bool) {
			now := stored(t, images)
			return now, now == before
		})
	}
	table = append(table, hostile{"unreachable", nil, nil, "RegistryUnavailable.*connection refused"})
	all, image := "", func(c hostile) string {
		if c.layer == nil {
			return "localhost:5009/x:1"
		}
		return local + "hostile/" + c.name + ":1"
	}
	for _, c := range table {
		all += podOf(c.name, image(c), "IfNotPresent", "")
	}
	h.apply(t, all)
	for _, c := range table {
		refused(c.name, image(c), c.want)
	}
	for _, c := range table {
		gone(c.name)
	}
	clean()

	// The disk is full: less is free than what the store leaves to others.
	filler := filepath.Join(images, "filler")
	if err := os.WriteFile(filler, make([]byte, 400<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.apply(t, podOf("full", local+"good/full:1", "IfNotPresent", ""))
	refused("full", local+"good/full:1", "no space left on device")
	clean()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	h.awaitState(t, "full", "running")

	runs("later", "good/later")
	if now := life(); now != steady {
		t.Errorf("a pod beside it was %s and is %s", steady, now)
	}
}

// awaitEvent waits for an event of a pod: its reason and message.
func (h *host) awaitEvent(t testing.TB, pod, want string) {
	t.Helper()
	re := regexp.MustCompile("(?m)^" + want)
	eventually(t, pod+" has the event "+want, func() (string, bool) {
		out, _ := h.kubectl("get", "events", "--field-selector", "involvedObject.name="+pod, "-o", `jsonpath={range .items[*]}{.reason} {.message}{"\n"}{end}`)
		return out, re.MatchString(out)
	})
}

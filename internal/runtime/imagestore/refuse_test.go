package imagestore

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestRefused: images that cannot be, that harm, or that are too much. Each is
// refused with words, leaves nothing, and does other images no harm.
func TestRefused(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{Limits: Limits{Entries: 20, Layers: 3, Metadata: 8 << 10, Compressed: 1 << 20, Unpacked: 4 << 20}})
	good := mustPull(t, s, srv.push(t, "good:1", simple(t, "good")))

	layers := func(l ...v1.Layer) func() { return func() { srv.push(t, "bad:1", image(t, v1.Config{}, l...)) } }
	files := func(f ...file) func() { return layers(layerOfFiles(t, f...)) }
	plain := pack(t, reg("f", "x"))
	edited := func(edit func(m map[string]any)) func() {
		return func() {
			img := simple(t, "edited")
			srv.push(t, "bad:1", img)
			raw, err := img.RawManifest()
			if err != nil {
				t.Fatal(err)
			}
			var m map[string]any
			if err := json.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			edit(m)
			if raw, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			srv.putManifest(t, "bad/manifests/1", types.DockerManifestSchema2, raw)
		}
	}
	served := func(change func(blob []byte) []byte) func() {
		return func() {
			l := layerOfFiles(t, reg("f", "changed on the way"))
			srv.push(t, "bad:1", image(t, v1.Config{}, l))
			h, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			r, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			blob, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			srv.fault(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, h.String()) {
					return false
				}
				if _, err := w.Write(change(blob)); err != nil {
					t.Log(err)
				}
				return true
			})
		}
	}
	zeros := bytes.Repeat([]byte{0}, 8<<20)
	own := func(m map[string]any) map[string]any { return m["layers"].([]any)[1].(map[string]any) }

	for name, c := range map[string]struct {
		push func()
		want string
	}{
		"wrong digest of a layer":  {served(func(b []byte) []byte { return append([]byte("x"), b[1:]...) }), "came with digest"},
		"a layer too long":         {served(func(b []byte) []byte { return append(bytes.Clone(b), 'x') }), "more than the"},
		"wrong diff ID":            {layers(layerAs(t, gz(t, plain), pack(t, reg("other", "x")), types.DockerLayer)), "has digest"},
		"broken gzip":              {layers(layerAs(t, gz(t, plain)[:40], plain, types.DockerLayer)), "unexpected EOF"},
		"no gzip inside":           {layers(layerAs(t, []byte{0x1f, 0x8b, 9}, plain, types.DockerLayer)), "cannot be decompressed"},
		"broken zstd":              {layers(layerAs(t, append([]byte{0x28, 0xb5, 0x2f, 0xfd}, plain...), plain, types.OCILayerZStd)), "cannot be unpacked"},
		"no tar inside":            {layers(layerAs(t, []byte(strings.Repeat("text", 300)), []byte("text"), types.DockerLayer)), "cannot be unpacked"},
		"broken tar":               {layers(layerAs(t, plain[:400], plain[:400], types.DockerUncompressedLayer)), "cannot be unpacked"},
		"gzip bomb":                {layers(layerAs(t, gz(t, pack(t, reg("f", string(zeros)))), nil, types.DockerLayer)), "unpacks to more than"},
		"zstd bomb":                {layers(layerAs(t, zst(t, pack(t, reg("f", string(zeros)))), nil, types.OCILayerZStd)), "unpacks to more than"},
		"bomb behind the archive":  {layers(layerAs(t, gz(t, append(plain, zeros...)), nil, types.DockerLayer)), "unpacks to more than"},
		"bomb of holes":            {layers(layerAs(t, gz(t, sparse(t, 1<<50)), nil, types.DockerLayer)), "unpacks to more than"},
		"more files than declared": {files(many(30)...), "more than 20 entries"},
		"path above":               {files(reg("../escape", "x")), "outside of its root"},
		"path above inside":        {files(dir("a/", 0o755), reg("a/../../escape", "x")), "outside of its root"},
		"hard link above":          {files(file{tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}, ""}), "outside of its root"},
		"hard link to nothing":     {files(symlink("d", "/etc"), file{tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "d/passwd"}, ""}), "no such file"},
		"whiteout of above":        {files(reg("a/.wh...", "")), "cannot be unpacked"},
		"a long path":              {files(reg(strings.Repeat("d/", 2500)+"f", "x")), "path longer"},
		"a long name":              {files(reg(strings.Repeat("n", 300), "x")), "too long"},
		"a device that cannot be":  {files(file{tar.Header{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 1 << 33}, ""}), "cannot be"},
		"a file as a directory":    {files(reg("f", "x"), reg("f/g", "x")), "cannot be unpacked"},
		"an odd entry":             {layers(layerAs(t, gz(t, odd(t)), nil, types.DockerLayer)), "cannot be unpacked"},
		"many layers":              {layers(layerOfFiles(t, reg("1", "")), layerOfFiles(t, reg("2", "")), layerOfFiles(t, reg("3", "")), layerOfFiles(t, reg("4", ""))), "4 layers, more than 3"},
		"a foreign layer":          {layers(layerAs(t, gz(t, plain), plain, types.DockerForeignLayer)), "foreign layer"},
		"a layer of another kind":  {layers(layerAs(t, gz(t, plain), plain, "application/vnd.wasm")), "application/vnd.wasm"},
		"a layer declared huge":    {edited(func(m map[string]any) { own(m)["size"] = 2 << 20 }), "more than 1048576 bytes"},
		"a layer declared shorter": {edited(func(m map[string]any) { own(m)["size"] = 10 }), "more than the 10 bytes"},
		"a layer of negative size": {edited(func(m map[string]any) { own(m)["size"] = -1 }), "more than 1048576 bytes"},
		"layers without diff IDs":  {edited(func(m map[string]any) { m["layers"] = m["layers"].([]any)[:1] }), "1 layers and the configuration 2"},
		"index and manifest":       {edited(func(m map[string]any) { m["manifests"] = []any{} }), "index too"},
		"type of another":          {edited(func(m map[string]any) { m["mediaType"] = types.OCIImageIndex }), "says that it is"},
		"schema 1":                 {edited(func(m map[string]any) { m["fsLayers"] = []any{1} }), "schema 1"},
		"no image at all":          {edited(func(m map[string]any) { delete(m, "config") }), "is no image"},
		"an artifact":              {edited(func(m map[string]any) { m["config"].(map[string]any)["mediaType"] = "application/vnd.cncf.helm.config" }), "artifact"},
		"config of another size":   {edited(func(m map[string]any) { m["config"].(map[string]any)["size"] = 3 }), "instead of 3"},
		"a sha512":                 {edited(func(m map[string]any) { own(m)["digest"] = "sha512:" + strings.Repeat("0", 128) }), "only sha256"},
		"a huge manifest":          {edited(func(m map[string]any) { m["x"] = strings.Repeat("x", 9000) }), "more than 8192"},
		"a huge configuration":     {func() { srv.push(t, "bad:1", image(t, v1.Config{User: strings.Repeat("x", 9000)})) }, "more than 8192"},
		"no JSON":                  {func() { srv.putManifest(t, "bad/manifests/1", types.OCIManifestSchema1, []byte("{")) }, "cannot be read"},
		"another machine's":        {func() { srv.push(t, "bad:1", foreign(t)) }, "no match for platform"},
	} {
		t.Run(name, func(t *testing.T) {
			srv.fault(nil)
			c.push()
			_, err := pull(t.Context(), s, srv.host+"/bad:1", nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || status.Code(err) == codes.Unknown {
				t.Errorf("%v, want %s", err, c.want)
			}
			clean(t, s, 2, 1)
			if statusOf(t, s, srv.host+"/bad:1") != nil || statusOf(t, s, good.ID) == nil {
				t.Error("wrong images")
			}
		})
	}
	if _, err := os.Stat("/escape"); err == nil {
		t.Error("something escaped")
	}
	r := prepare(t, s, "c", good, RootfsOptions{})
	if contents(t, r.Path+"/etc/own") != "good" {
		t.Error("the good image suffered")
	}
	if err := s.Release("c"); err != nil {
		t.Error(err)
	}
}

func many(n int) (out []file) {
	for i := range n {
		out = append(out, reg(fmt.Sprint(i), ""))
	}
	return out
}

// sparse is an archive with a file that has no bytes in it but a huge size.
func sparse(t *testing.T, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	body := "1\n0\n0\n" // one fragment, empty (GNU sparse format 1.0)
	body += strings.Repeat("\x00", 512-len(body))
	err := w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: int64(len(body)), Format: tar.FormatPAX, PAXRecords: map[string]string{"MADE.UP": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// archive/tar does not write sparse files: the record is exchanged.
	records := ""
	for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=f", fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
		n := len(kv) + 3
		for len(fmt.Sprintf("%d %s\n", n, kv)) != n {
			n++
		}
		records += fmt.Sprintf("%d %s\n", n, kv)
	}
	data := b.Bytes()
	copy(data[512:1024], make([]byte, 512))
	copy(data[512:], records)
	copy(data[124:], fmt.Sprintf("%011o\x00", len(records)))
	copy(data[148:156], "        ")
	sum := 0
	for _, c := range data[:512] {
		sum += int(c)
	}
	copy(data[148:], fmt.Sprintf("%06o\x00 ", sum))
	h, err := tar.NewReader(bytes.NewReader(data)).Next()
	if err != nil || h.Size != size {
		t.Fatalf("the test's archive is no sparse one: %v %v", h, err)
	}
	return data
}

// odd is an archive with an entry of a type that nobody knows.
func odd(t *testing.T) []byte {
	t.Helper()
	data := pack(t, reg("f", ""))
	data[156] = 'Z'
	sum := 0
	copy(data[148:156], "        ")
	for _, c := range data[:512] {
		sum += int(c)
	}
	copy(data[148:], fmt.Sprintf("%06o\x00 ", sum))
	return data
}

func foreign(t *testing.T) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(simple(t, "foreign"), &v1.ConfigFile{OS: "linux", Architecture: "not" + runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestDiskFull: on a small file system, by the real end of it and by the
// reserve; what is there goes on, and after making room it works.
func TestDiskFull(t *testing.T) {
	needRoot(t)
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	srv := serve(t)
	big := srv.push(t, "big:1", image(t, v1.Config{}, layerOfFiles(t, reg("zeros", string(make([]byte, 8<<20))))))
	random := []byte(nil)
	for i := 0; len(random) < 4<<20; i++ {
		random = append(random, digestOf(fmt.Append(nil, i))...)
	}
	incompressible := srv.push(t, "random:1", image(t, v1.Config{}, layerAs(t, pack(t, reg("f", string(random))), pack(t, reg("f", string(random))), types.DockerUncompressedLayer)))
	small := srv.push(t, "small:1", simple(t, "x"))
	s, stop := open(t, Config{Root: filepath.Join(disk, "images"), Limits: Limits{Reserve: 1}})
	im := mustPull(t, s, small)
	filler := filepath.Join(disk, "filler")
	for name, ref := range map[string]string{"unpacking": big, "downloading": incompressible} {
		_, err := pull(t.Context(), s, ref, nil)
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("%s: %v", name, err)
		}
		clean(t, s, 2, 1)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filler, make([]byte, int64(st.Bavail)*st.Bsize), 0o600); err != nil {
		t.Fatal(err)
	}
	// No room for a changed list of images: the old one stays, in memory too.
	if err := s.Pin(small, true); err == nil || statusOf(t, s, small).Pinned {
		t.Error("written on a full disk", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.Pin(small, true); err != nil || statusOf(t, s, im.ID) == nil {
		t.Error(err)
	}
	stop()
	s, _ = open(t, Config{Root: filepath.Join(disk, "images"), Limits: Limits{Reserve: 10 << 20}})
	if _, err := pull(t.Context(), s, srv.push(t, "other:1", simple(t, "other")), nil); status.Code(err) != codes.ResourceExhausted {
		t.Error("the reserve was used", err)
	}
	clean(t, s, 2, 1)
}

// TestUnpackedLimit: what the ratio allows.
func TestUnpackedLimit(t *testing.T) {
	for _, c := range []struct{ limit, packed, want int64 }{
		{512 << 30, 0, bombFloor}, {512 << 30, 1 << 20, bombFloor}, {512 << 30, 1 << 30, 100 << 30}, {512 << 30, 1 << 60, 512 << 30}, {1 << 20, 1 << 30, 1 << 20},
	} {
		if got := unpackedLimit(c.limit, c.packed); got != c.want {
			t.Errorf("%v: %d", c, got)
		}
	}
}

// FuzzLayer: no archive writes beside its root.
func FuzzLayer(f *testing.F) {
	f.Add("a", "b", "c", byte('2'), byte('1'))
	f.Add("../x", "/x", "x/../../y", byte('5'), byte('0'))
	f.Add("d", "..", "d/x", byte('2'), byte('0'))
	f.Add(".wh.a", "a", "a/.wh..wh..opq", byte('0'), byte('0'))
	if os.Getuid() != 0 {
		f.Skip("needs root")
	}
	f.Fuzz(func(t *testing.T, one, two, three string, kind, other byte) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{
			{Name: one, Typeflag: kind, Linkname: two}, {Name: three, Typeflag: other, Linkname: one}, {Name: one + "/" + two, Typeflag: other, Linkname: three},
			{Name: three + "/" + two, Typeflag: tar.TypeReg}, {Name: one + "/" + three, Typeflag: tar.TypeReg},
		} {
			if kind == tar.TypeChar || kind == tar.TypeBlock || w.WriteHeader(&h) != nil {
				return
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		outer := t.TempDir()
		for _, name := range []string{"canary", "dir/canary"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(outer, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(outer, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		work := filepath.Join(outer, "dir", "work")
		if err := os.Mkdir(work, 0o755); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Root: outer})
		if err != nil {
			t.Fatal(err)
		}
		// Its digest is wrong, so there is an error at the end anyway.
		if _, err := s.unpackLayer(context.Background(), work, &b, 0, "sha256:none", nil); err == nil {
			t.Fatal("no error")
		}
		if got := strings.Join(paths(t, filepath.Join(outer, "dir")), " "); !strings.HasPrefix(got, "canary work") || strings.Contains(strings.ReplaceAll(got, "work/fs", ""), "work/") {
			t.Errorf("%s", got)
		}
		entries, err := os.ReadDir(outer)
		if err != nil || len(entries) != 2 {
			t.Errorf("%v %v", entries, err)
		}
	})
}

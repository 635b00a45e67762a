package imagestore

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layout packs images as an OCI image layout, by name. change alters a file.
func layout(t *testing.T, images map[string]v1.Image, change func(name string, data []byte) []byte) string {
	t.Helper()
	var index struct {
		Manifests []v1.Descriptor `json:"manifests"`
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	blob := func(digest string, data []byte) { files["blobs/sha256/"+encoded(digest)] = data }
	for ref, img := range images {
		raw, err := img.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.RawConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		h, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		blob(h.String(), raw)
		blob(idOf(t, img), config)
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			r, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			blob(digestOf(data), data)
		}
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: types.DockerManifestSchema2, Digest: h, Size: int64(len(raw)), Annotations: map[string]string{"io.containerd.image.name": ref},
		})
	}
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	files["index.json"] = data
	var entries []file
	for name, data := range files {
		if change != nil {
			data = change(name, data)
		}
		entries = append(entries, reg(name, string(data)))
	}
	path := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(path, pack(t, entries...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImport(t *testing.T) {
	s, _ := open(t, Config{})
	one, two := simple(t, "one"), simple(t, "two")
	names, err := s.Import(t.Context(), layout(t, map[string]v1.Image{"registry.example/one:1": one, "two": two}, nil))
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	for ref, img := range map[string]v1.Image{"registry.example/one:1": one, "docker.io/library/two:latest": two} {
		im, err := s.Get(ref)
		if err != nil || im.ID != idOf(t, img) || fmt.Sprint(im.Tags) != "["+ref+"]" || len(im.Digests) != 0 || im.Size == 0 {
			t.Errorf("%+v %v", im, err)
		}
	}
	clean(t, s, 3, 2)

	// docker save's own format, with a name more for one that is here.
	saved := filepath.Join(t.TempDir(), "saved.tar")
	three := simple(t, "three")
	refs := map[name.Reference]v1.Image{}
	for ref, img := range map[string]v1.Image{"registry.example/three:1": three, "registry.example/three:2": three, "registry.example/again:1": one} {
		parsed, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		refs[parsed] = img
	}
	if err := tarball.MultiRefWriteToFile(saved, refs); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	if im, err := s.Get("registry.example/three:2"); err != nil || im.ID != idOf(t, three) || len(im.Tags) != 2 {
		t.Errorf("%v %v", im, err)
	}
	if im, err := s.Get(idOf(t, one)); err != nil || len(im.Tags) != 2 {
		t.Errorf("%v %v", im, err)
	}
	r := prepare(t, s, "c", Image{ID: "x", layers: s.images[idOf(t, three)].Layers}, RootfsOptions{})
	if contents(t, r.Path+"/etc/own") != "three" {
		t.Error("other content")
	}
	if err := s.Release("c"); err != nil {
		t.Error(err)
	}
	clean(t, s, 4, 3)
}

// TestImportRefused: archives that are broken; what they hold beside stays out.
func TestImportRefused(t *testing.T) {
	s, _ := open(t, Config{})
	img := simple(t, "x")
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	change := func(part string, to func([]byte) []byte) string {
		return layout(t, map[string]v1.Image{"registry.example/x:1": img}, func(name string, data []byte) []byte {
			if strings.Contains(name, part) {
				return to(data)
			}
			return data
		})
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("this is no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"layer":     {change(h.Hex, func(b []byte) []byte { b[len(b)/2]++; return b }), ""},
		"cut layer": {change(h.Hex, func(b []byte) []byte { return b[:len(b)-1] }), ""},
		"longer":    {change(h.Hex, func(b []byte) []byte { return append(b, gzEmpty(t)...) }), "more than its"},
		"manifest":  {change(encoded(digestOfImage(t, img)), func(b []byte) []byte { return append(b, ' ') }), "came with digest"},
		"config":    {change(encoded(idOf(t, img)), func(b []byte) []byte { return bytes.Replace(b, []byte("7:8"), []byte("0:0"), 1) }), "came with digest"},
		"name":      {change("index.json", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("registry.example/x:1"), []byte("A B")) }), "A B"},
		"no name":   {change("index.json", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("io.containerd.image.name"), []byte("other")) }), "no name"},
		"by digest": {change("index.json", func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("x:1"), []byte("x@sha256:"+strings.Repeat("0", 64)))
		}), "has no tag"},
		"text":    {text, "not an OCI archive"},
		"nowhere": {"/nowhere.tar", "no such file"},
	} {
		if _, err := s.Import(t.Context(), c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		clean(t, s, 0, 0)
	}
}

// gzEmpty is a further member of a gzip file that holds nothing: the layer
// unpacks to the same, but is not what its digest says.
func gzEmpty(t *testing.T) []byte { return gz(t, nil) }

// TestOldDockerSave: layers that are links to each other.
func TestOldDockerSave(t *testing.T) {
	s, _ := open(t, Config{})
	layer := pack(t, reg("f", "linked"))
	img := image(t, v1.Config{}, layerAs(t, layer, layer, types.DockerUncompressedLayer))
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "old.tar")
	data := pack(t, reg("a/layer.tar", string(layer)), symlink("b/layer.tar", "../a/layer.tar"), reg("c.json", string(config)),
		file{tar.Header{Name: "loop", Typeflag: tar.TypeLink, Linkname: "loop"}, ""},
		reg("manifest.json", `[{"Config":"c.json","RepoTags":["registry.example/old:1"],"Layers":["b/layer.tar"]}]`))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	im, err := s.Get("registry.example/old:1")
	if err != nil || im.ID != idOf(t, img) {
		t.Errorf("%+v %v", im, err)
	}
	loop := bytes.ReplaceAll(data, []byte(`"b/layer.tar"`), []byte(`"loop"       `))
	if err := os.WriteFile(path, loop, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), path); err == nil {
		t.Error("a link to itself was followed")
	}
}

// TestMemory: what a layer costs while it is unpacked does not depend on its size.
func TestMemory(t *testing.T) {
	s, _ := open(t, Config{})
	const size = 64 << 20
	archive := layout(t, map[string]v1.Image{"registry.example/big:1": image(t, v1.Config{}, layerOfFiles(t, reg("big", strings.Repeat("x", size))))}, nil)
	for name, path := range map[string]string{"warm": layout(t, map[string]v1.Image{"w": simple(t, "w")}, nil), "big": archive} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := s.Import(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > size/8 {
			t.Errorf("%s: %d bytes were allocated for a layer of %d", name, got, size)
		}
	}
}

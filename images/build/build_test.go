package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestBuild builds everything twice: equal to the byte, readable by another
// implementation of the layout, and small.
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles programs; not in -short")
	}
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if err := build(dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct {
		ref   string
		limit int64 // of the archive
		files []string
		user  string
	}{
		"pause":   {"registry.knarr.dev/pause:1", 1 << 20, []string{"pause"}, nobody},
		"demo":    {"registry.knarr.dev/demo:1", 4 << 20, []string{"demo"}, nobody},
		"busybox": {"registry.knarr.dev/busybox:1", 2 << 20, []string{"bin/sh", "bin/wget", "usr/bin/env", "bin/busybox", "tmp/"}, ""},
	} {
		data, err := os.ReadFile(filepath.Join(a, name+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(filepath.Join(b, name+".tar"))
		if err != nil || !bytes.Equal(data, again) {
			t.Errorf("%s: the second build differs: %v", name, err)
		}
		if int64(len(data)) > want.limit {
			t.Errorf("%s: %d bytes", name, len(data))
		}
		img, ref := open(t, data)
		if ref != want.ref {
			t.Errorf("%s is named %s", name, ref)
		}
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if cf.Config.User != want.user || cf.OS != "linux" || !cf.Created.Equal(epoch) {
			t.Errorf("%s: %+v", name, cf)
		}
		files := list(t, img)
		for _, f := range want.files {
			if _, ok := files[f]; !ok {
				t.Errorf("%s has no %s", name, f)
			}
		}
		if name == "pause" && files["pause"] > 2<<20 {
			t.Errorf("the pause program has %d bytes", files["pause"])
		}
	}
}

// open reads an archive as an OCI layout.
func open(t *testing.T, archive []byte) (v1.Image, string) {
	t.Helper()
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%+v %v", m, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img, m.Manifests[0].Annotations[nameAnnotation]
}

// list the files of an image with their sizes.
func list(t *testing.T, img v1.Image) map[string]int64 {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers: %v", len(layers), err)
	}
	rc, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	files := map[string]int64{}
	var order []string
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) || h.Uid != 0 {
			t.Errorf("%s: time %s, owner %d", h.Name, h.ModTime, h.Uid)
		}
		files[h.Name] = h.Size
		order = append(order, strings.TrimSuffix(h.Name, "/"))
	}
	if !slices.IsSorted(order) {
		t.Error("files are not in order")
	}
	return files
}

func TestIndexIsFirst(t *testing.T) {
	img, err := assemble([]file{{path: "x", data: []byte("y"), mode: 0o644}}, v1.Config{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := ociArchive(img, "registry.knarr.dev/x:1")
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(data))
	for _, want := range []string{"oci-layout", "index.json"} {
		h, err := r.Next()
		if err != nil || h.Name != want {
			t.Fatalf("%v %v, want %s", h, err, want)
		}
	}
	var index v1.IndexManifest
	if err := json.NewDecoder(r).Decode(&index); err != nil || len(index.Manifests) != 1 {
		t.Errorf("%+v %v", index, err)
	}
}

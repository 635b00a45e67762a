package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// archive packs files, given as name and content in turn.
func archive(t *testing.T, files ...string) *bytes.Reader {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(buf.Bytes())
}

func TestInspect(t *testing.T) {
	index := `{"manifests":[{"digest":"sha256:aa","annotations":{"io.containerd.image.name":"r/x:1"}},{"digest":"sha256:bb","annotations":{"org.opencontainers.image.ref.name":"r/y:1"}}]}`
	x, y := `{"config":{"digest":"sha256:c1"}}`, `{"config":{"digest":"sha256:c2"}}`
	for _, files := range [][]string{
		{"index.json", index, "blobs/sha256/aa", x, "blobs/sha256/bb", y},
		{"blobs/sha256/bb", y, "./blobs/sha256/aa", x, "./index.json", index}, // as other tools pack them
	} {
		list, err := inspect(archive(t, files...))
		if err != nil || fmt.Sprint(list) != "[{r/x:1 sha256:c1} {r/y:1 sha256:c2}]" {
			t.Errorf("%v %v", list, err)
		}
	}
	for name, files := range map[string][]string{
		"no index":     {"blobs/sha256/aa", x},
		"no manifest":  {"index.json", index},
		"no image":     {"index.json", `{}`},
		"no name":      {"index.json", `{"manifests":[{"digest":"sha256:aa"}]}`},
		"no JSON":      {"index.json", `{`},
		"odd digest":   {"index.json", `{"manifests":[{"digest":"aa","annotations":{"io.containerd.image.name":"r/x:1"}}]}`},
		"a huge index": {"index.json", strings.Repeat(" ", 4<<20+1)},
	} {
		if list, err := inspect(archive(t, files...)); err == nil {
			t.Errorf("%s: %v", name, list)
		}
	}
	if _, err := inspect(strings.NewReader("this is no archive")); err == nil {
		t.Error("text was taken for an archive")
	}
}

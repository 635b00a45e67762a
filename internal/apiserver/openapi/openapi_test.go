package openapi

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"knarr.dev/knarr/internal/kinds"
)

type spec struct {
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas map[string]json.RawMessage `json:"schemas"`
	} `json:"components"`
}

func load(t *testing.T, h *Handler, path string) spec {
	t.Helper()
	data, err := h.Document(path)
	if err != nil || data == nil {
		t.Fatalf("%s: %v", path, err)
	}
	var s spec
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return s
}

// TestEveryKind: the committed documents are those of the present table.
func TestEveryKind(t *testing.T) {
	h, err := New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds.Builtin().All() {
		path := "api/" + k.GVK.Version
		if k.GVK.Group != "" {
			path = "apis/" + k.GVK.Group + "/" + k.GVK.Version
		}
		s := load(t, h, path)
		collection := "/" + path + "/"
		if k.Namespaced {
			collection += "namespaces/{namespace}/"
		}
		collection += k.Resource
		if s.Paths[collection] == nil {
			t.Errorf("%s: no path %s: run make generate", k, collection)
		}
		for sub := range k.Subresources {
			if s.Paths[collection+"/{name}/"+sub] == nil {
				t.Errorf("%s: no path for %s: run make generate", k, sub)
			}
		}
	}
}

func TestReferencesResolve(t *testing.T) {
	h, err := New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path := range h.builtin {
		data, _ := h.Document(path)
		s := load(t, h, path)
		for _, part := range strings.Split(string(data), `"#/components/schemas/`)[1:] {
			name := part[:strings.IndexByte(part, '"')]
			if s.Components.Schemas[name] == nil {
				t.Errorf("%s refers to %s, which it does not hold", path, name)
			}
		}
	}
}

func TestServe(t *testing.T) {
	h, err := New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	get := func(url, etag string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", url, nil)
		r.Header.Set("If-None-Match", etag)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	var index struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(get("/openapi/v3", "").Body.Bytes(), &index); err != nil {
		t.Fatal(err)
	}
	url := index.Paths["apis/apps/v1"].URL
	w := get(url, "")
	if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
		t.Errorf("%s: %d %v", url, w.Code, w.Header())
	}
	if again := get(url, w.Header().Get("Etag")); again.Code != 304 || again.Body.Len() != 0 {
		t.Errorf("with its own etag: %d", again.Code)
	}
	if w := get("/openapi/v3/apis/nope/v1", ""); w.Code != 404 {
		t.Errorf("unknown group: %d", w.Code)
	}
}

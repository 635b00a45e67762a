package kubelet

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/distribution/reference"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRegistryMatch(t *testing.T) {
	const digest = "@sha256:0f0487a3b4a104d8b8ffb8ddbd516ef2cd171466cc952856424b6438c0959a8c"
	for _, tt := range []struct {
		registry, image string
		want            bool
	}{
		{"r.example", "r.example/a:1", true},
		{"https://r.example/v2/", "r.example/a:1", true},
		{"r.example", "r.example:5000/a:1", false},
		{"r.example:5000", "r.example:5000/a:1", true},
		{"localhost:5000", "localhost:5000/a", true},
		{"[::1]:5000", "[::1]:5000/a", true},
		{"*.example", "r.example/a", true},
		{"*.example", "a.r.example/a", false},
		{"r.example/team", "r.example/team/a:1", true},
		{"r.example/team", "r.example/teams/a:1", false},
		{"r.example/team/a", "r.example/team/a:1", true},
		{"r.example/team/a", "r.example/team/a" + digest, true},
		{"r.example/team/a", "r.example/team/a:1" + digest, true},
		{"https://index.docker.io/v1/", "busybox", true},
		{"docker.io/me", "me/app:1", true},
		{"docker.io/me", "you/app:1", false},
		{"r.example", "busybox", false},
	} {
		image, err := reference.ParseNormalizedNamed(tt.image)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := registryMatch(tt.registry, image); got != tt.want {
			t.Errorf("%s for %s: %v", tt.registry, tt.image, got)
		}
	}
}

// TestPullRecords: who may use an image that is present, also after a restart.
func TestPullRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pulls.json")
	r, err := openPullRecords(path)
	if err != nil {
		t.Fatal(err)
	}
	me, you := &runtimeapi.AuthConfig{Username: "me", Password: "p"}, &runtimeapi.AuthConfig{Username: "you", Password: "p"}
	now := time.Unix(1000, 0)
	for _, err := range []error{
		r.begin("r/private:1"), r.done("r/private:1", "r/private", "id1", me, now),
		r.begin("r/public:1"), r.done("r/public:1", "r/public", "id2", me, now), r.done("r/public:2", "r/public", "id2", nil, now),
		r.begin("r/cut:1"), // and then the power failed
		r.begin("r/none:1"), r.failed("r/none:1"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for _, tt := range []struct {
			image, id, repo string
			cred            *runtimeapi.AuthConfig
			want            bool
		}{
			{"r/preloaded:1", "id9", "r/preloaded", nil, true},
			{"r/private:1", "id1", "r/private", nil, false},
			{"r/private:1", "id1", "r/private", you, false},
			{"r/private:1", "id1", "r/private", me, true},
			{"r/other:1", "id1", "r/other", me, false}, // the same image by a name that nobody proved
			{"r/public:1", "id2", "r/public", nil, true},
			{"r/public:1", "id2", "r/public", you, true},
			{"r/cut:1", "id9", "r/cut", nil, false},
			{"r/none:1", "id9", "r/none", nil, true},
		} {
			var creds []*runtimeapi.AuthConfig
			if tt.cred != nil {
				creds = append(creds, tt.cred)
			}
			if got := r.allows(tt.image, tt.id, tt.repo, func() []*runtimeapi.AuthConfig { return creds }); got != tt.want {
				t.Errorf("%s as %s for %v: %v", tt.image, tt.id, tt.cred, got)
			}
		}
		if r, err = openPullRecords(path); err != nil {
			t.Fatal(err)
		}
	}
	// An image that was pulled after the list was made is not forgotten.
	if err := r.done("r/new:1", "id3", "id3", me, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := r.forget(map[string]bool{"id2": true}, now.Add(time.Second)); err != nil || len(r.state.Images) != 2 {
		t.Errorf("%v %v", r.state.Images, err)
	}
}

package imagestore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func list(t *testing.T, s *Store, filter string) (ids []string) {
	t.Helper()
	res, err := s.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: filter}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range res.Images {
		ids = append(ids, im.Id)
	}
	return ids
}

// TestNames: one image by all its names, a tag that moves, and removal.
func TestNames(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	one, two := simple(t, "one"), simple(t, "two")
	srv.push(t, "app:1", one)
	srv.push(t, "other:x", one)
	repo := srv.host + "/app"
	id, digest := idOf(t, one), digestOfImage(t, one)

	if got := mustPull(t, s, repo+":1").ID; got != id {
		t.Fatalf("%s, want the configuration's digest %s", got, id)
	}
	mustPull(t, s, srv.host+"/other:x")
	mustPull(t, s, repo+":1@"+digest)
	im := statusOf(t, s, id)
	want := fmt.Sprintf("[%s:1 %s/other:x] [%s@%s %s/other@%s]", repo, srv.host, repo, digest, srv.host, digest)
	if got := fmt.Sprint(im.RepoTags, im.RepoDigests); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, ref := range []string{id, repo + ":1", repo + "@" + digest, repo + ":1@" + digest, strings.TrimPrefix(id, "sha256:"), id[:20], id[7:15]} {
		if got := statusOf(t, s, ref); got == nil || got.Id != id {
			t.Errorf("by %s: %v", ref, got)
		}
		if got := list(t, s, ref); !slices.Equal(got, []string{id}) {
			t.Errorf("filter %s: %v", ref, got)
		}
	}
	for _, ref := range []string{"", repo + ":2", repo, "sha256:", "sha256:zz", "a b", "UPPER", strings.Repeat("0", 64), digest} {
		if got := statusOf(t, s, ref); got != nil {
			t.Errorf("by %q: %v", ref, got)
		}
	}

	srv.push(t, "app:1", two)
	mustPull(t, s, repo+":1")
	if old := statusOf(t, s, id); slices.Contains(old.RepoTags, repo+":1") || !slices.Contains(old.RepoDigests, repo+"@"+digest) {
		t.Errorf("the tag moved on, the digest stays: %v", old)
	}
	if now := statusOf(t, s, repo+":1"); now.Id != idOf(t, two) {
		t.Errorf("the tag stands for %v", now)
	}
	if got := list(t, s, ""); len(got) != 2 {
		t.Errorf("%v", got)
	}
	clean(t, s, 3, 2) // they share one

	for range 2 { // removing is idempotent, and takes all names
		if _, err := s.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: srv.host + "/other:x"}}); err != nil {
			t.Error(err)
		}
		if statusOf(t, s, id) != nil || statusOf(t, s, repo+"@"+digest) != nil {
			t.Error("it is still there")
		}
		clean(t, s, 2, 1)
	}
	if err := s.Remove(repo + ":1"); err != nil {
		t.Error(err)
	}
	clean(t, s, 0, 0)
}

func TestAmbiguous(t *testing.T) {
	a := record{ID: "sha256:aa11"}
	b := record{ID: "sha256:aa22"}
	_, err := find(map[string]record{a.ID: a, b.ID: b}, "aa")
	if status.Code(unavailable(err)) != codes.InvalidArgument {
		t.Error(err)
	}
	if r, err := find(map[string]record{a.ID: a, b.ID: b}, "sha256:aa1"); err != nil || r.ID != a.ID {
		t.Error(r, err)
	}
}

func TestStatus(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	for user, want := range map[string]string{"": "-", "7": "7", "7:8": "7", "0": "0", "web": "- web", "web:staff": "- web", "-1": "-1"} {
		img := image(t, v1.Config{User: user, Cmd: []string{"/x"}}, layerOfFiles(t, reg("x", user)))
		im := mustPull(t, s, srv.push(t, "user:1", img))
		st := statusOf(t, s, im.ID)
		got := "-"
		if st.Uid != nil {
			got = fmt.Sprint(st.Uid.Value)
		}
		if got = strings.TrimSpace(got + " " + st.Username); got != want {
			t.Errorf("user %q is %q, want %q", user, got, want)
		}
		m, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := img.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		if size := uint64(len(raw)) + uint64(m.Config.Size) + uint64(m.Layers[0].Size); st.Size != size {
			t.Errorf("size %d, want %d", st.Size, size)
		}
		if fmt.Sprint(im.Config.Config.Cmd) != "[/x]" {
			t.Errorf("%v", im.Config)
		}
	}
	ref := srv.host + "/user:1"
	res, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		ChainID   string        `json:"chainID"`
		ImageSpec v1.ConfigFile `json:"imageSpec"`
	}
	if err := json.Unmarshal([]byte(res.Info["info"]), &info); err != nil || info.ImageSpec.Config.Cmd[0] != "/x" || info.ChainID != info.ImageSpec.RootFS.DiffIDs[0].String() {
		t.Errorf("%v %v", res.Info, err)
	}
	fsInfo, err := s.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
	if err != nil || fsInfo.ImageFilesystems[0].FsId.Mountpoint != s.cfg.Root || fsInfo.ImageFilesystems[0].InodesUsed.Value < 7 || fsInfo.ImageFilesystems[0].UsedBytes.Value == 0 {
		t.Errorf("%v %v", fsInfo, err)
	}
	if err := s.Pin(ref, true); err != nil || !statusOf(t, s, ref).Pinned {
		t.Error("not pinned", err)
	}
	mustPull(t, s, ref)
	if !statusOf(t, s, ref).Pinned {
		t.Error("a pull took the pin off")
	}
	if err := s.Pin(ref, false); err != nil || statusOf(t, s, ref).Pinned {
		t.Error("still pinned", err)
	}
	if err := s.Pin("nothing", true); status.Code(unavailable(err)) != codes.NotFound {
		t.Error(err)
	}
}

// sink collects what StreamImages sends.
type sink struct {
	grpc.ServerStream
	sent []*runtimeapi.StreamImagesResponse
}

func (s *sink) Send(r *runtimeapi.StreamImagesResponse) error {
	s.sent = append(s.sent, r)
	return nil
}

func TestStream(t *testing.T) {
	s, _ := open(t, Config{})
	s.images = map[string]record{}
	for i := range 2*streamed + 1 {
		id := fmt.Sprintf("sha256:%064d", i)
		s.images[id] = record{ID: id, Size: 1}
	}
	var out sink
	if err := s.StreamImages(&runtimeapi.StreamImagesRequest{}, &out); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range out.sent {
		for _, im := range r.Images {
			seen[im.Id] = true
		}
	}
	if len(out.sent) != 3 || len(seen) != 2*streamed+1 {
		t.Errorf("%d messages with %d images", len(out.sent), len(seen))
	}
	s.images = map[string]record{}
}

// TestBadRequests: codes and words.
func TestBadRequests(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{Handlers: []string{"runsc"}})
	ref := srv.push(t, "app:1", simple(t, "x"))
	for name, c := range map[string]struct {
		req  *runtimeapi.PullImageRequest
		code codes.Code
		want string
	}{
		"no image":     {&runtimeapi.PullImageRequest{}, codes.InvalidArgument, "invalid reference"},
		"bad name":     {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "A B"}}, codes.InvalidArgument, `"A B"`},
		"bad digest":   {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "x@sha256:12"}}, codes.InvalidArgument, "x@sha256:12"},
		"handler":      {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref, RuntimeHandler: "kata"}}, codes.InvalidArgument, "kata"},
		"no base64":    {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: &runtimeapi.AuthConfig{Auth: "%secret"}}, codes.InvalidArgument, "base64"},
		"no pair":      {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: &runtimeapi.AuthConfig{Auth: "c2VjcmV0"}}, codes.InvalidArgument, "pair"},
		"no address":   {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: &runtimeapi.AuthConfig{Username: "u", ServerAddress: "https://"}}, codes.InvalidArgument, "address"},
		"no tag":       {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: srv.host + "/app:none"}}, codes.NotFound, "not found"},
		"no repo":      {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: srv.host + "/none:1"}}, codes.NotFound, "not found"},
		"other digest": {&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: srv.host + "/app@sha256:" + strings.Repeat("0", 64)}}, codes.NotFound, "not found"},
	} {
		_, err := s.PullImage(t.Context(), c.req)
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref, RuntimeHandler: "runsc"}}); err != nil {
		t.Error(err)
	}
	clean(t, s, 2, 1)
}

// TestNotRunning: before Run, and after it.
func TestNotRunning(t *testing.T) {
	s, err := New(Config{Root: "/nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ListImages(t.Context(), nil); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	if _, err := pull(t.Context(), s, "x", nil); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	for _, root := range []string{"relative", "/a:b", "/a,b", `/a\b`} {
		if _, err := New(Config{Root: root}); err == nil {
			t.Errorf("root %s", root)
		}
	}
	srv := serve(t)
	ended, stop := open(t, Config{})
	stop()
	if _, err := pull(t.Context(), ended, srv.push(t, "app:1", simple(t, "x")), nil); err == nil {
		t.Error("pulled after the end")
	}
}

package cri_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fresh publishes an image that no other case has, under each of the names
// (REPO or REPO:TAG, a number is added to the repository), and returns its
// references and digest. It is removed with the case.
func (t *T) fresh(change func(*v1Config), repos ...string) (refs []string, digest string) {
	mark := t.unique("fresh")
	for _, repo := range repos {
		name, tag, _ := strings.Cut(repo, ":")
		if tag == "" {
			tag = "1"
		}
		full := name + "-" + mark + ":" + tag
		t.must(t.publish(full, func(base v1.Image) (v1.Image, error) {
			img, err := with(base, func(c *v1Config) {
				c.Labels = map[string]string{"mark": mark}
				if change != nil {
					change(c)
				}
			})
			if err == nil {
				d, derr := img.Digest()
				digest, err = d.String(), derr
			}
			return img, err
		}))
		ref := t.registry.host + "/" + full
		refs = append(refs, ref)
		t.cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for _, r := range []string{ref, strings.Replace(ref, t.registry.host, t.registry.twin, 1)} {
				if _, err := t.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: r}}); err != nil {
					t.errorf("RemoveImage: %v", err)
				}
			}
		})
	}
	return refs, digest
}

func (t *T) image(ref string) *runtimeapi.Image {
	resp, err := t.images.ImageStatus(t.ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		t.fatalf("ImageStatus %s: %v", ref, err)
	}
	return resp.Image
}

func (t *T) listImages(f *runtimeapi.ImageFilter) []*runtimeapi.Image {
	resp, err := t.images.ListImages(t.ctx, &runtimeapi.ListImagesRequest{Filter: f})
	if err != nil {
		t.fatalf("ListImages: %v", err)
	}
	return resp.Images
}

func (t *T) removeImage(ref string) {
	_, err := t.images.RemoveImage(t.ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		t.fatalf("RemoveImage %s: %v", ref, err)
	}
}

func (t *T) pulls(ref string) string {
	id, err := t.pull(ref)
	if err != nil {
		t.fatalf("PullImage %s: %v", ref, err)
	}
	return id
}

func repoOf(ref string) string { return ref[:strings.LastIndexByte(ref, ':')] }

func sorted(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return out
}

var imageCases = []testCase{
	{"image/pull, status, list, remove", func(t *T) {
		refs, digest := t.fresh(nil, "image")
		ref := refs[0]
		if t.image(ref) != nil {
			t.errorf("it is there before the pull")
		}
		id := t.pulls(ref)
		img := t.image(ref)
		if img == nil {
			t.fatalf("no image after the pull")
		}
		t.equal("id", img.Id, id)
		t.equal("tags", img.RepoTags, []string{ref})
		t.equal("digests", img.RepoDigests, []string{repoOf(ref) + "@" + digest})
		if img.Size < 1<<20 || img.Size > 1<<28 {
			t.errorf("size %d", img.Size)
		}
		t.equal("pinned", img.Pinned, false)
		// The same by all of its names.
		for _, name := range []string{id, strings.TrimPrefix(id, "sha256:"), repoOf(ref) + "@" + digest} {
			if got := t.image(name); got.GetId() != id {
				t.errorf("by %s: %v", name, got)
			}
		}
		for _, f := range []*runtimeapi.ImageFilter{nil, {}, {Image: &runtimeapi.ImageSpec{}}} {
			if !slices.ContainsFunc(t.listImages(f), func(i *runtimeapi.Image) bool {
				return i.Id == id && slices.Equal(i.RepoTags, img.RepoTags) && slices.Equal(i.RepoDigests, img.RepoDigests) && i.Size == img.Size
			}) {
				t.errorf("a list of all lacks it, or knows less")
			}
		}
		t.removeImage(ref)
		for _, name := range []string{ref, id, repoOf(ref) + "@" + digest} {
			if t.image(name) != nil {
				t.errorf("%s is there after its removal", name)
			}
		}
		if slices.ContainsFunc(t.listImages(nil), func(i *runtimeapi.Image) bool { return i.Id == id }) {
			t.errorf("it is listed after its removal")
		}
		for range 3 {
			t.removeImage(ref)
		}
		t.removeImage("nosuchimage")
		t.removeImage("sha256:" + strings.Repeat("0", 64))
	}},
	{"image/list filters", func(t *T) {
		refs, digest := t.fresh(nil, "filter:1", "filter:2")
		id := t.pulls(refs[0])
		t.pulls(refs[1])
		for _, name := range []string{id, strings.TrimPrefix(id, "sha256:"), repoOf(refs[0]) + "@" + digest, refs[0], refs[1]} {
			if got := t.listImages(&runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: name}}); len(got) != 1 || got[0].Id != id {
				t.errorf("list by %s: %v", name, got)
			}
		}
		t.equal("list by an unknown name", len(t.listImages(&runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "nosuchimage"}})), 0)
	}},
	{"image/pulled again", func(t *T) {
		refs, _ := t.fresh(nil, "again")
		id := t.pulls(refs[0])
		for range 3 {
			t.equal("id", t.pulls(refs[0]), id)
		}
		t.equal("tags", t.image(id).RepoTags, refs)
		t.removeImage(id)
		if t.image(refs[0]) != nil {
			t.errorf("it is there after its removal")
		}
		t.equal("id of a new pull", t.pulls(refs[0]), id)
	}},
	{"image/without a tag", func(t *T) {
		refs, _ := t.fresh(nil, "untagged:latest")
		id := t.pulls(repoOf(refs[0]))
		img := t.image(repoOf(refs[0]))
		t.equal("id", img.GetId(), id)
		t.equal("tags", img.GetRepoTags(), refs)
	}},
	{"image/by digest", func(t *T) {
		refs, digest := t.fresh(nil, "digest")
		name := repoOf(refs[0]) + "@" + digest
		id := t.pulls(name)
		img := t.image(name)
		t.equal("id", img.GetId(), id)
		t.equal("tags", img.GetRepoTags(), []string(nil))
		t.equal("digests", img.GetRepoDigests(), []string{name})
		t.removeImage(name)
		if t.image(id) != nil {
			t.errorf("it is there after its removal")
		}
	}},
	{"image/by tag and digest", func(t *T) {
		refs, digest := t.fresh(nil, "both")
		id := t.pulls(refs[0] + "@" + digest)
		if t.image(repoOf(refs[0])+"@"+digest).GetId() != id {
			t.errorf("it is not found by its digest")
		}
	}},
	{"image/three tags of one", func(t *T) {
		refs, _ := t.fresh(nil, "tags:1", "tags:2", "tags:3")
		ids := map[string]bool{}
		for _, r := range refs {
			ids[t.pulls(r)] = true
		}
		t.equal("identifiers", len(ids), 1)
		t.equal("tags", sorted(t.image(refs[1]).RepoTags), refs)
		// Removing one removes all.
		t.removeImage(refs[0])
		for _, r := range refs {
			if t.image(r) != nil {
				t.errorf("%s is still there", r)
			}
		}
	}},
	{"image/three images of one repository", func(t *T) {
		mark := t.unique("several")
		for tag := range 3 {
			ref := fmt.Sprintf("%s/%s:%d", t.registry.host, mark, tag)
			t.must(t.publish(fmt.Sprintf("%s:%d", mark, tag), func(base v1.Image) (v1.Image, error) {
				return with(base, func(c *v1Config) { c.Labels = map[string]string{"mark": fmt.Sprint(mark, tag)} })
			}))
			t.pulls(ref)
			t.cleanup(func() { t.removeImage(ref) })
			t.equal("tags", t.image(ref).RepoTags, []string{ref})
		}
	}},
	{"image/one in two registries", func(t *T) {
		refs, _ := t.fresh(nil, "twins")
		other := strings.Replace(refs[0], t.registry.host, t.registry.twin, 1)
		id := t.pulls(refs[0])
		t.equal("id from the other registry", t.pulls(other), id)
		img := t.image(other)
		t.equal("tags", sorted(img.RepoTags), sorted([]string{refs[0], other}))
		t.equal("digests", len(img.RepoDigests), 2)
		t.removeImage(refs[0])
		if t.image(other) != nil || t.image(id) != nil {
			t.errorf("the other name is still there")
		}
	}},
	{"image/a tag that moves", func(t *T) {
		refs, _ := t.fresh(nil, "moves")
		first := t.pulls(refs[0])
		repo := strings.TrimPrefix(repoOf(refs[0]), t.registry.host+"/")
		t.must(t.publish(repo, func(base v1.Image) (v1.Image, error) {
			return with(base, func(c *v1Config) { c.Labels = map[string]string{"mark": repo + " moved"} })
		}))
		second := t.pulls(refs[0])
		if first == second {
			t.fatalf("the old image came again")
		}
		t.cleanup(func() { t.removeImage(first) })
		t.equal("image of the tag", t.image(refs[0]).GetId(), second)
		old := t.image(first)
		if old == nil {
			t.fatalf("the old image is gone")
		}
		t.equal("tags of the old image", old.RepoTags, []string(nil))
	}},
	{"image/user", func(t *T) {
		for user, want := range map[string]struct {
			uid  *int64
			name string
		}{
			"": {new(int64), ""}, "0": {new(int64), ""}, "1001": {ptr(1001), ""}, "1001:3000": {ptr(1001), ""}, "app": {nil, "app"}, "app:extra": {nil, "app"},
		} {
			refs, _ := t.fresh(func(c *v1Config) { c.User = user }, "user")
			t.pulls(refs[0])
			img := t.image(refs[0])
			t.equal("name of user "+user, img.Username, want.name)
			// Without a user it is root, by number 0 or by none.
			switch {
			case user == "" && img.Uid.GetValue() == 0:
			case (img.Uid == nil) != (want.uid == nil):
				t.errorf("user %q: uid %v", user, img.Uid)
			case want.uid != nil:
				t.equal("uid of user "+user, img.Uid.Value, *want.uid)
			}
		}
	}},
	{"image/verbose status", func(t *T) {
		spec := t.base()
		resp, err := t.images.ImageStatus(t.ctx, &runtimeapi.ImageStatusRequest{Image: spec})
		t.must(err)
		if len(resp.Info) > 0 {
			t.errorf("information that nobody asked for: %v", resp.Info)
		}
		resp, err = t.images.ImageStatus(t.ctx, &runtimeapi.ImageStatusRequest{Image: spec, Verbose: true})
		t.must(err)
		t.documents("verbose status", resp.Info)
		resp, err = t.images.ImageStatus(t.ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "nosuchimage"}, Verbose: true})
		t.must(err)
		if resp.Image != nil {
			t.errorf("an image that is not there: %v", resp.Image)
		}
	}},
	{"image/stream of the list", func(t *T) {
		refs, _ := t.fresh(nil, "streamed")
		id := t.pulls(refs[0])
		for _, f := range []*runtimeapi.ImageFilter{nil, {}, {Image: &runtimeapi.ImageSpec{Image: refs[0]}}} {
			s, err := t.images.StreamImages(t.ctx, &runtimeapi.StreamImagesRequest{Filter: f})
			t.must(err)
			seen := map[string]int{}
			receive(t, s, func(m *runtimeapi.StreamImagesResponse) {
				for _, i := range m.Images {
					seen[i.Id]++
				}
			})
			t.equal("times that it came", seen[id], 1)
			if f.GetImage() != nil {
				t.equal("images", len(seen), 1)
			}
		}
	}},
	{"image/file system", func(t *T) {
		began := time.Now()
		refs, _ := t.fresh(nil, "space")
		t.pulls(refs[0])
		var resp *runtimeapi.ImageFsInfoResponse
		// Runtimes look at the disk at intervals.
		t.within("there are figures of the file system", func() bool {
			var err error
			resp, err = t.images.ImageFsInfo(t.ctx, &runtimeapi.ImageFsInfoRequest{})
			t.must(err)
			return len(resp.ImageFilesystems) > 0 && resp.ImageFilesystems[0].GetUsedBytes().GetValue() > 1<<20
		})
		for _, f := range append(resp.ImageFilesystems, resp.ContainerFilesystems...) {
			if f.Timestamp <= 0 || f.Timestamp > time.Now().UnixNano() || f.GetFsId().GetMountpoint() == "" || f.GetInodesUsed().GetValue() == 0 {
				t.errorf("since %s: %v", began, f)
			}
		}
	}},
	{"image/in use", func(t *T) {
		// The kubelet does not remove those; a runtime that is told to may do it,
		// and its containers go on.
		refs, _ := t.fresh(nil, "used")
		id := t.pulls(refs[0])
		c := t.pod().start(func(c *containerConfig) { c.Image = &runtimeapi.ImageSpec{Image: id} })
		_, err := t.images.RemoveImage(t.ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: refs[0]}})
		_ = err
		t.equal("state", c.status().State, running)
		t.equal("a file", c.sh("cat /data/file"), "from the image")
		c.sh("/bin/busybox true")
	}},
	{"image/removed by many at once", func(t *T) {
		refs, _ := t.fresh(nil, "together")
		t.pulls(refs[0])
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := t.images.RemoveImage(t.ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: refs[0]}}); err != nil {
					t.errorf("RemoveImage: %v", err)
				}
			})
		}
		wg.Wait()
		if t.image(refs[0]) != nil {
			t.errorf("it is still there")
		}
	}},
	{"image/pulled by many at once", func(t *T) {
		refs, _ := t.fresh(nil, "crowd")
		var wg sync.WaitGroup
		ids := make([]string, 8)
		for i := range ids {
			wg.Go(func() {
				id, err := t.pull(refs[0])
				if err != nil {
					t.errorf("PullImage: %v", err)
				}
				ids[i] = id
			})
		}
		wg.Wait()
		slices.Sort(ids)
		t.equal("identifiers", len(slices.Compact(ids)), 1)
	}},
	{"image/layers are shared", func(t *T) {
		t.base()
		refs, _ := t.fresh(nil, "shared")
		t.pulls(refs[0])
		if n := t.registry.fetched("/shared-"); n > 1 {
			t.errorf("%d blobs were fetched; only the configuration is new", n)
		}
	}},
}

func ptr(v int64) *int64 { return &v }

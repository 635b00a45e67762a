package cri_test

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (t *T) pullAs(ref string, auth *runtimeapi.AuthConfig) error {
	_, err := t.images.PullImage(t.ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: auth, SandboxConfig: t.podConfig()})
	return err
}

// absent: a failed pull leaves nothing behind that could be used.
func (t *T) absent(ref string) {
	if img := t.image(ref); img != nil {
		t.errorf("%s is there: %v", ref, img)
	}
}

var registryCases = []testCase{
	{"registry/password", func(t *T) {
		refs, _ := t.fresh(nil, "private/x")
		for name, auth := range map[string]*runtimeapi.AuthConfig{
			"nobody": nil, "empty": {}, "another user": {Username: "you", Password: password}, "another password": {Username: user, Password: "guess"},
			"another in one string": {Auth: base64.StdEncoding.EncodeToString([]byte(user + ":guess"))},
		} {
			t.refused("pull by "+name, t.pullAs(refs[0], auth))
			t.absent(refs[0])
		}
		for name, auth := range map[string]*runtimeapi.AuthConfig{
			"name and password":             {Username: user, Password: password},
			"both in one string":            {Auth: base64.StdEncoding.EncodeToString([]byte(user + ":" + password))},
			"name, password and the server": {Username: user, Password: password, ServerAddress: "http://" + t.registry.host},
		} {
			if err := t.pullAs(refs[0], auth); err != nil {
				t.errorf("pull by %s: %v", name, err)
			}
			t.removeImage(refs[0])
		}
	}},
	{"registry/credentials of another server", func(t *T) {
		refs, _ := t.fresh(nil, "private/y")
		t.refused("credentials for another server", t.pullAs(refs[0], &runtimeapi.AuthConfig{Username: user, Password: password, ServerAddress: "https://registry.example"}))
	}},
	{"registry/credentials that cannot be read", func(t *T) {
		refs, _ := t.fresh(nil, "private/z")
		t.refused("what is no base64", t.pullAs(refs[0], &runtimeapi.AuthConfig{Auth: "%%%"}))
		t.refused("what has no colon", t.pullAs(refs[0], &runtimeapi.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("no colon"))}))
	}},
	{"registry/token bought by a password", func(t *T) {
		refs, _ := t.fresh(nil, "token/x")
		t.refused("pull by nobody", t.pullAs(refs[0], nil))
		t.refused("pull by another password", t.pullAs(refs[0], &runtimeapi.AuthConfig{Username: user, Password: "guess"}))
		t.must(t.pullAs(refs[0], &runtimeapi.AuthConfig{Username: user, Password: password}))
	}},
	{"registry/identity token", func(t *T) {
		refs, _ := t.fresh(nil, "token/identity")
		t.must(t.pullAs(refs[0], &runtimeapi.AuthConfig{IdentityToken: "identity"}))
		t.removeImage(refs[0])
		t.refused("another identity", t.pullAs(refs[0], &runtimeapi.AuthConfig{IdentityToken: "guess"}))
	}},
	{"registry/registry token", func(t *T) {
		refs, _ := t.fresh(nil, "token/registry")
		t.must(t.pullAs(refs[0], &runtimeapi.AuthConfig{RegistryToken: token}))
	}},
	{"registry/no secret in an error", func(t *T) {
		refs, _ := t.fresh(nil, "private/quiet")
		err := t.pullAs(refs[0], &runtimeapi.AuthConfig{Username: user, Password: "a-wrong-secret"})
		t.refused("another password", err)
		t.lacks("error", status.Convert(err).Message(), "a-wrong-secret", base64.StdEncoding.EncodeToString([]byte(user+":a-wrong-secret")))
	}},
	{"registry/what is not there", func(t *T) {
		refs, digest := t.fresh(nil, "there")
		for _, ref := range []string{t.registry.host + "/nosuchrepository:1", repoOf(refs[0]) + ":other", repoOf(refs[0]) + "@sha256:" + strings.Repeat("0", 64)} {
			_, err := t.pull(ref)
			t.refused("pull of "+ref, err, codes.NotFound)
			t.absent(ref)
		}
		t.absent(repoOf(refs[0]) + "@" + digest)
	}},
	{"registry/names that are none", func(t *T) {
		for _, ref := range []string{"", "UPPER/case:1", t.registry.host + "/x:", t.registry.host + "/x@sha256:short", "a b", "http://" + t.registry.host + "/x", "-/x"} {
			_, err := t.pull(ref)
			t.refused("pull of "+ref, err)
		}
		_, err := t.images.PullImage(t.ctx, &runtimeapi.PullImageRequest{})
		t.refused("pull of nothing", err)
	}},
	{"registry/nobody listens", func(t *T) {
		_, err := t.pull("127.0.0.1:1/x:1")
		t.refused("pull from nobody", err)
		if status.Code(err) == codes.NotFound {
			t.errorf("nobody said that there is no such image: %v", err)
		}
	}},
	{"registry/a pull that is given up", func(t *T) {
		refs, _ := t.fresh(nil, "slow/x")
		ctx, cancel := context.WithTimeout(t.ctx, 2*time.Second)
		defer cancel()
		began := time.Now()
		_, err := t.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: refs[0]}})
		t.refused("a pull beyond its time", err, codes.DeadlineExceeded)
		if took := time.Since(began); took > 30*time.Second {
			t.errorf("it took %s", took)
		}
		t.absent(refs[0])
	}},
	{"registry/an error while layers are read", func(t *T) {
		refs, _ := t.fresh(nil, "broken/x")
		ctx, cancel := context.WithTimeout(t.ctx, 30*time.Second)
		defer cancel()
		_, err := t.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: refs[0]}})
		t.refused("a pull of broken layers", err)
		t.absent(refs[0])
	}},
	{"registry/content that is not what its digest says", func(t *T) {
		refs, _ := t.fresh(nil, "false/x")
		_, err := t.pull(refs[0])
		t.refused("a pull of false content", err)
		t.absent(refs[0])
	}},
	{"registry/an image of another platform", func(t *T) {
		mark := t.unique("platform")
		t.must(t.publish(mark, func(base v1.Image) (v1.Image, error) { return otherPlatform(base) }))
		ref := t.registry.host + "/" + mark + ":1"
		t.cleanup(func() { t.removeImage(ref) })
		id, err := t.pull(ref)
		if err != nil {
			return // refused, as it should
		}
		// containerd takes a single image as it is; it cannot be run.
		t.pod().fails("an image of another machine", func(c *containerConfig) {
			c.Image = &runtimeapi.ImageSpec{Image: id}
			c.Command = []string{"/bin/nothing-for-this-machine"}
		})
	}},
	{"registry/an index of several platforms", func(t *T) {
		ref, want := t.publishIndex()
		id, err := t.pull(ref)
		t.must(err)
		t.cleanup(func() { t.removeImage(ref) })
		t.equal("what this platform's image says", t.pod().sees("cat /which", func(c *containerConfig) { c.Image = &runtimeapi.ImageSpec{Image: id} }), want)
		t.equal("tags", t.image(ref).RepoTags, []string{ref})
	}},
	{"registry/layers that delete and replace", func(t *T) {
		spec := t.imageWith("whiteouts",
			entry{name: "data/.wh.file", mode: 0o644}, entry{name: "data/inner/.wh..wh..opq", mode: 0o644}, entry{name: "data/inner/new", text: "new\n", mode: 0o640},
			entry{name: "bin/more", link: "/bin/busybox"}, entry{name: "tmp/sticky", dir: true, mode: 0o1777},
		)
		t.equal("files", t.pod().sees("ls /data /data/inner; stat -c %a /data/inner/new /tmp/sticky; readlink /bin/more", imageIs(spec)), "/data:\ninner\n\n/data/inner:\nnew\n640\n1777\n/bin/busybox")
	}},
	{"registry/layers that want to escape", func(t *T) {
		for name, entries := range map[string][]entry{
			"dots":         {{name: "../../../../knarr-cri-escaped-1", text: "x", mode: 0o644}},
			"absolute":     {{name: "/knarr-cri-inside", text: "x", mode: 0o644}},
			"link":         {{name: "out", link: "/"}, {name: "out/knarr-cri-escaped-2", text: "x", mode: 0o644}},
			"link of dots": {{name: "up", link: "../../../../../../.."}, {name: "up/knarr-cri-escaped-3", text: "x", mode: 0o644}},
		} {
			repo := t.unique("escape")
			t.must(t.publish(repo, func(base v1.Image) (v1.Image, error) { return appendEntries(base, entries...) }))
			ref := t.registry.host + "/" + repo + ":1"
			_, err := t.pull(ref)
			t.cleanup(func() { t.removeImage(ref) })
			// Refused or confined: both are good.
			if err == nil {
				t.pod().sees("true", func(c *containerConfig) { c.Image = &runtimeapi.ImageSpec{Image: ref} })
			}
			t.nothingEscaped(name)
		}
	}},
}

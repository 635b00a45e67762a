package kubelet

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/kubelet/plan"
)

const (
	// localRegistry holds what knarr brings along; nothing answers there.
	localRegistry = "registry.knarr.dev"
	// pullsAtOnce bounds the network and disk that pulls take.
	pullsAtOnce = 4
	pullTimeout = 30 * time.Minute
)

// puller bounds pulls; several pods that want one image share one pull.
type puller struct {
	cri     *cri.Client
	records *pullRecords
	now     func() time.Time

	slots chan struct{}
	mu    sync.Mutex
	going map[string]*pull
}

type pull struct {
	done chan struct{}
	id   string
	err  error
}

func newPuller(c *cri.Client, now func() time.Time) *puller {
	return &puller{cri: c, now: now, slots: make(chan struct{}, pullsAtOnce), going: map[string]*pull{}}
}

// get pulls image with the first credentials that work.
func (p *puller) get(ctx context.Context, image, repo string, creds []*runtimeapi.AuthConfig, box *runtimeapi.PodSandboxConfig) (string, error) {
	if len(creds) == 0 { // anonymous pulls may be shared; others may not see what this one may
		p.mu.Lock()
		if other := p.going[image]; other != nil {
			p.mu.Unlock()
			select {
			case <-other.done:
				return other.id, other.err
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		own := &pull{done: make(chan struct{})}
		p.going[image] = own
		p.mu.Unlock()
		own.id, own.err = p.pull(ctx, image, repo, nil, box)
		p.mu.Lock()
		delete(p.going, image)
		p.mu.Unlock()
		close(own.done)
		return own.id, own.err
	}
	var errs []error
	for _, c := range creds {
		id, err := p.pull(ctx, image, repo, c, box)
		if err == nil {
			return id, nil
		}
		errs = append(errs, err)
	}
	return "", utilerrors.NewAggregate(errs)
}

func (p *puller) pull(ctx context.Context, image, repo string, auth *runtimeapi.AuthConfig, box *runtimeapi.PodSandboxConfig) (string, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	if err := p.records.begin(image); err != nil {
		return "", err
	}
	res, err := p.cri.Image.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}, Auth: auth, SandboxConfig: box})
	if err != nil {
		return "", errors.Join(clean(err), p.records.failed(image))
	}
	return res.ImageRef, p.records.done(image, repo, res.ImageRef, auth, p.now())
}

// local reports whether an image can only be there already.
func local(image string) bool {
	host, _, _ := strings.Cut(image, "/")
	return host == localRegistry
}

// ensureImage looks one of a container's images up and, if the policy says so,
// starts to pull it beside the worker.
func (w *worker) ensureImage(ctx context.Context, pod *corev1.Pod, a plan.Action) {
	c, _ := specOf(pod, a.Container)
	if c == nil {
		return
	}
	needs := plan.Needs(pod, c)
	at := slices.IndexFunc(needs, func(n plan.Need) bool { return n.Key == a.Image })
	if at < 0 {
		return
	}
	f := fetch{Need: needs[at], pod: pod, container: c.Name}
	w.mu.Lock()
	last := w.images[f.Key]
	w.mu.Unlock()
	im := plan.Image{Attempt: a.Attempt, Spec: f.Image}
	if last.Spec == f.Image {
		im.Delay = last.Delay
	}
	named, err := reference.ParseNormalizedNamed(f.Image)
	if err != nil {
		w.imageFailed(f, im, "InvalidImageName", fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %s", f.Image, f.Image, err))
		return
	}
	id := ""
	res, err := w.k.cri.Image.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: f.Image}})
	switch {
	case err != nil:
		if ctx.Err() == nil {
			w.imageFailed(f, im, "ImageInspectError", fmt.Sprintf("Failed to inspect image %q: %s", f.Image, clean(err)))
		}
		return
	case res.Image != nil:
		id = res.Image.Id
	}
	mine := id != "" && w.k.pulls.records.allows(f.Image, id, named.Name(), func() []*runtimeapi.AuthConfig { return w.credentials(ctx, pod, named) })
	switch {
	case mine && (f.Policy != corev1.PullAlways || local(f.Image)):
		w.emit(pod, c.Name, false, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", f.Image))
		im.Ready, im.ID, im.Delay = true, id, 0
		w.setImage(f.Key, im)
		return
	case f.Policy == corev1.PullNever && id != "":
		w.imageFailed(f, im, "ErrImageNeverPull", fmt.Sprintf("Container image %q is present with pull policy of Never but does not have the proper credentials to access the image", f.Image))
		return
	case f.Policy == corev1.PullNever:
		w.imageFailed(f, im, "ErrImageNeverPull", fmt.Sprintf("Container image %q is not present with pull policy of Never", f.Image))
		return
	}
	box, err := w.sandboxConfig(pod, 0)
	if err != nil {
		w.imageFailed(f, im, "ErrImagePull", err.Error())
		return
	}
	im.Pulling = true
	w.setImage(f.Key, im)
	w.k.group.Add(1)
	go func() {
		defer w.k.group.Done()
		w.pull(ctx, f, im, named, box)
		kick(w.wake)
	}()
}

// fetch is an image on its way to a container.
type fetch struct {
	plan.Need
	pod       *corev1.Pod
	container string
}

func (w *worker) pull(ctx context.Context, f fetch, im plan.Image, named reference.Named, box *runtimeapi.PodSandboxConfig) {
	im.Pulling = false
	w.emit(f.pod, f.container, false, "Pulling", fmt.Sprintf("Pulling image %q", f.Image))
	began := time.Now()
	w.startup.pull(true, w.k.cfg.Now())
	id, err := w.k.pulls.get(ctx, f.Image, named.Name(), w.credentials(ctx, f.pod, named), box)
	w.startup.pull(false, w.k.cfg.Now())
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.imageFailed(f, im, "ErrImagePull", err.Error())
		return
	}
	w.emit(f.pod, f.container, false, "Pulled", fmt.Sprintf("Successfully pulled image %q in %s", f.Image, time.Since(began).Round(time.Millisecond)))
	took := since(began)
	im.Ready, im.ID, im.Delay = true, id, 0
	w.setImage(f.Key, im)
	kick(w.wake)
	if res, err := w.k.cri.Image.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: id}}); err == nil && res.Image != nil {
		w.k.metrics.pulls.WithLabelValues(sizeName(res.Image.Size)).Observe(took)
	}
}

// image that a plan found, which may have been removed since.
func (w *worker) image(ctx context.Context, key string, im plan.Image) (*runtimeapi.Image, error) {
	res, err := w.k.cri.Image.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: im.ID}})
	if err != nil {
		return nil, err
	}
	if res.Image == nil {
		w.mu.Lock()
		delete(w.images, key)
		w.mu.Unlock()
		return nil, fmt.Errorf("image %q has been removed", im.Spec)
	}
	return res.Image, nil
}

func (w *worker) setImage(key string, im plan.Image) {
	w.mu.Lock()
	w.images[key] = im
	w.mu.Unlock()
}

func (w *worker) imageFailed(f fetch, im plan.Image, reason, message string) {
	im.Pulling, im.Ready = false, false
	im.Reason, im.Message, im.At, im.Delay = reason, message, w.k.cfg.Now(), plan.NextPull(im.Delay)
	w.setImage(f.Key, im)
	if reason == "ErrImagePull" {
		w.emit(f.pod, f.container, true, "Failed", fmt.Sprintf("Failed to pull image %q: %s", f.Image, message))
	} else {
		w.emit(f.pod, f.container, true, reason, message)
	}
	w.emit(f.pod, f.container, true, "Failed", "Error: "+reason)
}

// credentials of the pod's pull secrets that are for the image's registry. A
// secret that is missing or broken is passed over: the pull says the rest.
func (w *worker) credentials(ctx context.Context, pod *corev1.Pod, image reference.Named) []*runtimeapi.AuthConfig {
	var out []*runtimeapi.AuthConfig
	for _, ref := range pod.Spec.ImagePullSecrets {
		o, err := w.k.cfg.Objects.Get(ctx, kinds.Secret, pod.Namespace, ref.Name)
		if err != nil {
			w.emit(pod, "", true, "FailedToRetrieveImagePullSecret", fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		out = append(out, dockerAuth(o.(*corev1.Secret), image)...)
	}
	return out
}

type dockerEntry struct {
	Username, Password, Auth, IdentityToken, RegistryToken string
}

// dockerAuth reads the two forms in which Docker keeps credentials.
func dockerAuth(s *corev1.Secret, image reference.Named) []*runtimeapi.AuthConfig {
	entries := map[string]dockerEntry{}
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		var file struct {
			Auths map[string]dockerEntry `json:"auths"`
		}
		if json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file) != nil {
			return nil
		}
		entries = file.Auths
	case corev1.SecretTypeDockercfg:
		if json.Unmarshal(s.Data[corev1.DockerConfigKey], &entries) != nil {
			return nil
		}
	}
	var out []*runtimeapi.AuthConfig
	best := -1
	for registry, e := range entries {
		n, ok := registryMatch(registry, image)
		if !ok {
			continue
		}
		user, password := e.Username, e.Password
		if raw, err := base64.StdEncoding.DecodeString(e.Auth); err == nil && e.Auth != "" {
			user, password, _ = strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		}
		a := &runtimeapi.AuthConfig{Username: user, Password: password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
		if n > best { // the longest path first
			out, best = append([]*runtimeapi.AuthConfig{a}, out...), n
		} else {
			out = append(out, a)
		}
	}
	return out
}

// registryMatch compares a credential's registry, which may have a scheme, a
// path and globs in its host, with an image's name.
func registryMatch(registry string, image reference.Named) (int, bool) {
	registry = strings.TrimPrefix(strings.TrimPrefix(registry, "https://"), "http://")
	registry = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(registry, "/"), "/v1"), "/v2")
	wantHost, wantPath, _ := strings.Cut(registry, "/")
	host, rest := reference.Domain(image), reference.Path(image)
	if wantHost == "index.docker.io" || wantHost == "registry-1.docker.io" {
		wantHost = "docker.io"
	}
	if wantHost != host {
		if strings.Count(wantHost, ".") != strings.Count(host, ".") {
			return 0, false
		}
		if same, err := path.Match(wantHost, host); err != nil || !same {
			return 0, false
		}
	}
	if wantPath != "" && rest != wantPath && !strings.HasPrefix(rest, wantPath+"/") {
		return 0, false
	}
	return len(wantPath), true
}

package kubelet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/durable"
)

// pullRecords remember with whose credentials an image came to this node, so
// that no pod runs a private image only because another one fetched it
// (KEP-2535). An image without a record was there before the kubelet pulled
// anything; everybody may use it.
type pullRecords struct {
	path string

	mu    sync.Mutex
	state pullState
}

type pullState struct {
	// Intents are images whose pull began: after a crash nobody knows how it
	// ended, so that the registry is asked again.
	Intents map[string]bool `json:"intents"`
	// Images by ID.
	Images map[string]pullRecord `json:"images"`
}

type pullRecord struct {
	At    time.Time             `json:"at"`
	Repos map[string]pullAccess `json:"repos"` // one image may have several names
}

type pullAccess struct {
	Anyone bool     `json:"anyone,omitempty"`
	Hashes []string `json:"hashes,omitempty"` // of credentials
}

// maxHashes bounds the credentials of one image; the oldest are asked again.
const maxHashes = 64

// openPullRecords reads them; without a path they are kept in memory alone.
func openPullRecords(path string) (*pullRecords, error) {
	r := &pullRecords{path: path}
	var data []byte
	var err error
	if path != "" {
		data, err = os.ReadFile(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &r.state); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if r.state.Intents == nil {
		r.state.Intents = map[string]bool{}
	}
	if r.state.Images == nil {
		r.state.Images = map[string]pullRecord{}
	}
	return r, nil
}

// save the state; the caller holds the lock.
func (r *pullRecords) save() error {
	if r.path == "" {
		return nil
	}
	data, err := json.Marshal(&r.state)
	if err != nil {
		return err
	}
	return durable.Write(r.path, data)
}

// begin a pull.
func (r *pullRecords) begin(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Intents[image] {
		return nil
	}
	r.state.Intents[image] = true
	return r.save()
}

// done records who pulled the image; cred is nil if nobody had to say who he is.
func (r *pullRecords) done(image, repo, id string, cred *runtimeapi.AuthConfig, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.state.Intents, image)
	rec := r.state.Images[id]
	if rec.Repos == nil {
		rec.Repos = map[string]pullAccess{}
	}
	rec.At = now
	access := rec.Repos[repo]
	if h := hashOf(cred); h == "" {
		access = pullAccess{Anyone: true}
	} else if !access.Anyone && !slices.Contains(access.Hashes, h) {
		access.Hashes = append(access.Hashes, h)
		access.Hashes = access.Hashes[max(0, len(access.Hashes)-maxHashes):]
	}
	rec.Repos[repo] = access
	r.state.Images[id] = rec
	return r.save()
}

// failed ends a pull that brought nothing.
func (r *pullRecords) failed(image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.state.Intents, image)
	return r.save()
}

// allows reports whether a pod may use an image that is present; creds are
// asked for only if they decide.
func (r *pullRecords) allows(image, id, repo string, creds func() []*runtimeapi.AuthConfig) bool {
	r.mu.Lock()
	rec, known := r.state.Images[id]
	access := rec.Repos[repo]
	access.Hashes = slices.Clone(access.Hashes)
	interrupted := r.state.Intents[image]
	r.mu.Unlock()
	switch {
	case !known:
		return !interrupted
	case access.Anyone:
		return true
	case len(access.Hashes) == 0:
		return false
	}
	return slices.ContainsFunc(creds(), func(c *runtimeapi.AuthConfig) bool { return slices.Contains(access.Hashes, hashOf(c)) })
}

// forget images that were not present when they were listed.
func (r *pullRecords) forget(present map[string]bool, listed time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.state.Images)
	for id, rec := range r.state.Images {
		if !present[id] && rec.At.Before(listed) {
			delete(r.state.Images, id)
		}
	}
	if len(r.state.Images) == before {
		return nil
	}
	return r.save()
}

func hashOf(c *runtimeapi.AuthConfig) string {
	if c == nil {
		return ""
	}
	h := sha256.New()
	for _, s := range []string{c.Username, c.Password, c.Auth, c.ServerAddress, c.IdentityToken, c.RegistryToken} {
		fmt.Fprintf(h, "%d %s\n", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

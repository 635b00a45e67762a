package aggregate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/apiserver/openapi"
)

const (
	// specAge is how long what a backend says in OpenAPI is taken for true:
	// upstream's interval. Nothing is asked while nobody asks us.
	specAge = time.Minute
	// specTimeout bounds one question, specWait how long a client of ours waits
	// for the answers: a backend that is dead or slow does not hold up the rest.
	specTimeout = 10 * time.Second
	specWait    = 2 * time.Second
	// maxSpec bounds an answer; ours of all built-in kinds takes 4 MB.
	maxSpec = 8 << 20
	// specReader is who asks.
	specReader = "system:aggregator"
)

// spec is what a backend says of its API: a document of version 2, or the
// index of version 3.
type spec struct {
	gv   schema.GroupVersion
	etag string
	body []byte
}

// specs keeps the answers of backends.
type specs struct {
	mu    sync.Mutex
	ctx   context.Context // of Run; nil: it does not run, and nobody is asked
	asked sync.WaitGroup
	known map[specKey]*answer
}

// specKey: a backend has a transport of its own for as long as its
// registration stays the same.
type specKey struct {
	backend *http.Transport
	path    string
}

// answer of a backend to one path.
type answer struct {
	last    *spec // nil: it has never given one
	at      time.Time
	running chan struct{} // closed when the question that is open is answered
}

// Second are the documents of version 2 of all backends that can be asked, in
// the order of their groups and versions.
func (a *Aggregator) Second(ctx context.Context) []openapi.Foreign {
	var out []openapi.Foreign
	for _, s := range a.ask(ctx, "/openapi/v2") {
		out = append(out, openapi.Foreign{Prefix: "/apis/" + s.gv.String(), ETag: s.etag, Body: s.body})
	}
	return out
}

// Third maps the paths of the backends' documents of version 3 ("apis/g/v") to
// where they are to be had: at the same URLs of this server.
func (a *Aggregator) Third(ctx context.Context) map[string]string {
	out := map[string]string{}
	for _, s := range a.ask(ctx, "/openapi/v3") {
		path := "apis/" + s.gv.String()
		var index struct {
			Paths map[string]struct {
				URL string `json:"serverRelativeURL"`
			} `json:"paths"`
		}
		if err := json.Unmarshal(s.body, &index); err != nil {
			continue // it was found to be JSON, but it is no index
		}
		// A backend speaks for its group and version only, and of no other place.
		at := index.Paths[path].URL
		if rest, ok := strings.CutPrefix(at, "/openapi/v3/"+path); ok && (rest == "" || rest[0] == '?') {
			out[path] = at
		}
	}
	return out
}

// ask all backends at once.
func (a *Aggregator) ask(ctx context.Context, path string) []spec {
	ctx, cancel := context.WithTimeout(ctx, specWait)
	defer cancel()
	var wait []*answer
	for _, b := range sorted(*a.backends.Load()) {
		if b.Problem == nil {
			wait = append(wait, a.specs.get(a.cfg.Now(), b, path))
		}
	}
	var out []spec
	for _, w := range wait {
		if w == nil {
			continue
		}
		if s := a.specs.await(ctx, w); s != nil {
			out = append(out, *s)
		}
	}
	return out
}

// get returns the backend's answer, which is being asked for again if it is old.
func (s *specs) get(now time.Time, b *Backend, path string) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil || s.ctx.Err() != nil {
		return nil
	}
	key := specKey{b.Transport, path}
	w := s.known[key]
	if w == nil {
		w = &answer{}
		s.known[key] = w
	}
	if w.running == nil && (w.at.IsZero() || now.Sub(w.at) >= specAge) {
		w.running = make(chan struct{})
		w.at = now
		s.asked.Go(func() { s.refresh(b, path, w) })
	}
	return w
}

// refresh asks the backend. What it does not answer leaves the last answer.
func (s *specs) refresh(b *Backend, path string, w *answer) {
	s.mu.Lock()
	last := w.last
	s.mu.Unlock()
	next, err := b.describe(s.ctx, path, last)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		w.last = next
	}
	close(w.running)
	w.running = nil
}

func (s *specs) await(ctx context.Context, w *answer) *spec {
	s.mu.Lock()
	running := w.running
	s.mu.Unlock()
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.last
}

// forget the backends that are no more.
func (s *specs) forget(backends map[schema.GroupVersion]*Backend) {
	there := map[*http.Transport]bool{}
	for _, b := range backends {
		there[b.Transport] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.known {
		if !there[key.backend] {
			delete(s.known, key)
		}
	}
}

// run lets backends be asked; the function that it returns ends that.
func (s *specs) run(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx, s.known = ctx, map[specKey]*answer{}
	return func() {
		s.mu.Lock() // who holds it may have found that backends can be asked, and begin
		cancel()
		s.mu.Unlock()
		s.asked.Wait()
	}
}

// describe asks for a document; last is what the backend said before, which holds
// if nothing has changed. Redirects are not followed.
func (b *Backend) describe(ctx context.Context, path string, last *spec) (*spec, error) {
	ctx, cancel := context.WithTimeout(ctx, specTimeout)
	defer cancel()
	at, err := b.URL()
	if err != nil {
		return nil, err
	}
	at.Path = path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if last != nil && last.etag != "" {
		req.Header.Set("If-None-Match", last.etag)
	}
	SetUser(req.Header, specReader, "", nil, nil)
	resp, err := b.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && last != nil:
		return last, nil
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %d", path, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxSpec+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxSpec || !json.Valid(body) {
		return nil, errors.New(path + " is too large, or no JSON")
	}
	return &spec{gv: schema.GroupVersion{Group: b.APIService.Spec.Group, Version: b.APIService.Spec.Version}, etag: resp.Header.Get("Etag"), body: body}, nil
}

package transform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"knarr.dev/knarr/internal/store"
)

// ClearText stands in counts for what is not encrypted.
const ClearText = "clear text"

// ErrRotating: one rotation at a time.
var ErrRotating = errors.New("a rotation of the encryption key is under way")

// step of a rotation. A process that dies before, in or after any of them
// leaves a store that every start can read, and the next rotation goes on.
type step int

const (
	done    step = iota
	begin        // a new key becomes the file's first
	load         // the server takes the file's keys
	rewrite      // what another key has encrypted is written anew
	forget       // the store forgets what was written before
	drop         // the file keeps its first key only
)

// rotating is what the next step hangs on.
type rotating struct {
	fresh     bool           // a new key is asked for, and none has been made
	file      []string       // names of the file's keys; the first writes
	loaded    bool           // the server uses just these
	counts    map[string]int // stored values by what encrypts them
	forgotten bool           // since the counts are what they have to be
}

// next decides. Its order is what makes it safe: no key writes that is not in
// the file, none goes from there that anything stored, or remembered, needs.
func next(s rotating) (step, error) {
	for name, n := range s.counts {
		if name != ClearText && !slices.Contains(s.file, name) {
			return done, fmt.Errorf("%d stored values are encrypted in another way, by %s, which is not in the key file: if the server has an --encryption-provider-config, start it with that and run this again", n, name)
		}
	}
	switch {
	case len(s.file) == 0:
		return done, errors.New("the encryption key file holds no key")
	case !s.loaded:
		return load, nil
	case s.fresh && len(s.file) == 1:
		return begin, nil
	}
	for name, n := range s.counts {
		if name != s.file[0] && n > 0 {
			return rewrite, nil
		}
	}
	switch {
	case len(s.file) == 1:
		return done, nil
	case !s.forgotten:
		return forget, nil
	}
	return drop, nil
}

// Raw is the store below a Store.
type Raw interface {
	store.Store
	Compact(ctx context.Context, rev int64) error
}

// Rotator moves what is stored on to a new key.
type Rotator struct {
	Path   string // of the file of generated keys
	Ring   *Keyring
	Raw    Raw
	Store  *Store
	Prefix string // of what the generated keys encrypt
	// Configuration, if there is one, decides instead of the generated keys: it
	// is its owner's, who puts a new key into it; what it encrypts is written
	// anew here, and counted. All of it lies below Root.
	Configuration *Configuration
	Root          string
	// Settled waits until whoever reads the store has seen a revision.
	Settled func(ctx context.Context, rev int64) error
	Now     func() time.Time

	one   sync.Mutex
	put   func(from, to string) error // tests: a disk that cannot be written
	after func(step) error            // tests end the process here
}

// maxRewrites is how often one call looks for what is still stale; writes that
// come meanwhile are not, so twice is enough.
const maxRewrites = 10

// Rotation is how far one has come.
type Rotation struct {
	// Configuration is the file whose first key writes; empty: the generated one.
	Configuration string         `json:"configuration,omitempty"`
	Key           string         `json:"key,omitempty"` // the generated one that writes
	New           bool           `json:"new,omitempty"` // it was made by this call
	Rewritten     int            `json:"rewritten"`
	Counts        map[string]int `json:"counts"` // stored values by what encrypts them, read from the store
	Dropped       []string       `json:"dropped,omitempty"`
	Done          bool           `json:"done"` // else call again, without asking for a new key
}

// Rotate makes a new key if fresh says so, unless a rotation has been
// interrupted: that is ended first. When ctx's time is up it says how far it
// has come. It blocks.
func (r *Rotator) Rotate(ctx context.Context, fresh bool) (*Rotation, error) {
	if !r.one.TryLock() {
		return nil, ErrRotating
	}
	defer r.one.Unlock()
	var out *Rotation
	var err error
	if r.Configuration != nil {
		out, err = r.rewriteAll(ctx)
	} else {
		out, err = r.rotate(ctx, fresh)
	}
	if err != nil && out != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return out, nil
	}
	return out, err
}

func (r *Rotator) rename() func(from, to string) error {
	if r.put != nil {
		return r.put
	}
	return os.Rename
}

func (r *Rotator) rotate(ctx context.Context, fresh bool) (*Rotation, error) {
	out, s, rewrites := &Rotation{}, rotating{fresh: fresh}, 0
	for first := true; ; first = false {
		keys, err := ReadKeys(r.Path)
		if err != nil {
			return nil, err
		}
		if first && len(keys) > 1 {
			s.fresh = false // one has been interrupted, or its owner has begun by hand
		}
		s.file = nil
		for _, k := range keys {
			s.file = append(s.file, k.Name)
		}
		s.loaded = r.Ring.has(keys)
		var rev int64
		if s.counts, rev, err = r.count(ctx, keys); err != nil {
			return out, err
		}
		if len(keys) > 0 {
			out.Key = keys[0].Name
		}
		out.Counts = s.counts
		do, err := next(s)
		if err != nil {
			return nil, err
		}
		if do == done {
			out.Done = true
			return out, nil
		}
		if do == rewrite {
			if rewrites++; rewrites > maxRewrites {
				return out, nil
			}
		}
		if err := r.do(ctx, do, keys, rev, out); err != nil {
			return out, err
		}
		s.fresh, s.forgotten = s.fresh && do != begin, do == forget
		if r.after != nil {
			if err := r.after(do); err != nil {
				return nil, err
			}
		}
	}
}

func (r *Rotator) do(ctx context.Context, do step, keys []Key, rev int64, out *Rotation) error {
	switch do {
	case load:
		return r.Ring.set(keys)
	case begin:
		key, err := newKey(r.Now(), keys)
		if err == nil {
			err = writeKeys(r.Path, append([]Key{key}, keys...), r.rename())
		}
		if err != nil {
			return fmt.Errorf("cannot write a new key into %s, nothing has changed: %w", r.Path, err)
		}
		out.New = true
	case rewrite:
		n, err := r.rewrite(ctx, r.Prefix)
		out.Rewritten += n
		return err
	case forget:
		// Whoever reads a past revision would need the old key for it.
		if err := r.Raw.Compact(ctx, rev); err != nil && !errors.Is(err, store.ErrCompacted) {
			return err
		}
		if r.Settled != nil {
			return r.Settled(ctx, rev)
		}
	case drop:
		if err := writeKeys(r.Path, keys[:1], r.rename()); err != nil {
			return fmt.Errorf("nothing needs the old keys any more, but %s cannot be written: %w", r.Path, err)
		}
		for _, k := range keys[1:] {
			out.Dropped = append(out.Dropped, k.Name)
		}
	}
	return nil
}

// pageSize of the lists: a few megabytes of the largest values.
const pageSize = 100

// each calls fn for what is stored below a prefix, as one revision has it.
func each(ctx context.Context, from store.Store, prefix string, fn func(store.KV) error) (rev int64, err error) {
	for o := (store.ListOptions{Limit: pageSize}); ; {
		page, err := from.List(ctx, prefix, o)
		if err != nil {
			return 0, err
		}
		for _, kv := range page.KVs {
			if err := fn(kv); err != nil {
				return 0, err
			}
		}
		if !page.More || len(page.KVs) == 0 {
			return page.Rev, nil
		}
		o.Rev, o.After = page.Rev, page.KVs[len(page.KVs)-1].Key
	}
}

// writer is what a stored value says it was encrypted by: provider and key.
func writer(value []byte) string {
	rest, encrypted := bytes.CutPrefix(value, []byte(anyPrefix))
	if !encrypted {
		return ClearText
	}
	parts := bytes.SplitN(rest, []byte(":"), 4) // provider, version, key, value
	if len(parts) < 4 {
		return "an unknown provider"
	}
	return string(parts[0]) + " " + string(parts[2])
}

// count reads the store itself. What says that a key has encrypted it has to
// open with that key alone.
func (r *Rotator) count(ctx context.Context, keys []Key) (map[string]int, int64, error) {
	alone := map[string]*AESGCM{}
	for _, k := range keys {
		g, err := NewAESGCM([]Key{k})
		if err != nil {
			return nil, 0, err
		}
		alone[k.Name] = g
	}
	counts, bad, sample := map[string]int{}, 0, ""
	rev, err := each(ctx, r.Raw, r.Prefix, func(kv store.KV) error {
		name := strings.TrimPrefix(writer(kv.Value), "aesgcm ")
		counts[name]++
		if g := alone[name]; g != nil {
			if _, _, err := g.FromStore(ctx, kv.Key, kv.Value); err != nil {
				bad, sample = bad+1, kv.Key
			}
		}
		return nil
	})
	if err == nil && bad > 0 {
		err = fmt.Errorf("%d stored values do not open with the key that they name, for instance %s: restore or delete them; no key is dropped", bad, sample)
	}
	return counts, rev, err
}

// rewrite writes anew what is stale. Who changes or deletes it meanwhile has
// done the same.
func (r *Rotator) rewrite(ctx context.Context, prefix string) (n int, err error) {
	_, err = each(ctx, r.Store, prefix, func(kv store.KV) error {
		if !kv.Stale || r.Store.rule(kv.Key) == nil {
			return nil
		}
		_, err := r.Store.Put(ctx, kv.Key, kv.Value, kv.Rev)
		var conflict *store.Conflict
		if errors.As(err, &conflict) {
			return nil
		}
		if err == nil {
			n++
		}
		return err
	})
	return n, err
}

// rewriteAll is a rotation by a configuration.
func (r *Rotator) rewriteAll(ctx context.Context) (*Rotation, error) {
	c := r.Configuration
	if err := c.Reload(ctx); err != nil {
		return nil, fmt.Errorf("the encryption configuration %s: %w", c.path, err)
	}
	out := &Rotation{Configuration: c.path}
	n, err := r.rewrite(ctx, r.Root)
	out.Rewritten = n
	if err != nil {
		return out, err
	}
	counts, stale, bad := map[string]int{}, 0, ""
	_, err = each(ctx, r.Raw, r.Root, func(kv store.KV) error {
		t := r.Store.rule(kv.Key)
		if t == nil {
			return nil
		}
		name := writer(kv.Value)
		_, old, err := t.FromStore(ctx, kv.Key, kv.Value)
		if err != nil {
			bad = kv.Key
		}
		if old {
			stale++
		}
		if name != ClearText || old { // else it is to be as it is
			counts[name]++
		}
		return nil
	})
	out.Counts = maps.Clone(counts)
	switch {
	case err != nil:
		return out, err
	case bad != "":
		return nil, fmt.Errorf("what is stored at %s opens with no key of %s: keep the keys that it had", bad, c.path)
	}
	out.Done = stale == 0
	return out, nil
}

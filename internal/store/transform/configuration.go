package transform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"

	"knarr.dev/knarr/internal/filewatch"
	"knarr.dev/knarr/internal/store"
)

// reloadEvery is how often the file is read again. It may be a mounted
// volume's, whose changes no watch of the path shows.
const reloadEvery = 10 * time.Second

// Configuration is what an EncryptionConfiguration file orders, as it stands
// by now.
type Configuration struct {
	Reloads *filewatch.Reloads // counts changes; optional, set before Run

	path, server string
	generated    generated
	log          *slog.Logger
	now          atomic.Pointer[loaded]
	reload       sync.Mutex // one at a time
}

// generated keys, and whether a value was encrypted by one of their names.
type generated interface {
	store.Transformer
	wrote(value []byte) bool
}

type loaded struct {
	*encryptionconfig.EncryptionConfiguration
	close context.CancelFunc
}

// OpenConfiguration reads the file; server tells this server from others in
// what plugins report. The generated keys read what they wrote before there was a
// file, and write Secrets as long as the file does not speak of them.
func OpenConfiguration(path, server string, keys generated, log *slog.Logger) (*Configuration, error) {
	c := &Configuration{path: path, server: server, generated: keys, log: log}
	first, err := c.load()
	if err != nil {
		return nil, fmt.Errorf("the encryption configuration %s: %w", path, err)
	}
	c.now.Store(first)
	return c, nil
}

func (c *Configuration) load() (*loaded, error) {
	ctx, cancel := context.WithCancel(context.Background()) // ends with the next one, or with the process
	cfg, err := encryptionconfig.LoadEncryptionConfig(ctx, c.path, true, c.server)
	if err != nil {
		cancel()
		return nil, err
	}
	return &loaded{cfg, cancel}, nil
}

// Run takes over what changes in the file until ctx ends. A file that is
// broken, or whose plugins do not answer, changes nothing.
func (c *Configuration) Run(ctx context.Context) error {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	c.Reloads.Holds(c.now.Load().EncryptionFileContentHash)
	failed := ""
	for {
		select {
		case <-ctx.Done():
			c.now.Load().close()
			return nil
		case <-tick.C:
		}
		err := c.Reload(ctx)
		if err != nil && err.Error() != failed {
			c.log.Error("the encryption configuration stays as it was", "file", c.path, "error", err)
		}
		failed = ""
		if err != nil {
			failed = err.Error()
		}
	}
}

// Reload reads the file now.
func (c *Configuration) Reload(ctx context.Context) error {
	c.reload.Lock()
	defer c.reload.Unlock()
	old := c.now.Load()
	hash, err := encryptionconfig.GetEncryptionConfigHash(c.path)
	if err == nil && hash == old.EncryptionFileContentHash {
		return nil
	}
	if err == nil {
		err = c.replace(ctx, old)
	}
	c.Reloads.Told(hash, err, time.Now())
	return err
}

func (c *Configuration) replace(ctx context.Context, old *loaded) error {
	next, err := c.load()
	if err != nil {
		return err
	}
	if err := next.check(ctx); err != nil {
		next.close()
		return err
	}
	c.now.Store(next)
	time.AfterFunc(old.KMSCloseGracePeriod, old.close) // calls under way end first
	c.log.Info("the encryption configuration has changed", "file", c.path)
	return nil
}

// Check asks the plugins whether they are well.
func (c *Configuration) Check(ctx context.Context) error { return c.now.Load().check(ctx) }

func (l *loaded) check(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/healthz", http.NoBody)
	for _, h := range l.HealthChecks {
		err = errors.Join(err, h.Check(r))
	}
	return err
}

// For is the transformer of a resource.
func (c *Configuration) For(gr schema.GroupResource) store.Transformer { return &ordered{c, gr} }

// ordered is a resource's transformer, looked up at each call.
type ordered struct {
	c  *Configuration
	gr schema.GroupResource
}

// find returns nil for Secrets that the file does not speak of.
func (o *ordered) find() value.Transformer {
	all := o.c.now.Load().Transformers
	if o.gr == (schema.GroupResource{Resource: "secrets"}) && all[o.gr] == nil &&
		all[schema.GroupResource{Resource: "*"}] == nil && all[schema.GroupResource{Group: "*", Resource: "*"}] == nil {
		return nil
	}
	return encryptionconfig.StaticTransformers(all).TransformerForResource(o.gr)
}

// ToStore implements store.Transformer.
func (o *ordered) ToStore(ctx context.Context, key string, data []byte) ([]byte, error) {
	t := o.find()
	if t == nil {
		return o.c.generated.ToStore(ctx, key, data)
	}
	return t.TransformToStorage(ctx, data, value.DefaultContext(key))
}

// FromStore implements store.Transformer.
func (o *ordered) FromStore(ctx context.Context, key string, data []byte) ([]byte, bool, error) {
	t := o.find()
	if t == nil {
		return o.c.generated.FromStore(ctx, key, data)
	}
	out, stale, err := t.TransformFromStorage(ctx, data, value.DefaultContext(key))
	if err != nil && o.c.generated.wrote(data) {
		if out, _, gerr := o.c.generated.FromStore(ctx, key, data); gerr == nil {
			return out, true, nil
		}
	}
	return out, stale, err
}

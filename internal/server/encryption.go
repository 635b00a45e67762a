package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/etcd"
	"knarr.dev/knarr/internal/store/metered"
	"knarr.dev/knarr/internal/store/transform"
)

// checks of /readyz.
func (s *control) checks() map[string]func(context.Context) error {
	checks := map[string]func(context.Context) error{"disk": func(context.Context) error { return s.etcd.DiskRoom() }}
	if s.encryption != nil {
		checks["kms-providers"] = s.encryption.Check
	}
	return checks
}

// encrypted keeps Secrets unreadable on disk; the key is made at the first start.
// With an EncryptionConfiguration, that decides.
func (s *control) encrypted(ctx context.Context) (store.Store, error) {
	c := s.cfg
	path := c.Dir("server", "pki", "encryption.yaml")
	file := transform.KeyFile{Path: path, Raw: s.etcd, Prefix: kinds.Secret.KeyPrefix(""), Configured: c.EncryptionConfig != ""}
	keys, err := file.Open(ctx, time.Now)
	if err != nil {
		return nil, err
	}
	ring, err := transform.NewKeyring(keys)
	if err != nil {
		return nil, err
	}
	rule := transform.Below(kinds.Secret.KeyPrefix(""), ring)
	if c.EncryptionConfig != "" {
		if s.encryption, err = transform.OpenConfiguration(c.EncryptionConfig, c.NodeName, ring, s.log); err != nil {
			return nil, err
		}
		s.encryption.Reloads = s.reloads("encryption_config_controller")
		rule = byResource(s.table, s.encryption.For)
	}
	counted, err := metered.New(metered.Config{Store: s.etcd, Resource: resourceOf(s.table), Metrics: s.metrics, Size: s.etcd.Size})
	if err != nil {
		return nil, err
	}
	out, err := transform.New(transform.Config{Store: counted, Log: s.log, Rule: rule})
	if err != nil {
		return nil, err
	}
	s.rotator = newRotator(path, ring, s.etcd, out)
	s.rotator.Configuration = s.encryption
	s.rotator.Settled = func(ctx context.Context, rev int64) error { return s.cache.WaitRev(ctx, rev) }
	return out, nil
}

func newRotator(path string, ring *transform.Keyring, raw transform.Raw, out *transform.Store) *transform.Rotator {
	return &transform.Rotator{Path: path, Ring: ring, Raw: raw, Store: out, Prefix: kinds.Secret.KeyPrefix(""), Root: kinds.Root, Now: time.Now}
}

// rotationPath is where `knarr secrets rotate` asks a running server; only who may
// do everything may post there.
const rotationPath = "/encryption/rotation"

// rotateKey answers there.
func (s *control) rotateKey(ctx context.Context, q url.Values) (any, error) {
	if s.share != nil && s.encryption == nil {
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "encryption"}, "rotation", errSharedKey)
	}
	ctx, cancel := context.WithTimeout(ctx, rotationTime)
	defer cancel()
	out, err := s.rotator.Rotate(ctx, q.Get("new") == "true")
	switch {
	case errors.Is(err, transform.ErrRotating):
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "encryption"}, "rotation", err)
	case err != nil:
		s.log.Error("the encryption key could not be rotated", "error", err)
		return nil, apierrors.NewInternalError(err)
	}
	s.log.Info("encryption key rotation", "key", out.Key, "new", out.New, "rewritten", out.Rewritten, "dropped", out.Dropped, "done", out.Done)
	return out, nil
}

// errSharedKey: another server would not know the new key at once, and could not
// read what is written with it.
var errSharedKey = errors.New("servers over an external etcd share the generated key, which cannot be changed while they run: give all of them an --encryption-provider-config with a new key, first to read and then to write with")

// rotationTime is less than a request may take, so that there is an answer.
const rotationTime = 40 * time.Second

// RotateStopped does what a running server would do, on the store of one that
// does not run.
func RotateStopped(ctx context.Context, in *Instance, fresh bool, log *slog.Logger) (out *transform.Rotation, err error) {
	err = stopped(ctx, in, log, func(db *etcd.Store, path string) error {
		keys, err := transform.ReadKeys(path)
		if err != nil {
			return err
		}
		ring, err := transform.NewKeyring(keys)
		if err != nil {
			return err
		}
		s, err := transform.New(transform.Config{Store: db, Log: log, Rule: transform.Below(kinds.Secret.KeyPrefix(""), ring)})
		if err != nil {
			return err
		}
		out, err = newRotator(path, ring, db, s).Rotate(ctx, fresh)
		return err
	})
	return out, err
}

// DiscardStopped deletes the Secrets that lost keys have encrypted from the
// store of a server that does not run: a running one would read on.
func DiscardStopped(ctx context.Context, in *Instance, keys []string, log *slog.Logger) (out transform.Lost, err error) {
	err = stopped(ctx, in, log, func(db *etcd.Store, path string) error {
		atHand, err := transform.ReadKeys(path)
		if err != nil && !errors.Is(err, transform.ErrNoKeyFile) {
			return err
		}
		out, err = transform.Discard(ctx, db, kinds.Secret.KeyPrefix(""), atHand, keys)
		return err
	})
	return out, err
}

// stopped opens the store of a server that does not run, as long as do takes;
// path is that of the key file.
func stopped(ctx context.Context, in *Instance, log *slog.Logger, do func(db *etcd.Store, path string) error) error {
	if in.Etcd != nil {
		return fmt.Errorf("the cluster lies in an external etcd (%s), which other servers may be using: start this one and ask it", strings.Join(in.Etcd.Endpoints, ", "))
	}
	c := &Config{DataDir: in.DataDir, Log: log}
	lock, err := lockInstance(c.DataDir)
	if err != nil {
		return err
	}
	defer unlock(c.DataDir, lock)
	if err := os.MkdirAll(c.RunDir(), 0o700); err != nil {
		return err
	}
	db, err := etcd.Open(ctx, etcd.Config{Dir: c.Dir("server", "etcd"), SocketDir: c.RunDir(), Log: log})
	if err != nil {
		return err
	}
	return errors.Join(do(db, c.Dir("server", "pki", "encryption.yaml")), db.Close())
}

// byResource finds the transformer of a key's resource.
func byResource(table *kinds.Table, of func(schema.GroupResource) store.Transformer) func(key string) store.Transformer {
	resource, known := resourceOf(table), sync.Map{}
	return func(key string) store.Transformer {
		gr := resource(key)
		if gr.Resource == "" {
			return nil
		}
		t, ok := known.Load(gr)
		if !ok {
			t, _ = known.LoadOrStore(gr, of(gr))
		}
		return t.(store.Transformer)
	}
}

// resourceOf finds what a key holds: built-in kinds by their prefixes, the
// others are custom ones, below their group and resource.
func resourceOf(table *kinds.Table) func(key string) schema.GroupResource {
	builtin := map[string]schema.GroupResource{}
	for _, k := range table.All() {
		if k.Stored() && k.StoredAs == nil && k.Now == nil {
			builtin[k.Prefix] = k.GroupResource()
		}
	}
	return func(key string) schema.GroupResource {
		path := strings.TrimPrefix(key, kinds.Root)
		for i, r := range path {
			if r == '/' {
				if gr, ok := builtin[path[:i]]; ok {
					return gr
				}
			}
		}
		group, rest, ok := strings.Cut(path, "/")
		resource, _, deeper := strings.Cut(rest, "/")
		if !ok || !deeper || !strings.Contains(group, ".") {
			return schema.GroupResource{}
		}
		return schema.GroupResource{Group: group, Resource: resource}
	}
}

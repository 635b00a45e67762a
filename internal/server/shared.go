package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/pki"
	"knarr.dev/knarr/internal/security/sealed"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/etcd"
	"knarr.dev/knarr/internal/store/transform"
)

// What the servers over one external etcd have in common lies there, sealed with
// the cluster key: the first server makes it, by a transaction that only one can
// win, and the others take it (docs/adr/0005).

const (
	// clusterFile says among the shared files what is not secret: networks and port.
	clusterFile = "cluster.json"
	apiPort     = "api-port"

	signingFile    = "service-account.key"
	encryptionFile = "encryption.yaml"
	authorityFile  = "ca.crt"
)

// sharedFiles of server/pki, in the order in which they are written: a
// certificate is never there without its key.
func sharedFiles() []string {
	return []string{"ca.key", authorityFile, "front-proxy-ca.key", "front-proxy-ca.crt", signingFile, encryptionFile}
}

// share is this server's access to it.
type share struct {
	cfg   *Config
	db    store.Store
	key   sealed.Key
	place string     // of the sealed files in the store, which is not below the objects' prefix
	mu    sync.Mutex // of the files, while the server runs
}

// openShared makes this server one of the cluster's: when it returns, server/pki
// and the networks are those of all servers.
func openShared(ctx context.Context, c *Config, db store.Store) (*share, error) {
	s := &share{cfg: c, db: db, place: etcd.OwnRoot + "/bootstrap" + c.Etcd.Prefix}
	known, err := s.findKey()
	if err != nil {
		return nil, err
	}
	made := false
	kv, err := db.Get(ctx, s.place)
	if errors.Is(err, store.ErrNotFound) {
		made = !known
		kv, err = s.first(ctx, made)
	}
	if err == nil && !known && !made {
		return nil, errors.New("this etcd holds a cluster: give the key of its servers with --cluster-key-file (it is server/cluster.key in the data directory of any of them)")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot set up what the servers share: %w", err)
	}
	files, err := s.open(kv)
	if err != nil {
		if made { // somebody else was first: ours is of no use
			err = errors.Join(err, os.Remove(s.keyFile()))
		}
		return nil, err
	}
	if err := s.adopt(files); err != nil {
		return nil, err
	}
	return s, pki.WriteFile(s.keyFile(), []byte(s.key.Encode()))
}

func (s *share) keyFile() string      { return s.cfg.Dir("server", "cluster.key") }
func (s *share) dir() string          { return s.cfg.Dir("server", "pki") }
func (s *share) path(n string) string { return filepath.Join(s.dir(), n) }
func (s *share) open(kv store.KV) (files map[string][]byte, err error) {
	files, err = s.key.Open(s.place, kv.Value)
	switch {
	case errors.Is(err, sealed.ErrKey):
		return nil, errors.New("the cluster key is not that of this etcd's cluster: give the file of one of its servers with --cluster-key-file (there it is server/cluster.key in the data directory)")
	case err != nil:
		return nil, fmt.Errorf("what the servers share, at %s in etcd: %w", s.place, err)
	}
	return files, nil
}

// findKey takes the key that is given, or that of the last start.
func (s *share) findKey() (known bool, err error) {
	text := s.cfg.Etcd.ClusterKey
	if text == "" {
		data, err := os.ReadFile(s.keyFile())
		if errors.Is(err, fs.ErrNotExist) {
			s.key = sealed.NewKey()
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("cannot read the cluster key: %w", err)
		}
		text = string(data)
	}
	if s.key, err = sealed.ParseKey(text); err != nil {
		return false, fmt.Errorf("%s: %w", s.keyFile(), err)
	}
	return true, nil
}

// first stores what this server has, or makes; if another one does so at the
// same time, that one's stands. The key is on disk before anything is sealed
// with it.
func (s *share) first(ctx context.Context, newKey bool) (store.KV, error) {
	if newKey {
		if err := pki.WriteFile(s.keyFile(), []byte(s.key.Encode())); err != nil {
			return store.KV{}, err
		}
	}
	files, err := s.collect(ctx)
	if err != nil {
		return store.KV{}, err
	}
	data, err := s.key.Seal(s.place, files)
	if err != nil {
		return store.KV{}, err
	}
	rev, err := s.db.Put(ctx, s.place, data, 0)
	var faster *store.Conflict
	if errors.As(err, &faster) {
		return faster.Current, nil
	}
	return store.KV{Key: s.place, Value: data, Rev: rev}, err
}

// collect the files of this server; without any, new ones are made aside, since
// another server's may come to stand.
func (s *share) collect(ctx context.Context) (map[string][]byte, error) {
	dir := s.dir()
	if _, err := os.Lstat(s.path("ca.key")); errors.Is(err, fs.ErrNotExist) {
		page, err := s.db.List(ctx, kinds.Root, store.ListOptions{Limit: 1})
		if err != nil {
			return nil, err
		}
		if len(page.KVs) > 0 {
			return nil, fmt.Errorf("etcd holds objects below %s, but not the keys of their cluster: restore %s and %s from a backup of one of its servers, or choose another --etcd-prefix for a new cluster",
				s.cfg.Etcd.Prefix, s.dir(), s.keyFile())
		}
		dir = s.cfg.Dir("server", "pki.new")
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
	}
	if err := s.make(ctx, dir); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, name := range sharedFiles() {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		files[name] = data
	}
	said := map[string]string{apiPort: fmt.Sprint(s.cfg.APIPort)}
	for key, value := range s.cfg.networks() {
		said[key] = *value
	}
	var err error
	files[clusterFile], err = json.Marshal(said)
	return files, err
}

// make what is missing in a directory of keys.
func (s *share) make(ctx context.Context, dir string) error {
	for name, common := range authorities() {
		if _, err := pki.OpenAuthority(dir, name, common, time.Now()); err != nil {
			return err
		}
	}
	if _, err := pki.OpenSigningKeys(filepath.Join(dir, signingFile)); err != nil {
		return err
	}
	keys := transform.KeyFile{Path: filepath.Join(dir, encryptionFile), Raw: s.db, Prefix: kinds.Secret.KeyPrefix(""), Configured: s.cfg.EncryptionConfig != ""}
	_, err := keys.Open(ctx, time.Now)
	return err
}

// authorities of a cluster, with the common names of their certificates.
func authorities() map[string]string {
	return map[string]string{"ca": "knarr-ca", "front-proxy-ca": "knarr-front-proxy-ca"}
}

// adopt the files of the cluster. One that was changed here while this server did
// not run is refused: nobody knows which of the two is meant.
func (s *share) adopt(files map[string][]byte) error {
	for _, name := range sharedFiles() {
		if len(files[name]) == 0 {
			return fmt.Errorf("what the servers share, at %s in etcd, lacks %s: it is of another version of knarr", s.place, name)
		}
	}
	if err := s.adoptCluster(files[clusterFile]); err != nil {
		return err
	}
	taken, err := s.readTaken()
	if err != nil {
		return err
	}
	for _, name := range sharedFiles() {
		have, err := os.ReadFile(s.path(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		switch {
		case err != nil || bytes.Equal(have, files[name]) || slices.Contains(taken[name], digest(have)):
		case name == authorityFile:
			return fmt.Errorf("%s is of another cluster than this etcd's: choose another place with --data-dir, or `knarr uninstall` first", s.path(name))
		default:
			return fmt.Errorf("%s has been changed here, and differs from what the servers share: change %s while the server runs; to take what the others have, remove the file here", s.path(name), signingFile)
		}
	}
	for _, name := range sharedFiles() {
		if err := s.install(name, files[name]); err != nil {
			return err
		}
	}
	return nil
}

// adoptCluster takes the networks, unless other ones were asked for here.
func (s *share) adoptCluster(data []byte) error {
	said, c := map[string]string{}, s.cfg
	if err := json.Unmarshal(data, &said); err != nil {
		return fmt.Errorf("what the servers share, at %s in etcd, has no %s: %w", s.place, clusterFile, err)
	}
	if port := fmt.Sprint(c.APIPort); said[apiPort] != port {
		return fmt.Errorf("the other servers of this cluster listen on port %[1]s, this one on %[2]s, and pods reach them by one: give --api-port %[1]s", said[apiPort], port)
	}
	domain := c.ClusterDomain
	for key, value := range c.networks() {
		if asked := c.asked[key]; asked != "" && asked != said[key] {
			return fmt.Errorf("--%s is %s in this cluster, not %s: leave the flag away", key, said[key], asked)
		}
		*value = said[key]
	}
	if slices.Equal(c.Access.Issuers, []string{defaultIssuer(domain)}) {
		c.Access.Issuers = []string{defaultIssuer(c.ClusterDomain)}
	}
	c.agreed = true
	return c.completeNetworks()
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (s *share) takenFile() string { return s.path(".shared.json") }

// readTaken says which contents of each file were the cluster's when they were
// taken: the last two, since a crash may leave either.
func (s *share) readTaken() (map[string][]string, error) {
	taken := map[string][]string{}
	data, err := os.ReadFile(s.takenFile())
	if errors.Is(err, fs.ErrNotExist) {
		return taken, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &taken)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.takenFile(), err)
	}
	return taken, nil
}

// install a file of the cluster.
func (s *share) install(name string, data []byte) error {
	taken, err := s.readTaken()
	if err != nil {
		return err
	}
	if is := digest(data); !slices.Contains(taken[name], is) {
		taken[name] = append(taken[name], is)
		taken[name] = taken[name][max(0, len(taken[name])-2):]
		note, err := json.Marshal(taken)
		if err != nil {
			return err
		}
		if err := pki.WriteFile(s.takenFile(), note); err != nil {
			return err
		}
	}
	return pki.WriteFile(s.path(name), data)
}

// publishFile gives a file that was changed here, while the server runs, to all.
func (s *share) publishFile(ctx context.Context, name string) error {
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		return err
	}
	for {
		kv, err := s.db.Get(ctx, s.place)
		if err != nil {
			return err
		}
		files, err := s.open(kv)
		if err != nil || bytes.Equal(files[name], data) {
			return err
		}
		files[name] = data
		value, err := s.key.Seal(s.place, files)
		if err != nil {
			return err
		}
		_, err = s.db.Put(ctx, s.place, value, kv.Rev)
		if errors.As(err, new(*store.Conflict)) {
			continue // another server changes something: on top of that
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.install(name, data)
	}
}

// follow takes what other servers change, until ctx ends: the keys of service
// account tokens, whose file is followed in turn.
func (s *share) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		kv, err := s.db.Get(ctx, s.place)
		if err == nil {
			err = s.takeSigning(kv)
		}
		if err == nil {
			err = s.db.Watch(ctx, s.place, kv.Rev, func(b store.Batch) error {
				for _, e := range b.Events {
					if e.Key == s.place && !e.Delete {
						if err := s.takeSigning(e.KV); err != nil {
							return err
						}
					}
				}
				return nil
			})
		}
		if ctx.Err() != nil {
			return nil
		}
		s.cfg.Log.Warn("cannot follow what the servers share; it is tried again", "error", err)
		select {
		case <-time.After(followAgain):
		case <-ctx.Done():
		}
	}
	return nil
}

const followAgain = 2 * time.Second

func (s *share) takeSigning(kv store.KV) error {
	files, err := s.open(kv)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	taken, err := s.readTaken()
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(s.path(signingFile)); err == nil && !slices.Contains(taken[signingFile], digest(have)) {
		return nil // it has just been changed here, and will be published
	}
	return s.install(signingFile, files[signingFile])
}

func defaultIssuer(domain string) string { return "https://kubernetes.default.svc." + domain }

// lockPorts is how one of several servers gives node ports at a time.
func (s *control) lockPorts() func(context.Context) (context.Context, func(), error) {
	if s.share == nil {
		return nil
	}
	name := "node-ports" + s.cfg.Etcd.Prefix
	return func(ctx context.Context) (context.Context, func(), error) { return s.etcd.Lock(ctx, name) }
}

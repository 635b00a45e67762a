package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/auth/bootstrap"
	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// server is the real apiserver, with real admission and authorization, asked
// in process.
type server struct{ api *apiserver.Server }

func newServer(w *world) (server, error) {
	rng := rand.New(rand.NewPCG(w.seed, 1))
	rights := authz.New(w.tap)
	var self server
	plugins, err := admission.Default(admission.Config{View: w.tap, Authz: rights, Now: w.clock, AccountPatience: -1, Suffix: func() string { return suffix(rng) },
		Self: func() admission.Self { return self.client("system:apiserver", "system:masters") }})
	if err != nil {
		return server{}, err
	}
	api, err := apiserver.New(apiserver.Config{
		Kinds: w.table, Store: &committing{w.store, w}, Cache: w.cache, View: w.tap, Authz: rights, Rules: rights, Admission: plugins,
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"), Log: w.log, Now: w.clock, UID: func() string { return uid(rng) }, Rand: rng.IntN,
	})
	self = server{api}
	return self, err
}

func (s server) client(name string, groups ...string) client.Client {
	return s.api.Client(&user.DefaultInfo{Name: name, Groups: append(slices.Clone(groups), user.AllAuthenticated)})
}

// bootstrap makes what every cluster has, in an order that is the same in
// every run.
func (w *world) bootstrap() error {
	entries := bootstrap.Objects(w.controllers())
	slices.SortStableFunc(entries, func(a, b bootstrap.Entry) int {
		if a.Kind != b.Kind {
			return cmp.Compare(slices.Index(w.kinds, a.Kind), slices.Index(w.kinds, b.Kind))
		}
		return cmp.Compare(a.Object.GetName(), b.Object.GetName())
	})
	if err := bootstrap.Ensure(w.ctx, w.admin, w.tap.Snapshot(), entries); err != nil {
		return fmt.Errorf("cannot set the cluster up: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(priorities)) {
		class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: priorities[name]}
		if _, err := w.admin.Create(w.ctx, kinds.Ref{Kind: kinds.PriorityClass}, class); err != nil {
			return fmt.Errorf("cannot create a priority class: %w", err)
		}
	}
	for _, o := range deviceObjects() {
		k := kinds.ResourceSlice
		if _, ok := o.(*resourcev1.DeviceClass); ok {
			k = kinds.DeviceClass
		}
		if _, err := w.admin.Create(w.ctx, kinds.Ref{Kind: k}, o); err != nil {
			return fmt.Errorf("cannot create devices: %w", err)
		}
	}
	return nil
}

// priorities of the apps that have one, by the class that is named after them.
var priorities = map[string]int32{"db": 1000, "api": 100, "job": -100}

const alphabet = "bcdfghjklmnpqrstvwxz2456789"

func suffix(rng *rand.Rand) string {
	b := make([]byte, 5)
	for i := range b {
		b[i] = alphabet[rng.IntN(len(alphabet))]
	}
	return string(b)
}

func uid(rng *rand.Rand) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], rng.Uint64())
	binary.BigEndian.PutUint64(b[8:], rng.Uint64())
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// committing is the store; what it commits is fed to the cache at once.
type committing struct {
	store.Store
	world *world
}

func (c *committing) Put(ctx context.Context, key string, value []byte, expect int64) (int64, error) {
	rev, err := c.Store.Put(ctx, key, value, expect)
	if err == nil {
		c.world.pump()
	}
	return rev, err
}

func (c *committing) Delete(ctx context.Context, key string, expect int64) (int64, error) {
	rev, err := c.Store.Delete(ctx, key, expect)
	if err == nil {
		c.world.pump()
	}
	return rev, err
}

// decode a commit: its kind (nil: none of ours), the new state and the last.
func (w *world) decode(e store.Event) (k *kinds.Kind, obj, prev kinds.Object, err error) {
	for _, x := range w.kinds {
		if len(e.Key) > len(x.KeyPrefix("")) && e.Key[:len(x.KeyPrefix(""))] == x.KeyPrefix("") && (k == nil || len(x.Prefix) > len(k.Prefix)) {
			k = x
		}
	}
	if k == nil {
		return nil, nil, nil, nil
	}
	if !e.Delete {
		if obj, err = codec.DecodeStored(k, e.Value, e.Rev); err != nil {
			return nil, nil, nil, err
		}
	}
	if e.Prev != nil {
		prev, err = codec.DecodeStored(k, e.Prev.Value, e.Prev.Rev)
	}
	return k, obj, prev, err
}

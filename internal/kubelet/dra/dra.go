// Package dra gives pods of a node the devices that their ResourceClaims were
// allocated: it has the drivers of these devices prepare them before a pod
// starts, and take that back once the last pod that uses a claim has ended.
package dra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kubelet/durable"
)

// Getter reads one claim, as it is now.
type Getter func(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error)

// Config of Claims.
type Config struct {
	Node   string
	Client client.Client // for slices of devices of this node
	Claim  Getter
	File   string // what drivers were asked to prepare, for the next kubelet
	// Came is called when a driver can be used again, Health when that of
	// devices of these pods has changed. Both must be quick.
	Came   func()
	Health func(pods []types.UID)
	Log    *slog.Logger
}

// Claims are those of the pods of a node.
type Claims struct {
	cfg     Config
	wake    chan struct{} // capacity 1: slices may have to go
	timeout time.Duration // of a call to a driver

	mu      sync.Mutex
	claims  map[types.NamespacedName]*claim
	busy    map[types.NamespacedName]chan struct{} // closed when a driver is no longer asked
	drivers map[string][]*plugin                   // the newest last
	wipes   map[string]wipe
}

// claim that a driver was asked to prepare, or is about to be.
type claim struct {
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	UID       types.UID           `json:"uid"`
	Pods      []types.UID         `json:"pods"`
	Drivers   map[string][]device `json:"drivers"`

	// prepared by this kubelet. Another one may have done it before a reboot took
	// it away: drivers are asked again, which changes nothing if it still holds.
	prepared bool
}

func (c *claim) key() types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
}

// device as a driver gave it.
type device struct {
	Pool     string   `json:"pool"`
	Device   string   `json:"device"`
	Share    *string  `json:"share,omitempty"`
	Requests []string `json:"requests,omitempty"` // none: all of the claim
	IDs      []string `json:"ids,omitempty"`      // of CDI
}

// New does no I/O.
func New(c Config) *Claims {
	return &Claims{cfg: c, wake: make(chan struct{}, 1), timeout: callTimeout, claims: map[types.NamespacedName]*claim{}, busy: map[types.NamespacedName]chan struct{}{},
		drivers: map[string][]*plugin{}, wipes: map[string]wipe{}}
}

// Open reads what an earlier kubelet knew.
func (c *Claims) Open() error {
	data, err := os.ReadFile(c.cfg.File)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var list []*claim
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("%s cannot be read, please drain the node and remove it: %w", c.cfg.File, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range list {
		c.claims[cl.key()] = cl
	}
	return nil
}

// save what is known; the caller holds the lock.
func (c *Claims) save() error {
	list := slices.SortedFunc(maps.Values(c.claims), func(a, b *claim) int { return compare(a.key(), b.key()) })
	data, err := json.Marshal(list)
	if err == nil {
		err = durable.Write(c.cfg.File, data)
	}
	if err != nil {
		return fmt.Errorf("checkpoint ResourceClaim state: %w", err)
	}
	return nil
}

// lock claims against others who ask drivers about them. Those who need several
// take them in the same order.
func (c *Claims) lock(ctx context.Context, keys []types.NamespacedName) (unlock func(), err error) {
	var held []types.NamespacedName
	unlock = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, key := range held {
			close(c.busy[key])
			delete(c.busy, key)
		}
	}
	for _, key := range keys {
		for {
			c.mu.Lock()
			other := c.busy[key]
			if other == nil {
				c.busy[key] = make(chan struct{})
			}
			c.mu.Unlock()
			if other == nil {
				held = append(held, key)
				break
			}
			select {
			case <-other:
			case <-ctx.Done():
				unlock()
				return nil, ctx.Err()
			}
		}
	}
	return unlock, nil
}

// Holds reports whether something may be prepared for the pod.
func (c *Claims) Holds(pod types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.of(pod)) > 0
}

// of a pod; the caller holds the lock.
func (c *Claims) of(pod types.UID) []types.NamespacedName {
	var keys []types.NamespacedName
	for key, cl := range c.claims {
		if slices.Contains(cl.Pods, pod) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, compare)
	return keys
}

// Pods for which something may be prepared, and their namespaces.
func (c *Claims) Pods() map[types.UID]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[types.UID]string{}
	for _, cl := range c.claims {
		for _, pod := range cl.Pods {
			out[pod] = cl.Namespace
		}
	}
	return out
}

// Run wipes slices of drivers that are away until ctx ends. Plugins come and go
// by Register.
func (c *Claims) Run(ctx context.Context) error {
	// None has registered yet, and some may never do so: what they published
	// before must not bring pods here.
	c.mu.Lock()
	c.wipes[everyDriver] = wipe{at: time.Now()}
	c.mu.Unlock()
	for {
		next := c.wipeDue(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		case <-c.wake:
		}
	}
}

package nodeipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

var errRange = errors.New("nodeipam: bad range of pod addresses")

// maxNodes bounds the table of parts: 64 Ki nodes.
const maxNodes = 16

// Config of the controller.
type Config struct {
	// Cluster is the range that the nodes share; IPv4.
	Cluster netip.Prefix
	// Bits of a node's range. 0: 24, room for 254 pods.
	Bits int
}

// Controller gives ranges to all nodes under one key: two nodes are never
// planned on views that do not know of each other.
func Controller(c Config) (reconcile.Controller, error) {
	if c.Bits == 0 {
		c.Bits = 24
	}
	if !c.Cluster.IsValid() || !c.Cluster.Addr().Is4() || c.Bits < c.Cluster.Bits() || c.Bits > 30 || c.Bits-c.Cluster.Bits() > maxNodes {
		return reconcile.Controller{}, fmt.Errorf("%w: %s in parts of /%d", errRange, c.Cluster, c.Bits)
	}
	var mu sync.Mutex
	tried := map[types.UID]netip.Prefix{}
	return reconcile.Controller{
		Name:    "node-ipam-controller",
		Watches: []reconcile.Watch{{Kind: kinds.Node, Keys: nodeKeys}},
		Writes:  []reconcile.Write{{Kind: kinds.Node, Verbs: []plan.Verb{plan.Patch}}},
		Plan: func(in reconcile.Input) (res plan.Result) {
			mu.Lock()
			defer mu.Unlock()
			res, tried = Plan(Observed{
				Nodes: slices.Collect(view.List[*corev1.Node](in.View, kinds.Node, "")), Cluster: c.Cluster, Bits: c.Bits, Tried: tried,
			})
			return res
		},
	}, nil
}

// nodeKeys wakes when a node wants a range, or when one comes free.
func nodeKeys(_ *view.Snapshot, c view.Change) []reconcile.Key {
	n, ok := c.New.(*corev1.Node)
	if ok && n.Spec.PodCIDR != "" {
		return nil
	}
	if ok && c.Old != nil && c.Old.GetUID() == n.UID {
		return nil // it wanted one before, and was planned then
	}
	return []reconcile.Key{{}}
}

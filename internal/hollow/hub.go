package hollow

import (
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// hub listens to a view once for all nodes: to call each of thousands for each
// change would cost more than the change.
type hub struct {
	mu    sync.RWMutex
	nodes map[string]func(view.Change)
}

func newHub() *hub { return &hub{nodes: map[string]func(view.Change){}} }

// changed passes a change on to the node that it is about, or to all.
func (h *hub) changed(c view.Change) {
	name := ""
	switch c.Kind {
	case kinds.Pod:
		name = c.Object().(*corev1.Pod).Spec.NodeName
	case kinds.Node:
		name = c.Object().GetName()
	case kinds.PodCertificateRequest:
		name = string(c.Object().(*certificatesv1.PodCertificateRequest).Spec.NodeName)
	case kinds.ClusterTrustBundle:
		h.all(c)
		return
	}
	if name == "" {
		return
	}
	h.mu.RLock()
	fn := h.nodes[name]
	h.mu.RUnlock()
	if fn != nil {
		fn(c)
	}
}

func (h *hub) all(c view.Change) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, fn := range h.nodes {
		fn(c)
	}
}

// subscribe is what a node's kubelet takes for view.Subscribe.
func (h *hub) subscribe(node string) func(func(view.Change)) func() {
	return func(fn func(view.Change)) func() {
		h.mu.Lock()
		h.nodes[node] = fn
		h.mu.Unlock()
		return func() {
			h.mu.Lock()
			delete(h.nodes, node)
			h.mu.Unlock()
		}
	}
}

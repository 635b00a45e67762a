package kubelet

import (
	"context"
)

// Kubelet is one node's agent.
type Kubelet struct {
	cfg   Config
	ready chan struct{}
}

// New checks the configuration; it does no I/O.
func New(c Config) (*Kubelet, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	return &Kubelet{cfg: c, ready: make(chan struct{})}, nil
}

// Ready is closed once the node is registered and has been Ready once.
func (k *Kubelet) Ready() <-chan struct{} { return k.ready }

// Run works until ctx ends. Containers go on running without it.
func (k *Kubelet) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

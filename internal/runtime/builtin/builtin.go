// Package builtin is a container runtime: the runtime half of the CRI, over a
// supervisor of processes and a store of images. It is a part of knarr's own
// process; what it makes outlives that.
//
// What it knows of sandboxes and containers stands in files below Root, what
// holds them (namespaces, mounts, bundles) below Run, which is lost at reboot.
// How containers live and end, the supervisor says.
package builtin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"knarr.dev/knarr/internal/runtime/builtin/spec"
	"knarr.dev/knarr/internal/runtime/imagestore"
	"knarr.dev/knarr/internal/runtime/supervisor"
)

// Images is what the runtime needs of an image store.
type Images interface {
	Get(ref string) (imagestore.Image, error)
	Prepare(ctx context.Context, id string, image imagestore.Image, o imagestore.RootfsOptions) (imagestore.Rootfs, error)
	MountImage(ctx context.Context, id string, image imagestore.Image, subPath string, o imagestore.RootfsOptions) (string, error)
	Release(id string) error
	Usage(ctx context.Context, id string) (bytes, inodes int64, err error)
	// Roots are the names that Release takes.
	Roots() []string
}

// Network wires sandboxes.
type Network interface {
	// Attach gives a network namespace its addresses, the first one first.
	Attach(ctx context.Context, id, netns string, ports []*runtimeapi.PortMapping) ([]netip.Addr, error)
	// Detach takes back what Attach gave; that there is nothing is fine.
	Detach(ctx context.Context, id, netns string) error
	// Ready is nil if Attach can work.
	Ready() error
}

// Config of the runtime.
type Config struct {
	Root string // persistent
	Run  string // lost at reboot
	// PauseImage holds the PID namespace of pods whose containers share one.
	PauseImage string
	Images     Images
	Network    Network
	Supervisor *supervisor.Process
	// Handlers run the containers of sandboxes that ask for them by name.
	Handlers []supervisor.Handler
	Version  string
	Log      *slog.Logger
}

// Runtime implements the CRI's runtime service.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	cfg     Config
	machine spec.Machine
	can     map[string]*runtimeapi.RuntimeHandlerFeatures // by handler
	stream  streaming.Server
	ready   chan struct{}

	profiles profiles

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	names      map[string]string // reserved, to the ID that has them
	pids       map[string]int    // of what the supervisor runs
	making     map[string]bool   // sandboxes that are not in the list yet
	subs       map[chan *runtimeapi.ContainerEventResponse]bool
}

// New makes one; nothing is read or started.
func New(cfg Config) (*Runtime, error) {
	for name, path := range map[string]string{"root": cfg.Root, "run": cfg.Run} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("runtime: %s path %q is not absolute", name, path)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Runtime{cfg: cfg, ready: make(chan struct{}), can: map[string]*runtimeapi.RuntimeHandlerFeatures{"": ownFeatures},
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, names: map[string]string{}, pids: map[string]int{}, making: map[string]bool{},
		subs: map[chan *runtimeapi.ContainerEventResponse]bool{}}, nil
}

// Ready is closed once everything that was there is known.
func (r *Runtime) Ready() <-chan struct{} { return r.ready }

// Run serves until ctx ends, and leaves containers running.
func (r *Runtime) Run(ctx context.Context) error {
	for _, dir := range []string{r.cfg.Root, r.cfg.Run, r.recordDir("sandboxes"), r.recordDir("containers")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("runtime: %w", err)
		}
	}
	var err error
	if r.machine, err = machine(r.cfg.Log); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	r.can = features(ctx, r.cfg.Handlers)
	if err := r.load(); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	stop, err := r.serveStreams()
	if err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	defer stop()
	return r.cfg.Supervisor.Run(ctx, func(ended <-chan struct{}) {
		followed, synced := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(followed)
			r.follow(ctx, ended, sync.OnceFunc(func() { close(synced) }))
		}()
		select {
		case <-synced:
			select {
			case <-r.ready:
			default:
				close(r.ready)
			}
		case <-followed:
		case <-ctx.Done():
		}
	})
}

func (r *Runtime) recordDir(kind string) string { return filepath.Join(r.cfg.Root, kind) }

// newID is a name for a sandbox or container.
func newID() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// reserve takes a name for an ID, and tells who has it otherwise.
func (r *Runtime) reserve(name, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if has := r.names[name]; has != "" {
		return status.Errorf(codes.AlreadyExists, "name %q is reserved for %q", name, has)
	}
	r.names[name] = id
	return nil
}

func (r *Runtime) unreserve(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, name)
}

// find looks an object up by its ID or the beginning of it that only it has.
func find[T any](all map[string]T, id string) (T, bool) {
	var none T
	if id == "" {
		return none, false
	}
	if o, ok := all[id]; ok {
		return o, true
	}
	found, n := none, 0
	for k, o := range all {
		if strings.HasPrefix(k, id) {
			found, n = o, n+1
		}
	}
	return found, n == 1
}

// selected is what a filter's ID leaves of all: everything without one.
func selected[T any](all map[string]T, id string) map[string]T {
	if id == "" {
		return all
	}
	if o, ok := find(all, id); ok {
		return map[string]T{id: o}
	}
	return nil
}

func (r *Runtime) sandbox(id string) (*sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := find(r.sandboxes, id)
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no pod sandbox %q", id)
	}
	return s, nil
}

func (r *Runtime) container(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := find(r.containers, id)
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no container %q", id)
	}
	return c, nil
}

// matches reports whether an object has all the labels of a filter.
func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// failed puts an error into the code that it has, or Unknown, as gRPC does.
func failed(err error, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	code := codes.Unknown
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, imagestore.ErrNoImage), supervisor.Is(err, supervisor.NotFound):
		code = codes.NotFound
	default:
		if s, ok := status.FromError(err); ok {
			code = s.Code()
			return status.Errorf(code, "%s: %s", text, s.Message())
		}
	}
	return status.Errorf(code, "%s: %v", text, err)
}

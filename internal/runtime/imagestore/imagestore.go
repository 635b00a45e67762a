// Package imagestore keeps the images of the built-in container runtime and
// makes root file systems of them. It serves the image half of the CRI.
//
// Below Root:
//
//	images.json          which images there are, their names and layers
//	configs/<digest>     their configurations, as pulled
//	layers/<chain ID>/   fs: one unpacked layer, a lowerdir of overlayfs
//	containers/<id>/     one root file system: upper, work, rootfs
//	tmp/                 what is not finished
//
// A thing comes into being by a rename out of tmp, so that it is whole or not
// there. What a dead process left half done is swept at the next start.
package imagestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/registry"
)

// Config of a store.
type Config struct {
	Root       string // absolute
	Registries registry.Hosts
	// Handlers are the runtime handlers that images may be pulled for, besides
	// the default one. All of them share the images.
	Handlers []string
	// Progress is how long a transfer may stand still; default one minute.
	Progress time.Duration
	Limits   Limits
	Log      *slog.Logger
}

// Limits of what is taken from a registry or an archive. Zero is the default.
type Limits struct {
	Downloads  int   // layers that are downloaded at the same time: 6
	Layers     int   // of an image: 128, which overlayfs' options hold
	Metadata   int64 // bytes of a manifest or a configuration: 4 MiB, as registries have it
	Compressed int64 // bytes of an image as it is transferred: 256 GiB
	Unpacked   int64 // bytes of a layer: 512 GiB
	Entries    int   // of a layer: a million; about 200 bytes of memory each while it is unpacked
	Reserve    int64 // bytes that stay free on the disk: 256 MiB
}

func (l *Limits) complete() {
	l.Downloads = cmp.Or(l.Downloads, 6)
	l.Layers = cmp.Or(l.Layers, 128)
	l.Metadata = cmp.Or(l.Metadata, 4<<20)
	l.Compressed = cmp.Or(l.Compressed, 256<<30)
	l.Unpacked = cmp.Or(l.Unpacked, 512<<30)
	l.Entries = cmp.Or(l.Entries, 1<<20)
	l.Reserve = cmp.Or(l.Reserve, 256<<20)
}

// Errors that callers tell apart.
var (
	// ErrBusy: another process has the store open.
	ErrBusy = errors.New("another process uses these images")
	// ErrNoImage: the image is not here, or not any more.
	ErrNoImage = errors.New("no such image")
	// ErrExists: there is a root file system of that name.
	ErrExists = errors.New("the root file system exists")
	// errStopped: Run has not begun or has ended.
	errStopped = errors.New("the image store is not running")
)

// Store of images.
type Store struct {
	runtimeapi.UnimplementedImageServiceServer
	cfg       Config
	ready     chan struct{}
	downloads chan struct{} // a slot for each layer under way
	unpacks   chan struct{} // a slot for each decompression

	pulls  flights[pullKey, string]
	unpack flights[string, struct{}] // by chain ID

	rooting locks         // by name of a root file system
	gone    atomic.Uint64 // names what is being removed
	writing sync.Mutex    // serialises changes of images.json; taken before mu
	mu      sync.Mutex
	images  map[string]record // by ID; replaced as a whole
	layers  map[string]layer  // by chain ID
	holds   map[string]int    // chain IDs that work under way needs
	roots   map[string]root   // by the name that Prepare was given
}

// New checks the configuration. It touches nothing.
func New(cfg Config) (*Store, error) {
	if !filepath.IsAbs(cfg.Root) {
		return nil, fmt.Errorf("image store: root path %q is not absolute", cfg.Root)
	}
	// These have a meaning in the options of overlayfs.
	if strings.ContainsAny(cfg.Root, `:,\`) {
		return nil, fmt.Errorf("image store: root path %q has a colon, comma or backslash", cfg.Root)
	}
	if err := cfg.Registries.Check(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	cfg.Root = filepath.Clean(cfg.Root)
	cfg.Limits.complete()
	cfg.Progress = cmp.Or(cfg.Progress, time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		cfg: cfg, ready: make(chan struct{}),
		downloads: make(chan struct{}, cfg.Limits.Downloads), unpacks: make(chan struct{}, runtime.GOMAXPROCS(0)),
		holds: map[string]int{},
	}, nil
}

// Ready is closed once the store knows what it holds.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Run opens the store and serves until ctx ends. Mounts of containers stay.
func (s *Store) Run(ctx context.Context) error {
	unlock, err := s.open()
	if err != nil {
		return err
	}
	defer unlock()
	s.pulls.start(ctx)
	s.unpack.start(ctx)
	close(s.ready)
	<-ctx.Done()
	s.pulls.wait()
	s.unpack.wait()
	return nil
}

// running says whether calls can be answered.
func (s *Store) running() error {
	select {
	case <-s.ready:
		return nil
	default:
		return errStopped
	}
}

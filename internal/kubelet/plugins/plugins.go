// Package plugins finds the plugins of a node: each opens a socket in the
// kubelet's registration directory, behind which it says what it is. A plugin is
// registered with whoever serves its type as long as its socket is there.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"knarr.dev/knarr/internal/filewatch"
)

const (
	// maxPlugins bounds how many sockets are looked at. A node has a handful.
	maxPlugins = 256
	// Upstream's figures: how long a plugin may take to listen and say what it
	// is, and to hear what became of it; how long until it is asked again.
	infoTimeout   = 10 * time.Second
	notifyTimeout = 5 * time.Second
	retryFirst    = 500 * time.Millisecond
	retryMax      = 2 * time.Minute
)

// Info is what a plugin says of itself.
type Info struct {
	Name     string
	Endpoint string   // path of the socket that serves
	Services []string // versions, or names of services with versions
}

// Handler serves one type of plugins.
type Handler interface {
	// Register takes a plugin, or says what is wrong with it. What it returns is
	// called once, when the plugin is gone. It must be quick.
	Register(Info) (gone func(), err error)
}

// Config of a Registry.
type Config struct {
	Dir      string             // where sockets appear; made if it is not there
	Handlers map[string]Handler // by type, as in "DRAPlugin"
	Log      *slog.Logger
}

// Registry knows the plugins of a node.
type Registry struct {
	cfg   Config
	known map[string]*socket // by name; only look uses it
}

// socket that was found, and who takes care of it.
type socket struct {
	is     identity
	cancel context.CancelFunc
	done   chan struct{}
}

// identity tells a socket from another one that came in its place.
type identity struct {
	inode    uint64
	modified time.Time
}

// New does no I/O.
func New(c Config) *Registry { return &Registry{cfg: c, known: map[string]*socket{}} }

// Run until ctx ends; then no plugin is registered any more.
func (r *Registry) Run(ctx context.Context) error {
	if err := os.MkdirAll(r.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("cannot make the directory of plugins: %w", err)
	}
	err := filewatch.Run(ctx, func() { r.look(ctx) }, filepath.Join(r.cfg.Dir, "any"))
	for _, s := range r.known {
		s.cancel()
		<-s.done
	}
	return err
}

// look compares the directory with what is known of it.
func (r *Registry) look(ctx context.Context) {
	found, err := sockets(r.cfg.Dir)
	if err != nil {
		r.cfg.Log.Warn("cannot look for plugins", "error", err)
		return
	}
	for name, s := range r.known {
		if is, ok := found[name]; !ok || is != s.is {
			s.cancel()
			if !ok {
				delete(r.known, name)
			}
		}
	}
	for name, is := range found {
		old := r.known[name]
		if old != nil && old.is == is {
			continue
		}
		if old == nil && len(r.known) >= maxPlugins {
			r.cfg.Log.Error("too many sockets of plugins; one is not looked at", "socket", name, "limit", maxPlugins)
			continue
		}
		own, cancel := context.WithCancel(ctx)
		s := &socket{is: is, cancel: cancel, done: make(chan struct{})}
		r.known[name] = s
		go func() {
			defer close(s.done)
			if old != nil {
				<-old.done
			}
			r.keep(own, filepath.Join(r.cfg.Dir, name))
		}()
	}
}

// sockets of a directory. Names that begin with a dot are hidden, as upstream
// has it; directories in it are not looked into.
func sockets(dir string) (map[string]identity, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[string]identity{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.Type()&fs.ModeSocket == 0 {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		is := identity{modified: info.ModTime()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			is.inode = st.Ino
		}
		out[e.Name()] = is
	}
	return out, nil
}

// keep a plugin registered until ctx ends.
func (r *Registry) keep(ctx context.Context, path string) {
	for pause := retryFirst; ; pause = min(2*pause, retryMax) {
		gone, err := r.register(ctx, path)
		if err == nil {
			<-ctx.Done()
			gone()
			return
		}
		if ctx.Err() != nil {
			return
		}
		r.cfg.Log.Error("cannot register a plugin", "socket", path, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// register asks the plugin what it is, and tells it what came of that.
func (r *Registry) register(ctx context.Context, path string) (gone func(), err error) {
	conn, err := Dial(path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := registration.NewRegistrationClient(conn)
	asked, cancel := context.WithTimeout(ctx, infoTimeout)
	info, err := client.GetInfo(asked, &registration.InfoRequest{}, grpc.WaitForReady(true))
	cancel()
	if err != nil {
		return nil, fmt.Errorf("failed to get plugin info using RPC GetInfo at socket %s: %w", path, err)
	}
	if gone, err = r.hand(info, path); err != nil {
		err = fmt.Errorf("RegisterPlugin error -- %w", err)
	}
	status := &registration.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = err.Error()
	}
	told, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	_, failed := client.NotifyRegistrationStatus(told, status)
	switch {
	case err != nil:
		return nil, err // a plugin may answer to bad news by an error of its own
	case failed != nil:
		gone()
		return nil, fmt.Errorf("failed to send registration status at socket %s: %w", path, failed)
	}
	return gone, nil
}

// hand a plugin to who serves its type.
func (r *Registry) hand(info *registration.PluginInfo, path string) (gone func(), err error) {
	h := r.cfg.Handlers[info.Type]
	if h == nil {
		return nil, fmt.Errorf("no handler registered for plugin type: %s at socket %s", info.Type, path)
	}
	own := Info{Name: info.Name, Endpoint: info.Endpoint, Services: info.SupportedVersions}
	if own.Endpoint == "" {
		own.Endpoint = path
	}
	if gone, err = h.Register(own); err != nil {
		return nil, fmt.Errorf("plugin registration failed with err: %w", err)
	}
	return gone, nil
}

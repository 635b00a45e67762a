package plugins

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// maxPath is what fits into the address of a socket (unix(7)).
const maxPath = 107

// Dial makes a client of what listens at a path. It connects when it is used or
// told to, and again soon after the plugin has restarted.
func Dial(path string) (*grpc.ClientConn, error) {
	path = strings.TrimPrefix(path, "unix://")
	conn, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx, path) }))
	if err != nil {
		return nil, fmt.Errorf("cannot use the socket %s: %w", path, err)
	}
	return conn, nil
}

// dial also where the path is longer than the kernel takes it: then through a
// descriptor of its directory.
func dial(ctx context.Context, path string) (net.Conn, error) {
	if len(path) > maxPath {
		fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		path = fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path))
	}
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

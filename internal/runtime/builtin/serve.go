package builtin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage bounds what is asked and answered over the socket, as the field's
// runtimes have it.
const maxMessage = 16 << 20

// Serve answers the CRI at a unix socket until ctx ends: for tools, and for
// kubelets that are not in this process. Who can open the socket is root.
func Serve(ctx context.Context, socket string, runtime runtimeapi.RuntimeServiceServer, image runtimeapi.ImageServiceServer) error {
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("runtime: directory %s of the socket is not root's alone (mode %#o): whoever gets in is root", dir, info.Mode().Perm())
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("runtime: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(fmt.Errorf("runtime: %w", err), l.Close())
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	runtimeapi.RegisterRuntimeServiceServer(s, runtime)
	runtimeapi.RegisterImageServiceServer(s, image)
	defer context.AfterFunc(ctx, s.Stop)()
	if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("runtime: %w", err)
	}
	return nil
}

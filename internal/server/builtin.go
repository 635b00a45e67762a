package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"knarr.dev/knarr/internal/network/cni"
	"knarr.dev/knarr/internal/runtime/builtin"
	"knarr.dev/knarr/internal/runtime/imagestore"
	"knarr.dev/knarr/internal/runtime/registry"
	"knarr.dev/knarr/internal/runtime/supervisor"
	"knarr.dev/knarr/internal/version"
)

// RuntimeConfig of the built-in container runtime without a kubelet.
type RuntimeConfig struct {
	DataDir, RunDir string
	Socket          string
	PodCIDR         string
	ImagesDir       string
	Registries      registry.Hosts
	Log             *slog.Logger
}

// supervisorName is the executable that lies beside knarr's.
const supervisorName = "knarr-supervisor"

// RunRuntime serves the built-in runtime at a socket until ctx ends.
func RunRuntime(ctx context.Context, cfg RuntimeConfig) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(cfg.PodCIDR)
	if err != nil {
		return fmt.Errorf("the range of pods: %w", err)
	}
	network := cni.InProcess(filepath.Join(cfg.DataDir, "cni"), 0)
	if err := network.SetRange(prefix); err != nil {
		return err
	}
	// Pods are routed to; with a node that is the routes' part.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("cannot let packets of pods through: %w", err)
	}
	images, err := imagestore.New(imagestore.Config{Root: filepath.Join(cfg.DataDir, "images"), Registries: cfg.Registries, Log: cfg.Log})
	if err != nil {
		return err
	}
	process, err := supervisor.New(supervisor.Config{Executable: filepath.Join(filepath.Dir(exe), supervisorName),
		Dir: filepath.Join(cfg.RunDir, "supervisor"), Logs: filepath.Join(cfg.DataDir, "supervisor.log"), Log: cfg.Log})
	if err != nil {
		return err
	}
	r, err := builtin.New(builtin.Config{Root: filepath.Join(cfg.DataDir, "runtime"), Run: filepath.Join(cfg.RunDir, "runtime"),
		PauseImage: sandboxImage, Images: images, Network: network, Supervisor: process, Version: version.GitVersion, Log: cfg.Log})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return images.Run(ctx) })
	g.Go(func() error { return r.Run(ctx) })
	g.Go(func() error {
		for _, ready := range []<-chan struct{}{images.Ready(), r.Ready()} {
			select {
			case <-ready:
			case <-ctx.Done():
				return nil
			}
		}
		if err := importAll(ctx, images, cfg.ImagesDir); err != nil {
			return err
		}
		return builtin.Serve(ctx, cfg.Socket, r, images)
	})
	return g.Wait()
}

// importAll loads every archive of a directory, and keeps the pause image.
func importAll(ctx context.Context, images *imagestore.Store, dir string) error {
	if dir == "" {
		return nil
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return err
	}
	slices.Sort(archives)
	for _, a := range archives {
		if _, err := images.Import(ctx, a); err != nil {
			return fmt.Errorf("cannot load %s: %w", a, err)
		}
	}
	err = images.Pin(sandboxImage, true)
	if errors.Is(err, imagestore.ErrNoImage) {
		return nil // pods that share a process namespace will say so
	}
	return err
}

package server

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"

	"knarr.dev/knarr/internal/tracing"
)

// quiet passes what libraries say through klog on as debug lines: to them a
// client that hangs up is an error.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if !q.Handler.Enabled(ctx, slog.LevelDebug) {
		return nil // klog does not ask before it logs an error
	}
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

func quietLibraries(log *slog.Logger) {
	klog.SetSlogLogger(slog.New(quiet{log.Handler()}))
	tracing.Log(log)
}

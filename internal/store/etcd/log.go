package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"go.uber.org/zap/zapcore"
)

// harmless are lines that etcd writes louder than a single embedded member
// deserves, with what their error says; they become debug.
var harmless = map[string]string{
	// Its clients are in this process; the socket is for an etcdctl.
	"Running http and grpc server on single port. This is not recommended for production.": "",
	// A first start: the version is written once a term has been committed.
	"Failed to detect schema version":  "missing term information",
	"failed to update storage version": "missing term information",
	// How it ends when it is told to; if nobody told it, Failed delivers the error.
	// Said again and again while a log of what came before a crash is replayed.
	"failed to publish local member to cluster through raft": "too many requests",

	// Of an external one: whoever asked gets the error.
	"retrying of unary invoker failed": "",

	"setting up serving from embedded etcd failed.": "",
	"stopping insecure grpc server due to error":    "",
	"stopped insecure grpc server due to error":     "",
}

// bridge is a zap core over slog: etcd's info lines become debug.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (b bridge) Enabled(l zapcore.Level) bool { return b.log.Enabled(context.Background(), level(l)) }

func (b bridge) With(f []zapcore.Field) zapcore.Core {
	return bridge{log: b.log, fields: append(b.fields[:len(b.fields):len(b.fields)], f...)}
}

func (b bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(b.fields[:len(b.fields):len(b.fields)], fields...) {
		f.AddTo(enc)
	}
	args := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		args = append(args, k, v)
	}
	l := level(e.Level)
	if said, ok := harmless[e.Message]; ok && strings.Contains(fmt.Sprint(enc.Fields["error"]), said) {
		l = slog.LevelDebug
	}
	b.log.Log(context.Background(), l, "etcd: "+e.Message, args...)
	if e.Level >= zapcore.DPanicLevel {
		b.log.Error("etcd cannot go on, and knarr ends; nothing that was acknowledged is lost: see to the cause (is the disk full, or broken?) and start knarr again")
	}
	return nil
}

func (bridge) Sync() error { return nil }

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

package etcd

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"knarr.dev/knarr/internal/store"
)

func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkPut writes values of a pod's size from 64 clients, with one watch
// on all of them, as the cache has it.
func BenchmarkPut(b *testing.B) {
	s := open(b, Config{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- s.WatchLean(ctx, "/registry/", 1, func(store.Batch) error { return nil })
	}()
	value := bytes.Repeat([]byte("x"), 1600)
	var n atomic.Int64
	b.SetParallelism(32)
	before := cpuTime(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Put(ctx, fmt.Sprintf("/registry/pods/default/%d", n.Add(1)), value, 0); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
	cancel()
	<-done
}

// BenchmarkRevision is what a consistent read costs in the store.
func BenchmarkRevision(b *testing.B) {
	s := open(b, Config{})
	b.SetParallelism(16)
	before := cpuTime(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Revision(context.Background()); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

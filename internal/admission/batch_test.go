package admission

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// work that takes a second, and what it was given.
type slow struct{ got [][]int }

func (s *slow) work(_ context.Context, _ string, items []int) {
	s.got = append(s.got, slices.Clone(items))
	<-time.After(time.Second)
}

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		b := newBatches(s.work)
		for i := range 10 {
			go func() {
				if err := b.do(t.Context(), "ns", i); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		<-time.After(5 * time.Second) // of the bubble
		if len(s.got) != 2 || len(s.got[0]) != 1 || len(s.got[1]) != 9 {
			t.Errorf("batches %v", s.got)
		}
		if len(b.waiting) != 0 {
			t.Errorf("%d keys are left", len(b.waiting))
		}
		if err := b.do(t.Context(), "ns", 11); err != nil || len(s.got) != 3 {
			t.Errorf("%v, batches %v", err, s.got)
		}
	})
}

func TestBatchesLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		b := newBatches(s.work)
		go b.do(t.Context(), "ns", 1) //nolint:errcheck // it does not wait
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := b.do(ctx, "ns", 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("whoever gave up: %v", err)
		}
		if err := b.do(t.Context(), "ns", 3); err != nil {
			t.Error(err)
		}
		if len(s.got) != 2 || !slices.Equal(s.got[1], []int{3}) || len(b.waiting) != 0 {
			t.Errorf("batches %v, %d keys left", s.got, len(b.waiting))
		}
	})
}

// A panic is one request's; those who wait go on.
func TestBatchesPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		b := newBatches(func(context.Context, string, []int) {
			<-time.After(time.Second)
			if calls++; calls == 1 {
				panic("the first")
			}
		})
		go func() {
			defer func() { _ = recover() }()
			_ = b.do(context.Background(), "ns", 1)
		}()
		synctest.Wait()
		if err := b.do(t.Context(), "ns", 2); err != nil || calls != 2 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
}

package traced

import (
	"context"
	"testing"

	"knarr.dev/knarr/internal/store/mem"
	"knarr.dev/knarr/internal/store/storetest"
)

// compactable is a traced store whose history can be cut.
type compactable struct {
	*Store
	inner *mem.Store
}

func (c compactable) Compact(ctx context.Context, rev int64) error { return c.inner.Compact(ctx, rev) }

func TestStore(t *testing.T) {
	storetest.Run(t, func(testing.TB) storetest.Compacter {
		inner := mem.New()
		return compactable{New(inner), inner}
	})
}

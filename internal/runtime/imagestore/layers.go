package imagestore

import (
	"context"
	"io"

	"golang.org/x/sync/errgroup"
)

// opener gives the layer i of an image as it is transferred, its digest
// verified or being verified as it is read.
type opener func(ctx context.Context, i int) (io.ReadCloser, error)

// obtain brings all layers of an image here. They must be held.
func (s *Store) obtain(ctx context.Context, c content, open opener) error {
	var missing int64
	for i, b := range c.blobs {
		if !s.has(c.chains[i]) {
			missing += b.Size
		}
	}
	if err := room(s.cfg.Root, missing, s.cfg.Limits.Reserve); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range c.blobs {
		g.Go(func() error { return s.obtainLayer(ctx, c, i, open) })
	}
	return g.Wait()
}

// obtainLayer brings one layer here, and all below it. Layers are transferred
// beside each other and unpacked from the bottom up. If another pull is at it
// already, that is waited for; if it fails, that may be for its own reasons,
// so it is tried again on our own account.
func (s *Store) obtainLayer(ctx context.Context, c content, i int, open opener) error {
	for {
		if s.has(c.chains[i]) {
			return nil
		}
		_, own, err := s.unpack.do(ctx, c.chains[i], func(ctx context.Context) (struct{}, error) {
			if s.has(c.chains[i]) { // it came between our look and this
				return struct{}{}, nil
			}
			return struct{}{}, s.makeLayer(ctx, c, i, open)
		})
		if err == nil || own || ctx.Err() != nil {
			return err
		}
	}
}

func (s *Store) makeLayer(ctx context.Context, c content, i int, open opener) error {
	blob, err := open(ctx, i)
	if err != nil {
		return err
	}
	defer blob.Close()
	if i > 0 {
		if err := s.obtainLayer(ctx, c, i-1, open); err != nil {
			return err
		}
	}
	release, err := acquire(ctx, s.unpacks)
	if err != nil {
		return err
	}
	defer release()
	dir, err := s.temp("layer")
	if err != nil {
		return err
	}
	defer s.remove(dir)
	l, err := s.unpackLayer(ctx, dir, blob, c.blobs[i].Size, c.diffs[i], s.fsOf(c.chains[:i]))
	if err != nil {
		return err
	}
	return s.settle(c.chains[i], dir, l)
}

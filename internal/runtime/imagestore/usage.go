package imagestore

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

// block is the unit of st_blocks (stat(2)).
const block = 512

// usage is what a tree takes on the disk, while others may be changing it: what
// vanishes meanwhile does not count. A tree that is not there takes nothing.
func usage(ctx context.Context, root string) (bytes, inodes int64, err error) {
	linked := map[uint64]bool{}
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 && !d.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		bytes += st.Blocks * block
		inodes++
		return nil
	})
	return bytes, inodes, err
}

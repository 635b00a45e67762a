package imagestore

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// A layer may always have so many bytes unpacked; beyond, at most so many
	// times its compressed size. Layers of programs shrink to a third, of text
	// to a tenth; gzip of zeros to a thousandth, zstd to far less.
	bombFloor = 1 << 30
	bombRatio = 100
	// maxWindow is what zstd's own program allows without being asked
	// (ZSTD_WINDOWLOG_LIMIT_DEFAULT): the decoder's memory.
	maxWindow = 128 << 20
	// maxNames bounds the bytes of the names in a layer, which are kept in
	// memory until it is unpacked.
	maxNames = 128 << 20
	// pathMax is PATH_MAX (limits.h).
	pathMax = 4096
	// spaceStep is how many bytes are written between looks at the disk.
	spaceStep = 16 << 20
)

// unpackLayer writes a layer to dir/fs as overlayfs wants it, and its figures
// beside. parents are the file systems below it, the nearest first: what
// directories that the layer does not describe look like is theirs.
func (s *Store) unpackLayer(ctx context.Context, dir string, blob io.Reader, packed int64, diff string, parents []string) (layer, error) {
	root := filepath.Join(dir, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return layer{}, err
	}
	if err := os.Chmod(root, 0o755); err != nil { // whatever the umask
		return layer{}, err
	}
	plain, done, err := decompress(blob)
	if err != nil {
		return layer{}, unfit("layer %s cannot be decompressed: %v", diff, err)
	}
	defer done()
	b := &budget{ctx: ctx, r: plain, dir: dir, limits: s.cfg.Limits, left: unpackedLimit(s.cfg.Limits.Unpacked, packed)}
	b.size = b.left
	content := verify(b, diff, -1)
	ctx = log.WithLogger(ctx, logTo(s.cfg.Log.With("layer", diff)))
	_, err = archive.Apply(ctx, root, content, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents), archive.WithFilter(b.filter))
	if err == nil {
		_, err = io.Copy(io.Discard, content) // what follows the archive's end counts for the digest
	}
	if err != nil {
		return layer{}, explain(ctx, diff, err)
	}
	if b.stripped > 0 {
		s.cfg.Log.Warn("attributes of overlayfs itself were left out of a layer", "layer", diff, "files", b.stripped)
	}
	return figures(ctx, dir, root)
}

// figures measures an unpacked layer and writes that beside it.
func figures(ctx context.Context, dir, root string) (layer, error) {
	bytes, inodes, err := usage(ctx, root)
	if err != nil {
		return layer{}, err
	}
	l := layer{Bytes: bytes, Inodes: inodes}
	var mark [1]byte
	if n, err := unix.Lgetxattr(root, "trusted.overlay.opaque", mark[:]); err == nil && n == 1 {
		l.Opaque = mark[0] == 'y'
	}
	data, err := json.Marshal(l)
	if err != nil {
		return layer{}, err
	}
	return l, os.WriteFile(filepath.Join(dir, "layer.json"), data, 0o600)
}

// explain says what is the matter with a layer; a full disk and a lost context
// are not its fault.
func explain(ctx context.Context, diff string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if full := noSpace(err); full != nil {
		return full
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return unfit("layer %s cannot be unpacked: %v", diff, err)
}

func unpackedLimit(limit, packed int64) int64 {
	if packed > math.MaxInt64/bombRatio {
		return limit
	}
	return min(limit, max(bombFloor, packed*bombRatio))
}

// decompress looks at a blob's first bytes, not at its media type: registries
// hold layers whose name is wrong, and their digest decides anyway.
func decompress(blob io.Reader) (io.Reader, func(), error) {
	r := bufio.NewReaderSize(blob, 64<<10)
	magic, err := r.Peek(4)
	if err != nil && len(magic) == 0 && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.HasPrefix(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}

// budget reads a layer's tar stream within limits.
type budget struct {
	ctx      context.Context
	r        io.Reader
	dir      string
	limits   Limits
	size     int64 // the limit of bytes
	left     int64 // of the stream
	files    int64 // bytes of files, which a sparse file has without any in the stream
	next     int64 // when to look at the disk again
	read     int64
	entries  int
	names    int
	stripped int
}

func (b *budget) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	b.read += int64(n)
	if b.left -= int64(n); b.left < 0 {
		return n, b.tooBig()
	}
	if err := b.space(b.read); err != nil {
		return n, err
	}
	return n, err
}

func (b *budget) tooBig() error {
	return unfit("it unpacks to more than %d bytes, which its compressed size does not warrant", b.size)
}

// space looks at the disk once in a while.
func (b *budget) space(written int64) error {
	if written < b.next {
		return nil
	}
	b.next = written + spaceStep
	return room(b.dir, 0, b.limits.Reserve)
}

// filter checks an entry before it is written. Its name is clean already.
func (b *budget) filter(h *tar.Header) (bool, error) {
	b.entries++
	b.names += len(h.Name) + len(h.Linkname)
	switch {
	case b.entries > b.limits.Entries:
		return false, unfit("it has more than %d entries", b.limits.Entries)
	case len(h.Name) > pathMax || len(h.Linkname) > pathMax:
		return false, unfit("it has a path longer than %d bytes: %.64q…", pathMax, h.Name)
	case b.names > maxNames:
		return false, unfit("the names of its files have more than %d bytes", maxNames)
	case above(h.Name):
		return false, unfit("it writes outside of its root: %q", h.Name)
	case h.Typeflag == tar.TypeLink && above(filepath.Clean(h.Linkname)):
		return false, unfit("it links %q outside of its root: %q", h.Name, h.Linkname)
	case h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32:
		return false, unfit("%q is device %d:%d, which cannot be", h.Name, h.Devmajor, h.Devminor)
	case h.Size < 0 || h.Size > b.size-b.files:
		return false, b.tooBig()
	}
	b.files += h.Size
	if h.Size > spaceStep {
		if err := room(b.dir, h.Size, b.limits.Reserve); err != nil {
			return false, err
		}
	}
	b.strip(h)
	return true, nil
}

// above says whether a clean path leads out of where it begins.
func above(path string) bool { return path == ".." || strings.HasPrefix(path, "../") }

// strip takes out what would steer overlayfs: a redirect or a metadata-only
// copy reaches into other layers.
func (b *budget) strip(h *tar.Header) {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.trusted.overlay.") || strings.HasPrefix(key, "SCHILY.xattr.user.overlay.") {
			delete(h.PAXRecords, key)
			b.stripped++
		}
	}
}

// room says whether so many bytes more fit and leave the reserve.
func room(dir string, bytes, reserve int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	free := int64(st.Bavail) * st.Bsize
	if bytes > free-reserve {
		return status.Errorf(codes.ResourceExhausted, "no space left on device: %d bytes are wanted and %d free, of which %d are reserved", bytes, free, reserve)
	}
	return nil
}

// noSpace is err as a client shall see it if a full disk is the cause.
func noSpace(err error) error {
	if status.Code(err) == codes.ResourceExhausted {
		return err
	}
	for _, no := range []error{unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, no) {
			return status.Error(codes.ResourceExhausted, fmt.Sprintf("no space left on device: %v", err))
		}
	}
	return nil
}

// logTo lets containerd's library, which warns of attributes that the file
// system cannot keep, write to our log.
func logTo(to *slog.Logger) *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.WarnLevel)
	l.AddHook(forward{to})
	return logrus.NewEntry(l)
}

type forward struct{ to *slog.Logger }

func (f forward) Levels() []logrus.Level { return logrus.AllLevels[:logrus.WarnLevel+1] }

func (f forward) Fire(e *logrus.Entry) error {
	f.to.Warn(e.Message, "error", e.Data[logrus.ErrorKey])
	return nil
}

package logs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzRead: a log file of whatever bytes. The tail is the end of the whole, a
// limit cuts, and nothing comes out that is not in the file.
func FuzzRead(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z stdout F a\n2026-01-01T00:00:01Z stderr P b\n2026-01-01T00:00:01Z stderr F c\n"), uint8(1), uint16(3))
	f.Add([]byte("x\n\n \n  \n2026-01-01T00:00:00Z stdout F\nP P P P\nno end"), uint8(2), uint16(0))
	f.Add([]byte("2026-01-01T00:00:00Z stdout P "+strings.Repeat("long", 30_000)), uint8(0), uint16(9))
	f.Fuzz(func(t *testing.T, data []byte, n uint8, limit uint16) {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		read := func(o Options) []byte {
			var out bytes.Buffer
			if err := Read(t.Context(), path, o, func() bool { return false }, &out, func() {}); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
		all := read(Options{Tail: -1})
		if len(all) > len(data) {
			t.Fatalf("%d bytes out of %d", len(all), len(data))
		}
		if tail := read(Options{Tail: int64(n)}); !bytes.HasSuffix(all, tail) {
			t.Fatalf("the last %d lines are %q, of %q", n, tail, all)
		}
		if cut := read(Options{Tail: -1, Limit: int64(limit) + 1}); len(cut) > int(limit)+1 || !bytes.HasPrefix(all, cut) {
			t.Fatalf("limited to %d: %q of %q", limit+1, cut, all)
		}
		if out, err := read(Options{Tail: -1, Stream: "stdout"}), read(Options{Tail: -1, Stream: "stderr"}); len(out)+len(err) > len(all) {
			t.Fatalf("%q and %q, of %q", out, err, all)
		}
	})
}

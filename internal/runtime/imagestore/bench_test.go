package imagestore

import (
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// BenchmarkPull pulls and unpacks an image of four layers with 16 MiB and 250
// files each.
func BenchmarkPull(b *testing.B) {
	srv := serve(b)
	s, _ := open(b, Config{})
	var layers []v1.Layer
	for i := range 4 {
		files := []file{dir(fmt.Sprintf("d%d/", i), 0o755)}
		for j := range 250 {
			body := make([]byte, 64<<10)
			if _, err := rand.Read(body); err != nil {
				b.Fatal(err)
			}
			files = append(files, reg(fmt.Sprintf("d%d/%d", i, j), string(body)))
		}
		layers = append(layers, layerOfFiles(b, files...))
	}
	ref := srv.push(b, "app:1", image(b, v1.Config{}, layers...))
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		im := mustPull(b, s, ref)
		if err := s.Remove(im.ID); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRootfs mounts and unmounts; the goal is 2 ms for both.
func BenchmarkRootfs(b *testing.B) {
	srv := serve(b)
	s, _ := open(b, Config{})
	for _, n := range []int{2, 12, 128} {
		var layers []v1.Layer
		for i := range n {
			layers = append(layers, layerOfFiles(b, reg(fmt.Sprint(i), "x")))
		}
		im := mustPull(b, s, srv.push(b, fmt.Sprintf("app:%d", n), image(b, v1.Config{}, layers...)))
		for name, o := range map[string]RootfsOptions{"plain": {}, "userns": {UIDs: ids(7000), GIDs: ids(7000)}} {
			b.Run(fmt.Sprintf("%s/layers=%d", name, n), func(b *testing.B) {
				var took []time.Duration
				for b.Loop() {
					began := time.Now()
					if _, err := s.Prepare(b.Context(), "c", im, o); err != nil {
						b.Fatal(err)
					}
					if err := s.Release("c"); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(began))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			})
		}
	}
}

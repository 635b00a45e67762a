package filewatch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, file string) {
	t.Helper()
	_ = os.Remove(file + ".new")
	if err := os.Symlink(to, file+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// Whatever way a file takes its content, that is seen.
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name  string
		begin func(dir, file string)
		steps []func(dir, file string)
	}{
		{"written", func(_, file string) { write(t, file, "0") }, []func(string, string){
			func(_, file string) { write(t, file, "1") }, func(_, file string) { write(t, file, "2") }}},
		{"replaced", func(_, file string) { write(t, file, "0") }, []func(string, string){
			func(dir, file string) {
				write(t, filepath.Join(dir, "x"), "1")
				if err := os.Rename(filepath.Join(dir, "x"), file); err != nil {
					t.Fatal(err)
				}
			},
			func(_, file string) { write(t, file, "2") }}},
		{"not there at first", func(string, string) {}, []func(string, string){func(_, file string) { write(t, file, "1") }}},
		{"removed and back", func(_, file string) { write(t, file, "0") }, []func(string, string){
			func(_, file string) {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				write(t, file, "1")
			}}},
		{"a link to another place", func(dir, file string) {
			for _, d := range []string{"a", "b"} {
				if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(dir, d, "f"), "0")
			}
			link(t, "a/f", file)
		}, []func(string, string){
			func(dir, _ string) { write(t, filepath.Join(dir, "a", "f"), "1") },
			func(dir, file string) { write(t, filepath.Join(dir, "b", "f"), "2"); link(t, "b/f", file) },
			func(dir, _ string) { write(t, filepath.Join(dir, "b", "f"), "3") }}},
		{"a volume of a ConfigMap", func(dir, file string) {
			if err := os.Mkdir(filepath.Join(dir, "..1"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "..1", "file"), "0")
			link(t, "..1", filepath.Join(dir, "..data"))
			link(t, "..data/file", file)
		}, []func(string, string){func(dir, _ string) {
			if err := os.Mkdir(filepath.Join(dir, "..2"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "..2", "file"), "1")
			link(t, "..2", filepath.Join(dir, "..data"))
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "file")
			tt.begin(dir, file)
			ctx, cancel := context.WithCancel(t.Context())
			saw, done := make(chan string, 1000), make(chan error, 1)
			go func() {
				done <- Run(ctx, func() {
					data, _ := os.ReadFile(file)
					saw <- string(data)
				}, file)
			}()
			<-saw
			for i, step := range tt.steps {
				step(dir, file)
				want := string(rune('1' + i))
				for deadline := time.After(time.Minute); ; {
					select {
					case got := <-saw:
						if got != want {
							continue
						}
					case <-deadline:
						t.Fatalf("step %d was not seen", i+1)
					}
					break
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

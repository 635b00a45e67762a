package imagestore

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const crashRoot = "IMAGESTORE_CRASH_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(crashRoot); root != "" {
		churn(root, strings.Fields(os.Getenv("IMAGESTORE_CRASH_REFS")))
	}
	os.Exit(m.Run())
}

// churn pulls, mounts, releases and removes images until it is killed.
func churn(root string, refs []string) {
	s, err := New(Config{Root: root})
	if err != nil {
		panic(err)
	}
	go func() {
		if err := s.Run(context.Background()); err != nil {
			panic(err)
		}
	}()
	<-s.Ready()
	for _, id := range s.Roots() {
		if err := s.Release(id); err != nil {
			panic(err)
		}
	}
	fmt.Println("ready")
	for i := 0; ; i++ {
		go func() {
			// Errors are expected: two goroutines may want the same.
			if id, err := pull(context.Background(), s, refs[i%len(refs)], nil); err == nil {
				if im, err := s.Get(id); err == nil {
					_, _ = s.Prepare(context.Background(), fmt.Sprint("c", i%3), im, RootfsOptions{})
				}
			}
			_ = s.Release(fmt.Sprint("c", (i+1)%3))
			_ = s.Remove(refs[(i+2)%len(refs)])
		}()
		<-time.After(2 * time.Millisecond)
	}
}

// TestKilled: whenever the process is killed, what it leaves is whole.
func TestKilled(t *testing.T) {
	needRoot(t)
	srv := serve(t)
	var refs []string
	base := layerOfFiles(t, append(many(50), reg("base", strings.Repeat("x", 1<<20)))...)
	for i := range 4 {
		refs = append(refs, srv.push(t, fmt.Sprintf("app:%d", i), image(t, v1.Config{}, base, layerOfFiles(t, reg("own", fmt.Sprint(i))))))
	}
	root := filepath.Join(t.TempDir(), "images")
	rounds := 15
	if testing.Short() {
		rounds = 3
	}
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range rounds {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashRoot+"="+root, "IMAGESTORE_CRASH_REFS="+strings.Join(refs, " "))
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal("it did not start", err)
		}
		<-time.After(time.Duration(rng.IntN(150)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // "killed"
		intact(t, root)
	}
	s, _ := open(t, Config{Root: root})
	for _, id := range s.Roots() {
		if err := s.Release(id); err != nil {
			t.Error(err)
		}
	}
	for _, ref := range refs {
		mustPull(t, s, ref)
	}
	clean(t, s, 5, 4)
	if left := tree(t, s, "containers"); len(left) > 0 {
		t.Error(left)
	}
}

// intact opens a store that a dead process left and looks at all of it.
func intact(t *testing.T, root string) {
	t.Helper()
	var written []record
	if data, err := os.ReadFile(filepath.Join(root, "images.json")); err == nil {
		if err := json.Unmarshal(data, &written); err != nil {
			t.Error(err)
		}
	}
	s, stop := open(t, Config{Root: root})
	defer stop()
	if left := tree(t, s, "tmp"); len(left) > 0 {
		t.Error(left)
	}
	if len(s.all()) != len(written) {
		t.Errorf("%d of %d images are whole", len(s.all()), len(written))
	}
	used := map[string]bool{}
	for _, r := range s.all() {
		for _, c := range r.Layers {
			used[c] = true
		}
		if got := contents(t, s.layerPath(r.Layers[1])+"/fs/own"); len(got) != 1 {
			t.Errorf("%q", got)
		}
		if got := contents(t, s.layerPath(r.Layers[0])+"/fs/base"); len(got) != 1<<20 {
			t.Errorf("%d", len(got))
		}
	}
	for _, r := range s.roots {
		for _, c := range r.Layers {
			used[c] = true
			if !s.has(c) {
				t.Errorf("a container lost layer %s", c)
			}
		}
	}
	if l := tree(t, s, "layers"); len(l) != len(used) {
		t.Errorf("%d layers on the disk, %d in use", len(l), len(used))
	}
}

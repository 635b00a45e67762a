package imagestore

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

func prepare(t testing.TB, s *Store, id string, im Image, o RootfsOptions) Rootfs {
	t.Helper()
	r, err := s.Prepare(t.Context(), id, im, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // should the test fail
		if err := unmount(s.path("containers", id, "rootfs")); err != nil {
			t.Error(err)
		}
	})
	return r
}

func mounted(t testing.TB, path string) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(data), " "+path+" ")
}

// TestLayers: what layers say of files, overlayfs shows: whiteouts, opaque
// directories, owners, modes, times, attributes, links, devices.
func TestLayers(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	own := file{tar.Header{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 2, Uid: 3, Gid: 4, PAXRecords: map[string]string{
		"SCHILY.xattr.security.capability":       "\x01\x00\x00\x02\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.note":                 "kept",
		"SCHILY.xattr.trusted.overlay.redirect":  "/etc",
		"SCHILY.xattr.trusted.overlay.metacopy":  "",
		"SCHILY.xattr.user.overlay.opaque":       "y",
		"SCHILY.xattr.trusted.overlay.something": "x",
	}}, "su"}
	hard := own // archives describe the file again
	hard.Name, hard.Typeflag, hard.Linkname, hard.Size, hard.body = "etc/hard", tar.TypeLink, "bin/su", 0, ""
	img := image(t, v1.Config{},
		layerOfFiles(t, dir("etc/", 0o755), reg("etc/gone", "1"), reg("etc/stays", "1"), dir("old/", 0o755), reg("old/a", "1"), dir("locked/", 0o700), reg("/absolute", "confined")),
		layerOfFiles(t, reg("etc/.wh.gone", ""), reg("old/.wh..wh..opq", ""), reg("old/b", "2"), own, dir("bin/", 0o1777),
			reg("locked/new", "2"), // its directory is not described here
			symlink("etc/link", "/etc/stays"), symlink("out", "../../../.."), reg("out/inside", "confined"),
			hard,
			file{tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
			file{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""}),
	)
	im := mustPull(t, s, srv.push(t, "app:1", img))
	r := prepare(t, s, "c1", im, RootfsOptions{})
	got := strings.Join(paths(t, r.Path), " ")
	if want := "absolute bin bin/su etc etc/hard etc/link etc/stays inside locked locked/new null old old/b out pipe"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	st := func(name string) *syscall.Stat_t {
		info, err := os.Lstat(filepath.Join(r.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t)
	}
	if su := st("bin/su"); su.Mode&0o7777 != 0o4755 || su.Uid != 3 || su.Gid != 4 || su.Mtim.Sec != 1e9 || su.Nlink != 2 || su.Ino != st("etc/hard").Ino {
		t.Errorf("%+v", su)
	}
	if d := st("locked"); d.Mode&0o7777 != 0o700 {
		t.Errorf("an inherited directory has mode %o", d.Mode)
	}
	if d := st("bin"); d.Mode&0o7777 != 0o1777 || d.Mtim.Sec != 1e9 {
		t.Errorf("%+v", d)
	}
	if d := st(""); d.Mode&0o7777 != 0o755 || d.Uid != 0 {
		t.Errorf("/ has mode %o", d.Mode)
	}
	if d := st("null"); d.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("%+v", d)
	}
	buf := make([]byte, 100)
	if n, err := unix.Lgetxattr(r.Path+"/bin/su", "security.capability", buf); err != nil || n != 20 {
		t.Errorf("capabilities: %d %v", n, err)
	}
	if n, err := unix.Lgetxattr(r.Path+"/bin/su", "user.note", buf); err != nil || string(buf[:n]) != "kept" {
		t.Errorf("%s %v", buf[:max(n, 0)], err)
	}
	for _, dir := range s.fsOf(im.layers) {
		for _, a := range []string{"trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.opaque"} {
			if _, err := unix.Lgetxattr(dir+"/bin/su", a, buf); err == nil {
				t.Errorf("%s has %s", dir, a)
			}
		}
	}

	if err := os.WriteFile(r.Path+"/written", make([]byte, 100<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.Path + "/etc/stays"); err != nil {
		t.Fatal(err)
	}
	bytes, inodes, err := s.Usage(t.Context(), "c1")
	if err != nil || bytes < 100<<10 || bytes > 200<<10 || inodes < 3 || inodes > 5 {
		t.Errorf("usage %d %d %v", bytes, inodes, err)
	}
	other := prepare(t, s, "c2", im, RootfsOptions{})
	if contents(t, other.Path+"/etc/stays") != "1" {
		t.Error("a container changed the image")
	}
	for range 2 { // idempotent
		if err := errors.Join(s.Release("c1"), s.Release("c2")); err != nil {
			t.Error(err)
		}
	}
	if left := tree(t, s, "containers"); len(left) > 0 || mounted(t, r.Path) {
		t.Error("not released", left)
	}
	if bytes, _, err := s.Usage(t.Context(), "c1"); err != nil || bytes != 0 {
		t.Error(bytes, err)
	}
	clean(t, s, 2, 1)
}

// TestOpaqueRoot: a layer may hide all below it.
func TestOpaqueRoot(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	im := mustPull(t, s, srv.push(t, "app:1", image(t, v1.Config{}, layerOfFiles(t, reg("old", "")), layerOfFiles(t, reg(".wh..wh..opq", ""), reg("new", "")))))
	r := prepare(t, s, "c", im, RootfsOptions{})
	if got := fmt.Sprint(paths(t, r.Path)); got != "[new]" {
		t.Error(got)
	}
	if err := s.Release("c"); err != nil {
		t.Error(err)
	}
}

// TestManyLayers: as many as an image may have, more than mount(2)'s options
// hold by their names; and none, and one.
func TestManyLayers(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	if err := os.WriteFile(s.path("tmp", "alien"), nil, 0o600); err != nil { // nobody's file is seen elsewhere
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 2, 40, 128} {
		var layers []v1.Layer
		for i := range n {
			layers = append(layers, layerOfFiles(t, reg(fmt.Sprintf("%d-%d", n, i), "x"), reg("top", fmt.Sprint(i))))
		}
		im := mustPull(t, s, srv.push(t, fmt.Sprintf("app:%d", n), image(t, v1.Config{}, layers...)))
		for _, o := range []RootfsOptions{{}, {ReadOnly: true}, {UIDs: ids(7000), GIDs: ids(7000)}, {UIDs: ids(7000), GIDs: ids(7000), ReadOnly: true}} {
			r := prepare(t, s, "c", im, o)
			if got := len(paths(t, r.Path)); n > 0 && got != n+1 || n == 0 && got != 0 {
				t.Errorf("%d layers: %d files", n, got)
			}
			if n > 0 && contents(t, r.Path+"/top") != fmt.Sprint(n-1) {
				t.Errorf("%d layers: the topmost is %s", n, contents(t, r.Path+"/top"))
			}
			err := os.WriteFile(r.Path+"/w", nil, 0o644)
			if (err == nil) == o.ReadOnly || (r.Upper == "") != o.ReadOnly {
				t.Errorf("%+v: %v %v", o, r, err)
			}
			if err := s.Release("c"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left := fmt.Sprint(tree(t, s, "tmp", "containers")); left != "[tmp/alien]" {
		t.Error(left)
	}
}

func ids(host uint32) []*runtimeapi.IDMapping {
	return []*runtimeapi.IDMapping{{ContainerId: 0, HostId: host, Length: 65536}}
}

// TestUserNamespace: a container in a user namespace owns its files, on the
// disk they stay what they were.
func TestUserNamespace(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	f := reg("etc/f", "x")
	f.Uid, f.Gid = 5, 6
	im := mustPull(t, s, srv.push(t, "app:1", image(t, v1.Config{}, layerOfFiles(t, dir("etc/", 0o755), f), layerOfFiles(t, reg("g", "")))))
	r := prepare(t, s, "c", im, RootfsOptions{UIDs: ids(100000), GIDs: ids(200000)})
	want := map[string]string{"": "100000:200000", "etc": "100000:200000", "etc/f": "100005:200006", "g": "100000:200000"}
	for name, owner := range want {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(r.Path, name), &st); err != nil || fmt.Sprintf("%d:%d", st.Uid, st.Gid) != owner {
			t.Errorf("%s: %d:%d, want %s: %v", name, st.Uid, st.Gid, owner, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(s.layerPath(im.layers[0])+"/fs/etc/f", &st); err != nil || st.Uid != 5 {
		t.Error(st.Uid, err)
	}
	if err := os.Chmod(r.Path+"/etc/f", 0o600); err != nil { // copied up
		t.Error(err)
	}
	if err := unix.Lstat(r.Upper+"/etc/f", &st); err != nil || st.Uid != 100005 {
		t.Error(st.Uid, err)
	}
	if left := tree(t, s, "tmp"); len(left) > 0 {
		t.Error(left)
	}
	if data, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(data), " "+s.path("tmp")) {
		t.Error("the mapped view of the layers stays mounted", err)
	}
	for name, o := range map[string]RootfsOptions{
		"users only": {UIDs: ids(1)}, "groups only": {GIDs: ids(1)}, "no root": {UIDs: []*runtimeapi.IDMapping{{ContainerId: 1, HostId: 1, Length: 1}}, GIDs: ids(1)},
		"empty": {UIDs: []*runtimeapi.IDMapping{{}}, GIDs: ids(1)},
	} {
		if _, err := s.Prepare(t.Context(), "bad", im, o); err == nil {
			t.Error(name)
		}
	}
	if err := s.Release("c"); err != nil {
		t.Error(err)
	}
}

// TestInUse: removing an image that containers have, and a restart between.
func TestInUse(t *testing.T) {
	srv := serve(t)
	root := filepath.Join(t.TempDir(), "images")
	s, stop := open(t, Config{Root: root})
	im := mustPull(t, s, srv.push(t, "app:1", simple(t, "x")))
	r := prepare(t, s, "c", im, RootfsOptions{})
	if _, err := s.Prepare(t.Context(), "c", im, RootfsOptions{}); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if err := s.Remove(im.ID); err != nil {
		t.Fatal(err)
	}
	if statusOf(t, s, im.ID) != nil {
		t.Error("it has its name still")
	}
	clean(t, s, 2, 0)
	if _, err := s.Get(im.ID); !errors.Is(err, ErrNoImage) {
		t.Error(err)
	}

	stop()
	s, _ = open(t, Config{Root: root})
	if got := s.Roots(); !slices.Equal(got, []string{"c"}) {
		t.Errorf("after a restart: %v", got)
	}
	if contents(t, r.Path+"/etc/own") != "x" {
		t.Error("the container lost its files")
	}
	clean(t, s, 2, 0)
	if err := s.Release("c"); err != nil {
		t.Error(err)
	}
	clean(t, s, 0, 0)
	if _, err := s.Prepare(t.Context(), "d", im, RootfsOptions{}); !errors.Is(err, ErrNoImage) {
		t.Error(err)
	}
	for _, id := range []string{"", "..", "a/b", ".x", strings.Repeat("x", 200)} {
		if _, err := s.Prepare(t.Context(), id, im, RootfsOptions{}); err == nil {
			t.Errorf("a root file system called %q", id)
		}
		if err := s.Release(id); err == nil {
			t.Errorf("released %q", id)
		}
	}
	if left := tree(t, s, "tmp", "containers"); len(left) > 0 {
		t.Error(left)
	}
}

// TestMountImage: an image as a volume; its links lead nowhere else.
func TestMountImage(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	im := mustPull(t, s, srv.push(t, "data:1", image(t, v1.Config{}, layerOfFiles(t, dir("a/", 0o755), dir("a/b/", 0o755), reg("a/b/f", "x"),
		symlink("in", "a/b"), symlink("up", "../../.."), symlink("abs", "/etc"), symlink("a/back", "..")))))
	path, err := s.MountImage(t.Context(), "v", im, "", RootfsOptions{})
	if err != nil || contents(t, path+"/a/b/f") != "x" {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"/w", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Error("it can be written to", err)
	}
	if err := s.Release("v"); err != nil || mounted(t, path) {
		t.Error("it is mounted still", err)
	}
	for sub, want := range map[string]string{"a": "a", "a/b": "a/b", "in": "a/b", "./a/": "a", "a/back/in": "a/b", "a/../a": "a"} {
		got, err := s.MountImage(t.Context(), "v", im, sub, RootfsOptions{UIDs: ids(1000), GIDs: ids(1000)})
		if err != nil || got != filepath.Join(path, want) {
			t.Errorf("%s: %s %v", sub, got, err)
		}
		if err := s.Release("v"); err != nil {
			t.Error(err)
		}
	}
	for _, sub := range []string{"none", "a/b/f", "..", "../c", "/a", "up", "up/etc", "abs", "a/../../x"} {
		got, err := s.MountImage(t.Context(), "v", im, sub, RootfsOptions{})
		if !errors.Is(err, crierrors.ErrImageVolumeMountFailed) {
			t.Errorf("%s: %s %v", sub, got, err)
		}
	}
	if left := s.Roots(); len(left) > 0 || mounted(t, path) {
		t.Error(left)
	}
}

// TestSweep: what a dead process was about to mount or to build
// is swept, mounts included.
func TestSweep(t *testing.T) {
	srv := serve(t)
	root := filepath.Join(t.TempDir(), "images")
	s, stop := open(t, Config{Root: root})
	im := mustPull(t, s, srv.push(t, "app:1", simple(t, "x")))
	prepare(t, s, "half", im, RootfsOptions{})
	stop()
	if err := os.Remove(s.path("containers", "half", "root.json")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"tmp/layer-1/fs", "tmp/ids-1", "layers/" + strings.Repeat("a", 64) + "/fs"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.path("configs", strings.Repeat("b", 64)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(s.path("layers"), s.path("tmp", "ids-1"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	s, _ = open(t, Config{Root: root})
	if mounted(t, s.path("tmp", "ids-1")) || mounted(t, s.path("containers", "half", "rootfs")) || len(s.Roots()) > 0 {
		t.Error("not swept")
	}
	clean(t, s, 2, 1)
	if statusOf(t, s, im.ID) == nil {
		t.Error("the image is gone")
	}
	if second, err := New(Config{Root: root}); err != nil || !errors.Is(second.Run(t.Context()), ErrBusy) {
		t.Error("two stores have one root", err)
	}
}

// TestDamaged: an image that lost something on the disk is forgotten, others stay.
func TestDamaged(t *testing.T) {
	srv := serve(t)
	for name, hurt := range map[string]func(s *Store, im Image) error{
		"layer":  func(s *Store, im Image) error { return os.RemoveAll(s.layerPath(im.layers[1])) },
		"figure": func(s *Store, im Image) error { return os.Truncate(s.layerPath(im.layers[1])+"/layer.json", 0) },
		"config": func(s *Store, im Image) error { return os.Truncate(s.path("configs", encoded(im.ID)), 10) },
		"gone":   func(s *Store, im Image) error { return os.Remove(s.path("configs", encoded(im.ID))) },
	} {
		root := filepath.Join(t.TempDir(), "images")
		s, stop := open(t, Config{Root: root})
		im, other := mustPull(t, s, srv.push(t, "app:1", simple(t, "x"))), mustPull(t, s, srv.push(t, "app:2", simple(t, "y")))
		stop()
		if err := hurt(s, im); err != nil {
			t.Fatal(err)
		}
		s, stop = open(t, Config{Root: root})
		if statusOf(t, s, im.ID) != nil || statusOf(t, s, other.ID) == nil {
			t.Errorf("%s: %v", name, s.images)
		}
		clean(t, s, 2, 1)
		mustPull(t, s, srv.host+"/app:1")
		clean(t, s, 3, 2)
		stop()
	}
}

// TestSameName: one name, prepared and released by many at the same time.
func TestSameName(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, Config{})
	im := mustPull(t, s, srv.push(t, "app:1", simple(t, "x")))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				if _, err := s.Prepare(t.Context(), "c", im, RootfsOptions{}); err != nil && !errors.Is(err, ErrExists) {
					t.Error(err)
				}
				if err := s.Release("c"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if left := tree(t, s, "tmp", "containers"); len(left) > 0 || mounted(t, s.path("containers/c/rootfs")) {
		t.Error(left)
	}
}

// TestSpread: on ext4 root file systems are made where there is room for each.
func TestSpread(t *testing.T) {
	s, _ := open(t, Config{})
	var fs unix.Statfs_t
	if err := unix.Statfs(s.path("tmp"), &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("temporary files are not on ext4 here")
	}
	f, err := os.Open(s.path("tmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&topDir == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

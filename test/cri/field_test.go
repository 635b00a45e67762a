package cri_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

var field = flag.Bool("field", false, "run TestField: the field's own suite, cri-tools' critest, against the built-in runtime; arguments after the flags choose specs")

// wantedDigest is of an image that critest asks for by digest. Nobody else can
// make that one, so critest is built with the digest of ours.
const wantedDigest = "sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

// unfit is a spec whose shell must not have an ls built in, as Debian's busybox
// has; security/masked and read-only paths has the same promise.
const unfit = "runtime should support MaskedPaths"

// fieldSpec is a spec of critest, as ginkgo reports it.
type fieldSpec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	Failure                 struct{ Message string }
}

func (s fieldSpec) String() string {
	return strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
}

func readReport(t *testing.T, path string) []fieldSpec {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var suites []struct{ SpecReports []fieldSpec }
	if err := json.Unmarshal(data, &suites); err != nil {
		t.Fatal(err)
	}
	var specs []fieldSpec
	for _, s := range suites {
		for _, r := range s.SpecReports {
			if r.LeafNodeType == "It" {
				specs = append(specs, r)
			}
		}
	}
	if len(specs) == 0 {
		t.Fatalf("%s has no specs", path)
	}
	return specs
}

// TestField runs critest. The images that it takes from the internet are made
// here, with what its specs look at.
func TestField(t *testing.T) {
	if !*field {
		t.Skip("only with -field: it builds and runs cri-tools' critest")
	}
	if err := hasKnarr(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "knarr-field")
	if err != nil {
		t.Fatal(err)
	}
	b := newBuiltin(t, dir)
	// Our registry is the proxy through which the internet's are reached.
	r := newRegistry(t, b.host.Try)
	b.env = []string{"HTTP_PROXY=http://" + r.host}
	b.args = []string{"--insecure-registry", "registry.k8s.io,k8s.gcr.io,gcr.io"}
	b.launch(t)
	digest := publishField(t, r)
	critest := buildField(t, digest)

	report := filepath.Join(dir, "report.json")
	cmd := exec.Command(critest, append([]string{"-runtime-endpoint", "unix://" + b.socket(), "-ginkgo.json-report", report,
		"-test.timeout", "40m", "-ginkgo.timeout", "40m", "-ginkgo.skip", unfit}, flag.Args()...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &out, dir
	if err = b.host.Try(cmd.Start); err == nil {
		err = cmd.Wait()
	}
	specs := readReport(t, report)
	for _, s := range specs {
		switch s.State {
		case "passed":
		case "skipped":
			t.Logf("skipped: %s: %s", s, s.Failure.Message)
		default:
			t.Errorf("%s: %s: %s", s.State, s, s.Failure.Message)
		}
	}
	t.Logf("%d specs", len(specs))
	if err != nil {
		path := filepath.Join(os.TempDir(), "critest.log")
		t.Errorf("critest: %v; all that it said is in %s: %v", err, path, os.WriteFile(path, out.Bytes(), 0o644))
	}
	r.close()
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// publishField makes critest's images and returns the digest of the one that it
// asks for by digest.
func publishField(t *testing.T, r *registryServer) string {
	probe, err := os.ReadFile(filepath.Join(archives(t), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	base, err := appendEntries(baseImage(t),
		// What Debian's busybox does not have, and files that are masked or
		// looked for by name.
		entry{name: "bin/ipcs", text: "#!/bin/sh\ncat /proc/sysvipc/shm\n", mode: 0o755},
		entry{name: "bin/pgrep", text: "#!/bin/sh\nfor p in /proc/[0-9]*; do grep -q \"$1\" $p/comm && basename $p; done\n", mode: 0o755},
		entry{name: "bin/ls", data: busybox, mode: 0o755}, entry{name: "bin/nginx", data: probe, mode: 0o755},
		entry{name: "etc/passwd", text: passwd + "www-data:x:33:33:www-data:/var/www:/bin/false\ndefault-user:x:1000:1000::/home:/bin/sh\n", mode: 0o644},
		entry{name: "etc/group", text: groups + "www-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n", mode: 0o644},
		entry{name: "var/run", dir: true, mode: 0o755}, entry{name: "www/index.html", text: "It works!\n", mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	publish := func(repo string, change func(*v1.Config)) v1.Image {
		img, err := appendEntries(base, entry{name: "etc/is", text: repo + "\n", mode: 0o644})
		if err == nil {
			img, err = with(img, func(c *v1.Config) {
				c.Entrypoint, c.Cmd, c.User = nil, []string{"sh"}, ""
				if change != nil {
					change(c)
				}
			})
		}
		if err == nil {
			err = r.publish(repo, img)
		}
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	server := func(port, name string) func(*v1.Config) {
		return func(c *v1.Config) {
			c.Cmd = []string{"sh", "-c", "echo " + name + "; nginx signals & echo $! >/var/run/nginx.pid; httpd -f -p " + port + " -h /www & wait", name + ": master process"}
		}
	}
	as := func(user string) func(*v1.Config) { return func(c *v1.Config) { c.User = user } }
	e2e, cri := "e2e-test-images/", "k8s-staging-cri-tools/"
	publish("pause:3.9", nil)
	publish(e2e+"busybox:1.29-2", nil)
	publish(e2e+"nginx:1.14-2", server("80", "nginx"))
	publish(e2e+"httpd:2.4.39-4", server("80", "httpd"))
	publish(e2e+"nonewprivs:1.3", func(c *v1.Config) {
		c.Cmd = []string{"sh", "-c", `set -- $(/bin/suid-probe euid); echo "Effective uid: $2"`}
	})
	publish(cri+"hostnet-nginx-amd64:latest", server("12003", "nginx"))
	publish(cri+"hostnet-nginx-arm64:latest", server("12003", "nginx"))
	for _, repo := range []string{"latest:latest", "tag:test", "tag:all", "1:latest", "2:latest", "3:latest"} {
		publish(cri+"test-image-"+repo, nil)
	}
	same := publish(cri+"test-image-tags:1", nil)
	for _, tag := range []string{"2", "3"} {
		if err := r.publish(cri+"test-image-tags:"+tag, same); err != nil {
			t.Fatal(err)
		}
	}
	publish(cri+"test-image-user-uid:latest", as("1002"))
	publish(cri+"test-image-user-username:latest", as("www-data"))
	publish(cri+"test-image-user-uid-group:latest", as("1003:users"))
	publish(cri+"test-image-user-username-group:latest", as("www-data:100"))
	publish(cri+"test-image-predefined-group:latest", as("1000"))
	digest, err := publish(cri+"test-image-digest:latest", nil).Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// buildField builds critest, with another digest in it.
func buildField(t *testing.T, digest string) string {
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Stderr = "field", os.Stderr
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	source, mod := filepath.Join(dir, "cri-tools"), filepath.Join(dir, "go.mod")
	if err := os.CopyFS(source, os.DirFS(run("list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/cri-tools"))); err != nil {
		t.Fatal(err)
	}
	rewrite := func(from, to, old, new string) {
		text, err := os.ReadFile(from)
		if err == nil && !strings.Contains(string(text), old) {
			err = fmt.Errorf("%s has no %q", from, old)
		}
		if err == nil {
			err = os.WriteFile(to, []byte(strings.ReplaceAll(string(text), old, new)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	consts := filepath.Join(source, "pkg/validate/consts.go")
	if err := os.Chmod(consts, 0o600); err != nil { // as in the module cache
		t.Fatal(err)
	}
	rewrite(consts, consts, wantedDigest, digest)
	rewrite("field/go.mod", mod, "\n\n", "\n\nreplace sigs.k8s.io/cri-tools => "+source+"\n\n")
	rewrite("field/go.sum", filepath.Join(dir, "go.sum"), "", "")
	critest := filepath.Join(dir, "critest")
	run("test", "-c", "-modfile", mod, "-o", critest, "sigs.k8s.io/cri-tools/cmd/critest")
	return critest
}

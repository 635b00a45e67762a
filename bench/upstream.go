package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// compare puts upstream's API server and its etcd to the same requests on the
// same machine: figures taken on different days say less than their ratio.
func (b *bench) compare() (err error) {
	if b.upstream == "" || b.apibench == "" {
		return nil
	}
	if _, err := b.sh(b.knarr, "down", "--data-dir", b.data()); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "upstream")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	t := &target{prefix: "upstream.", kubeconfig: filepath.Join(dir, "kubeconfig")}
	defer func() { err = errors.Join(err, b.end(t)) }()
	if err := b.startUpstream(t, dir); err != nil {
		return err
	}
	if b.only == "" {
		n := fmt.Sprint(b.pods)
		b.workload(t, workload{"create.pods", []string{"create", "-kind", "pods", "-n", n, "-c", "32"}, b.pods})
		report("upstream.pods10k.rss", t.rss(), "MiB")
		b.requests(t)
		b.workload(t, workload{"cleanup", []string{"cleanup"}, b.pods})
	}
	if _, err := os.Stat(filepath.Join(b.upstream, "kube-scheduler")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// As fast as they can be, and then as they come: their clients' own limits
	// make them far slower.
	for _, limits := range []struct {
		prefix string
		flags  []string
		pods   int
	}{{"upstream.", []string{"--kube-api-qps", "10000", "--kube-api-burst", "10000"}, 5000}, {"upstream.default.", nil, 1000}} {
		t.prefix = limits.prefix
		ended, err := b.startUpstreamLoops(t, dir, limits.flags)
		if err != nil {
			return err
		}
		b.placements(t, limits.pods)
		b.hollow(t)
		if err := ended(); err != nil {
			return err
		}
	}
	return nil
}

const (
	upstreamURL  = "https://198.51.100.1:6444"
	upstreamEtcd = "http://127.0.0.1:12379"
)

func (b *bench) startUpstream(t *target, dir string) error {
	key := filepath.Join(dir, "key.pem")
	if err := writeKey(key); err != nil {
		return err
	}
	token := rand.Text()
	for name, text := range map[string]string{
		"tokens": token + ",bench,bench,system:masters\n",
		"kubeconfig": "apiVersion: v1\nkind: Config\ncurrent-context: u\ncontexts: [{name: u, context: {cluster: u, user: u}}]\n" +
			"clusters: [{name: u, cluster: {server: \"" + upstreamURL + "\", insecure-skip-tls-verify: true}}]\nusers: [{name: u, user: {token: " + token + "}}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := b.start(t, dir, "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", upstreamEtcd, "--advertise-client-urls", upstreamEtcd,
		"--listen-peer-urls", "http://127.0.0.1:12380", "--log-level", "error"); err != nil {
		return err
	}
	if err := b.start(t, dir, "kube-apiserver", "--etcd-servers", upstreamEtcd, "--secure-port", "6444", "--bind-address", "198.51.100.1", "--cert-dir", filepath.Join(dir, "certs"),
		"--token-auth-file", filepath.Join(dir, "tokens"), "--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", "10.97.0.0/16",
		"--service-account-issuer", "https://bench", "--service-account-key-file", key, "--service-account-signing-key-file", key, "--disable-admission-plugins", "ServiceAccount"); err != nil {
		return err
	}
	_, err := b.sh(b.apibench, "ready", "-kubeconfig", t.kubeconfig, "-timeout", "2m")
	return err
}

// startUpstreamLoops starts its scheduler and its controllers, which end ends.
func (b *bench) startUpstreamLoops(t *target, dir string, flags []string) (end func() error, err error) {
	before := *t
	end = func() error {
		loops := &target{pids: t.pids[len(before.pids):]}
		*t = before
		return b.end(loops)
	}
	common := append([]string{"--kubeconfig", t.kubeconfig, "--leader-elect=false"}, flags...)
	if err := b.start(t, dir, "kube-scheduler", append(common, "--cert-dir", filepath.Join(dir, "scheduler"))...); err != nil {
		return nil, errors.Join(err, end())
	}
	if err := b.start(t, dir, "kube-controller-manager", append(common, "--cert-dir", filepath.Join(dir, "controllers"),
		"--service-account-private-key-file", filepath.Join(dir, "key.pem"), "--allocate-node-cidrs", "--cluster-cidr", "172.16.0.0/12",
		"--service-cluster-ip-range", "10.97.0.0/16")...); err != nil {
		return nil, errors.Join(err, end())
	}
	return end, b.pause(10 * time.Second) // until their informers have synced
}

// start one of upstream's programs; its output goes to a file.
func (b *bench) start(t *target, dir, name string, args ...string) error {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(b.upstream, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // so that alive sees its end; how it ends is in its log
	t.pids = append(t.pids, cmd.Process.Pid)
	if t.processes != "" {
		t.processes += ","
	}
	t.processes += fmt.Sprintf("%s=%d", name, cmd.Process.Pid)
	return nil
}

func (b *bench) end(t *target) error {
	var errs []error
	for _, pid := range t.pids {
		errs = append(errs, syscall.Kill(pid, syscall.SIGKILL))
	}
	for _, pid := range t.pids {
		errs = append(errs, b.gone(pid))
	}
	return errors.Join(errs...)
}

func writeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

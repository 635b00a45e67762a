package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/runtime/registry"
	"knarr.dev/knarr/internal/security/audit"
)

func TestComplete(t *testing.T) {
	dir, files := t.TempDir(), 0
	written := func(text string) string {
		files++
		path := filepath.Join(dir, fmt.Sprint(files))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	audited := func(policy string, edit func(*AuditConfig)) Config {
		c := DefaultAudit()
		c.Log.Path = filepath.Join(dir, "audit.log")
		if c.Policy = policy; policy == "" {
			c.Policy = written("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
		}
		if edit != nil {
			edit(&c)
		}
		return Config{Audit: c}
	}
	for _, tc := range []struct {
		name string
		cfg  Config
		want string // part of the error; empty: none
	}{
		{name: "defaults"},
		{name: "relative data dir", cfg: Config{DataDir: "x"}, want: "absolute"},
		{name: "bad name", cfg: Config{NodeName: "a_b", NodeIP: "192.0.2.1"}, want: "--node-name"},
		{name: "bad address", cfg: Config{NodeName: "n1", NodeIP: "nope"}, want: "node address"},
		{name: "etcd without TLS", cfg: etcdAt("http://192.0.2.9:2379", nil), want: "plain http"},
		{name: "etcd without TLS by name", cfg: etcdAt("http://localhost:2379", nil), want: "plain http"},
		{name: "etcd on loopback", cfg: etcdAt("http://127.0.0.1:2379", nil)},
		{name: "etcd over TLS", cfg: etcdAt("https://etcd.example.com:2379", nil)},
		{name: "etcd without port", cfg: etcdAt("https://etcd.example.com", nil), want: "https://HOST:2379"},
		{name: "etcd with a password", cfg: etcdAt("https://u:hunter2@etcd.example.com:2379", nil), want: "https://HOST:2379"},
		{name: "etcd of both kinds", cfg: etcdAt("https://a:1", func(c *EtcdConfig) { c.Endpoints = append(c.Endpoints, "http://127.0.0.1:1") }), want: "partly http"},
		{name: "etcd twice", cfg: etcdAt("https://a:1", func(c *EtcdConfig) { c.Endpoints = append(c.Endpoints, "https://a:1") }), want: "twice"},
		{name: "certificate without key", cfg: etcdAt("https://a:1", func(c *EtcdConfig) { c.Cert = "/x" }), want: "go together"},
		{name: "certificate over http", cfg: etcdAt("http://127.0.0.1:1", func(c *EtcdConfig) { c.CA = "/x" }), want: "are for https"},
		{name: "no certificate", cfg: etcdAt("https://a:1", func(c *EtcdConfig) { c.CA = "/nonexistent" }), want: "--etcd-ca-file: stat"},
		{name: "authority of nothing", cfg: etcdAt("https://a:1", func(c *EtcdConfig) { c.CA = "/dev/null" }), want: "holds no PEM certificate"},
		{name: "etcd prefix", cfg: etcdAt("https://a:1", func(c *EtcdConfig) { c.Prefix = "/x/" }), want: "--etcd-prefix"},
		{name: "etcd prefix of ours", cfg: etcdAt("https://a:1", func(c *EtcdConfig) { c.Prefix = "/knarr.dev/x" }), want: "choose another"},
		{name: "cluster key", cfg: etcdAt("https://a:1", func(c *EtcdConfig) { c.ClusterKey = "hunter2" }), want: "--cluster-key-file: a cluster key is 64"},
		{name: "etcd flags without etcd", cfg: Config{Etcd: EtcdConfig{CA: "/x"}}, want: "--etcd-ca-file goes with --etcd-endpoints"},
		{name: "cluster key without etcd", cfg: Config{Etcd: EtcdConfig{ClusterKey: "x"}}, want: "--cluster-key-file goes with --etcd-endpoints"},
		{name: "overlap", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1", ClusterCIDR: "10.96.0.0/15"}, want: "overlap"},
		{name: "node in pod range", cfg: Config{NodeName: "n1", NodeIP: "10.244.3.4"}, want: "--cluster-cidr"},
		{name: "service range too small", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1", ServiceCIDR: "10.96.0.0/28"}, want: "12 to 24"},
		{name: "IPv6 services", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1", ServiceCIDR: "fd00::/108"}, want: "IPv4"},
		{name: "DNS elsewhere", cfg: Config{NodeName: "n1", NodeIP: "192.0.2.1", ClusterDNS: "192.0.2.53"}, want: "cluster DNS"},
		{name: "DNS at the API server's address", cfg: Config{ClusterDNS: "10.96.0.1"}, want: "--cluster-dns"},
		{name: "bits beyond the prefix", cfg: Config{ClusterCIDR: "10.244.0.5/16"}, want: "is 10.244.0.0/16 meant"},
		{name: "no domain", cfg: Config{ClusterDomain: "Foo_bar"}, want: "--cluster-domain"},
		{name: "loopback", cfg: Config{NodeIP: "127.0.0.1"}, want: "--node-ip"},
		{name: "IPv6 node", cfg: Config{NodeIP: "2001:db8::1"}, want: "--node-ip"},
		{name: "no port", cfg: Config{APIPort: 70000}, want: "--api-port 70000"},
		{name: "negative port", cfg: Config{KubeletPort: -1}, want: "--kubelet-port -1"},
		{name: "one port for two", cfg: Config{Agent: true, APIPort: 7000, KubeletPort: 7000}, want: "both 7000"},
		{name: "negative seats", cfg: Config{MaxRequestsInFlight: -1}, want: "--max-requests-inflight"},
		{name: "log without policy", cfg: Config{Audit: AuditConfig{Log: audit.File{Path: "x"}}}, want: "go with --audit-policy-file"},
		{name: "policy without log", cfg: Config{Audit: AuditConfig{Policy: "x"}}, want: "--audit-policy-file goes with"},
		{name: "no policy", cfg: audited("/nonexistent", nil), want: "--audit-policy-file: stat /nonexistent"},
		{name: "policy of nothing", cfg: audited("/dev/null", nil), want: "--audit-policy-file: /dev/null: "},
		{name: "audit format", cfg: audited("", func(c *AuditConfig) { c.LogFormat = "xml" }), want: `--audit-log-format "xml"`},
		{name: "audit mode", cfg: audited("", func(c *AuditConfig) { c.LogOutput.Mode = "no" }), want: `--audit-log-mode "no" is none of`},
		{name: "audit size", cfg: audited("", func(c *AuditConfig) { c.Log.MaxSize = -1 }), want: "--audit-log-maxsize -1 can't be a negative number"},
		{name: "audit buffer", cfg: audited("", func(c *AuditConfig) { c.LogOutput.Mode, c.LogOutput.Batching.Buffer = "batch", 0 }), want: "--audit-log-batch-buffer-size 0"},
		{name: "audit truncation", cfg: audited("", func(c *AuditConfig) { c.LogOutput.Truncate.MaxBatch = 1 }), want: "must be greater than --audit-log-truncate-max-event-size (102400)"},
		{name: "audit directory", cfg: audited("", func(c *AuditConfig) { c.Log.Path = "/tmp" }), want: "--audit-log-path: /tmp is a directory"},
		{name: "audit webhook", cfg: audited("", func(c *AuditConfig) { c.Webhook = "/nonexistent" }), want: "--audit-webhook-config-file: stat"},
		{name: "scheduler", cfg: Config{SchedulerConfig: written("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{schedulerName: a}]\n")}},
		{name: "scheduler that is not here", cfg: Config{SchedulerConfig: written("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nparallelism: 3\n")}, want: "parallelism: Invalid value: 3: cannot be set"},
		{name: "no scheduler file", cfg: Config{SchedulerConfig: "/nonexistent"}, want: "--scheduler-config: open /nonexistent"},
		{name: "audit", cfg: audited("", nil)},
		{name: "tracing", cfg: Config{TracingConfig: written("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: localhost:4317\nsamplingRatePerMillion: 100\n")}},
		{name: "tracing too often", cfg: Config{TracingConfig: written("apiVersion: apiserver.config.k8s.io/v1beta1\nkind: TracingConfiguration\nsamplingRatePerMillion: 2000000\n")}, want: "sampling rate per million must be less than or equal to one million"},
		{name: "tracing elsewhere", cfg: Config{TracingConfig: written("apiVersion: apiserver.config.k8s.io/v1alpha1\nkind: TracingConfiguration\nendpoint: http://x\n")}, want: "unsupported scheme: http"},
		{name: "tracing of something", cfg: Config{TracingConfig: written("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nnope: 1\n")}, want: `unknown field "nope"`},
		{name: "no name", cfg: Config{TLSSANs: []string{"*.example.com", "192.0.2.9", "a b"}}, want: `--tls-san "a b"`},
		{name: "registry with a scheme", cfg: Config{Registries: registry.Hosts{Insecure: []string{"http://r:5000"}}}, want: "insecure registry"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Server = true
			defaultTo(&tc.cfg.DataDir, t.TempDir())
			defaultTo(&tc.cfg.NodeName, "n1")
			defaultTo(&tc.cfg.NodeIP, "192.0.2.1")
			err := tc.cfg.Complete()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if err == nil && (tc.cfg.ClusterDNS != "10.96.0.10" || tc.cfg.ServiceIP() != "10.96.0.1") {
				t.Errorf("DNS %s, service %s", tc.cfg.ClusterDNS, tc.cfg.ServiceIP())
			}
		})
	}
}

func TestJoinServer(t *testing.T) {
	for server, good := range map[string]bool{
		"https://192.0.2.1:6443": true, "https://knarr.example.com:6443/": true,
		"": false, "192.0.2.1:6443": false, "http://192.0.2.1:6443": false, "https://192.0.2.1": false, "https://:6443": false, "https://h:1/x": false,
	} {
		c := Config{Agent: true, DataDir: t.TempDir(), NodeName: "n1", NodeIP: "192.0.2.2", JoinServer: server}
		err := c.Complete()
		if good != (err == nil) || err != nil && !strings.Contains(err.Error(), "--server") {
			t.Errorf("%q: %v", server, err)
		}
	}
}

// TestNextStart: what was chosen once stays, networks for good.
func TestNextStart(t *testing.T) {
	dir := t.TempDir()
	complete := func(c Config) (Config, error) {
		c.DataDir, c.NodeIP = dir, "192.0.2.1"
		err := c.Complete()
		return c, err
	}
	first, err := complete(Config{Server: true, NodeName: "n1", APIPort: 7443, KubeletPort: 7250, ClusterCIDR: "10.8.0.0/16", ServiceCIDR: "10.9.0.0/16", ClusterDomain: "x.test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeInstance(&first, "v1"); err != nil {
		t.Fatal(err)
	}
	next, err := complete(Config{Server: true})
	if err != nil {
		t.Fatal(err)
	}
	next.Progress, first.Progress, next.before = nil, nil, nil
	if !reflect.DeepEqual(next, first) {
		t.Errorf("the next start has %+v, want %+v", next, first)
	}
	if next, err := complete(Config{Server: true, Agent: true, APIPort: 8443}); err != nil || next.APIPort != 8443 {
		t.Errorf("another port and a node: %d %v", next.APIPort, err)
	}
	for want, c := range map[string]Config{
		"--service-cidr is 10.9.0.0/16":   {Server: true, ServiceCIDR: "10.10.0.0/16"},
		"--cluster-domain is x.test":      {Server: true, ClusterDomain: "y.test"},
		"belongs to a server; remove":     {Agent: true, JoinServer: "https://h:1"},
		"--cluster-dns is 10.9.0.10 in":   {Server: true, ClusterDNS: "10.9.0.11"},
		"--cluster-cidr is 10.8.0.0/16 i": {Server: true, ClusterCIDR: "10.7.0.0/16"},
	} {
		if _, err := complete(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	first.Agent = true
	if err := writeInstance(&first, "v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := complete(Config{Server: true}); err == nil || !strings.Contains(err.Error(), "knarr up") {
		t.Errorf("a server without its node: %v", err)
	}
}

// TestTakeNetworks: an agent believes a whole answer only.
func TestTakeNetworks(t *testing.T) {
	server := Config{NodeIP: "192.0.2.1", ServiceCIDR: "10.9.0.0/16"}
	if err := server.completeNetworks(); err != nil {
		t.Fatal(err)
	}
	cm := &corev1.ConfigMap{Data: map[string]string{}}
	for key, value := range server.networks() {
		cm.Data[key] = *value
	}
	agent := Config{NodeIP: "192.0.2.2"}
	if err := agent.takeNetworks(cm); err != nil || agent.ServiceCIDR != "10.9.0.0/16" || agent.ClusterDNS != "10.9.0.10" || agent.ClusterCIDR != "10.244.0.0/16" || agent.ClusterDomain != "cluster.local" {
		t.Errorf("%+v %v", agent, err)
	}
	agent = Config{NodeIP: "10.244.1.2"}
	if err := agent.takeNetworks(cm); err == nil {
		t.Error("a node inside the pods' range was taken")
	}
	delete(cm.Data, "cluster-dns")
	if err := agent.takeNetworks(cm); err == nil || !strings.Contains(err.Error(), "lacks cluster-dns") {
		t.Errorf("half an answer: %v", err)
	}
}

// TestUnlock: what was never started leaves nothing behind.
func TestUnlock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	lock, err := lockInstance(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock(dir, lock)
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("an empty data directory stays: %v", err)
	}
	if lock, err = lockInstance(dir); err != nil {
		t.Fatal(err)
	}
	if err := writeInstance(&Config{DataDir: dir}, "v1"); err != nil {
		t.Fatal(err)
	}
	unlock(dir, lock)
	if _, running, err := ReadInstance(dir); err != nil || running {
		t.Errorf("a stopped instance: running %v, %v", running, err)
	}
}

func TestRunDirIsShort(t *testing.T) {
	long := Config{DataDir: "/" + strings.Repeat("x", 200)}
	if len(long.RunDir()) > 20 || long.RunDir() == (&Config{DataDir: "/var/lib/knarr"}).RunDir() {
		t.Error(long.RunDir())
	}
}

func TestRealPath(t *testing.T) {
	dir := RealPath(t.TempDir())
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, want := RealPath(filepath.Join(dir, "link", "not", "yet")), filepath.Join(dir, "real", "not", "yet"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func etcdAt(endpoint string, edit func(*EtcdConfig)) Config {
	c := EtcdConfig{Endpoints: []string{endpoint}}
	if edit != nil {
		edit(&c)
	}
	return Config{Etcd: c}
}

// TestInheritEtcd: where the objects are is not changed by leaving a flag away.
func TestInheritEtcd(t *testing.T) {
	start := func(dir string, e EtcdConfig) (*Config, error) {
		c := &Config{Server: true, DataDir: dir, NodeName: "n1", NodeIP: "192.0.2.1", Etcd: e}
		return c, c.Complete()
	}
	outside := EtcdConfig{Endpoints: []string{"https://a:1"}, Prefix: "/mine", ClusterKey: strings.Repeat("0123456789abcdef", 3) + "fedcba9876543210"}
	dir := t.TempDir()
	c, err := start(dir, outside)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeInstance(c, "v"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "instance.json"))
	if err != nil || strings.Contains(string(data), "0123456789abcdef") || strings.Contains(string(data), "10.96") {
		t.Errorf("the note says %s (%v)", data, err)
	}
	if c, err = start(dir, EtcdConfig{}); err != nil || !reflect.DeepEqual(c.Etcd.Endpoints, outside.Endpoints) || c.Etcd.Prefix != "/mine" {
		t.Errorf("%+v %v", c.Etcd, err)
	}
	if c, err = start(dir, EtcdConfig{Endpoints: []string{"https://b:1"}}); err != nil || c.Etcd.Endpoints[0] != "https://b:1" {
		t.Errorf("%+v %v", c.Etcd, err)
	}
	if _, err = start(dir, EtcdConfig{Prefix: "/other"}); err == nil || !strings.Contains(err.Error(), "cannot be changed") {
		t.Errorf("another prefix: %v", err)
	}
	inside := t.TempDir()
	if c, err = start(inside, EtcdConfig{}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writeInstance(c, "v"), os.MkdirAll(c.Dir("server", "etcd"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err = start(inside, outside); err == nil || !strings.Contains(err.Error(), "restore a snapshot") {
		t.Errorf("an etcd of its own is left: %v", err)
	}
}

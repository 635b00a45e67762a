package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"knarr.dev/knarr/internal/security/sealed"
	"knarr.dev/knarr/internal/store/etcd"
)

// EtcdConfig is an etcd that others run, instead of an embedded one; several
// servers may use it. Empty: there is none. Paths may be relative to the working
// directory.
type EtcdConfig struct {
	Endpoints []string `json:"endpoints"`    // URLs, https, or http on loopback
	CA        string   `json:"ca,omitempty"` // PEM file, and so on; default: the system's authorities
	Cert      string   `json:"cert,omitempty"`
	Key       string   `json:"key,omitempty"`
	// Prefix of the objects' keys; default /registry.
	Prefix string `json:"prefix"`
	// ClusterKey opens what the servers have in common (docs/adr/0005), in the
	// form of sealed.Key; empty: that of the last start. The first server makes one.
	ClusterKey string `json:"-"`
}

// external says whether there is one.
func (c *EtcdConfig) external() bool { return len(c.Endpoints) > 0 }

func (c *EtcdConfig) complete() error {
	if !c.external() {
		for _, f := range []struct{ flag, value string }{{"--etcd-ca-file", c.CA}, {"--etcd-cert-file", c.Cert}, {"--etcd-key-file", c.Key},
			{"--etcd-prefix", c.Prefix}, {"--cluster-key-file", c.ClusterKey}} {
			if f.value != "" {
				return fmt.Errorf("%s goes with --etcd-endpoints: without it this server runs an etcd of its own", f.flag)
			}
		}
		return nil
	}
	secure := false
	for i, e := range c.Endpoints {
		https, err := checkEndpoint(e)
		if err != nil {
			return err
		}
		if i > 0 && https != secure {
			return errors.New("--etcd-endpoints are partly http, partly https: give all of them as https")
		}
		if slices.Contains(c.Endpoints[:i], e) {
			return fmt.Errorf("--etcd-endpoints names %s twice", e)
		}
		secure = https
	}
	if !secure && (c.CA != "" || c.Cert != "" || c.Key != "") {
		return errors.New("--etcd-ca-file, --etcd-cert-file and --etcd-key-file are for https: give the --etcd-endpoints so")
	}
	if (c.Cert == "") != (c.Key == "") {
		return errors.New("--etcd-cert-file and --etcd-key-file go together")
	}
	defaultTo(&c.Prefix, etcd.DefaultRoot)
	if err := checkPrefix(c.Prefix); err != nil {
		return err
	}
	if c.ClusterKey != "" {
		if _, err := sealed.ParseKey(c.ClusterKey); err != nil {
			return fmt.Errorf("--cluster-key-file: %w", err)
		}
	}
	for _, f := range []struct {
		flag string
		file *string
	}{{"--etcd-ca-file", &c.CA}, {"--etcd-cert-file", &c.Cert}, {"--etcd-key-file", &c.Key}} {
		if *f.file == "" {
			continue
		}
		if err := absolute(f.flag, f.file); err != nil {
			return err
		}
	}
	_, err := c.tls()
	return err
}

func checkEndpoint(endpoint string) (https bool, err error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return false, errors.New("--etcd-endpoints has one that is not of the form https://HOST:2379") // which may hold a password
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && (ip == nil || !ip.IsLoopback()) {
		return false, fmt.Errorf("--etcd-endpoints %s is plain http, by which everybody in between reads and writes the cluster: give etcd certificates and use https (http is for addresses of loopback)", endpoint)
	}
	return u.Scheme == "https", nil
}

func checkPrefix(prefix string) error {
	if !strings.HasPrefix(prefix, "/") || prefix == "/" || strings.HasSuffix(prefix, "/") || strings.Contains(prefix, "//") || len(prefix) > 200 {
		return fmt.Errorf("--etcd-prefix %q is not of the form /NAME", prefix)
	}
	if prefix == etcd.OwnRoot || strings.HasPrefix(prefix, etcd.OwnRoot+"/") {
		return fmt.Errorf("--etcd-prefix %q lies in what knarr keeps for itself, %s: choose another", prefix, etcd.OwnRoot)
	}
	return nil
}

// tls is how the endpoints are spoken to; nil: without. The client certificate
// is read anew for each connection, since it is renewed.
func (c *EtcdConfig) tls() (*tls.Config, error) {
	if strings.HasPrefix(c.Endpoints[0], "http://") {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca-file: %w", err)
		}
		if conf.RootCAs = x509.NewCertPool(); !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-ca-file: %s holds no PEM certificate", c.CA)
		}
	}
	if c.Cert == "" {
		return conf, nil
	}
	load := func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cert-file and --etcd-key-file: %w", err)
		}
		return &cert, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return conf, nil
}

// etcdStore is how the store is opened.
func (c *Config) etcdStore() (etcd.Config, error) {
	conf := etcd.Config{Dir: c.Dir("server", "etcd"), SocketDir: c.RunDir(), Log: c.Log}
	if !c.Etcd.external() {
		return conf, nil
	}
	var err error
	conf.Endpoints, conf.Root = c.Etcd.Endpoints, c.Etcd.Prefix
	conf.TLS, err = c.Etcd.tls()
	return conf, err
}

// inheritEtcd takes what is not said from the last start; where the cluster's
// objects are does not change by leaving a flag away.
func (c *Config) inheritEtcd(in *Instance) error {
	was := in.Etcd
	switch {
	case was == nil && !c.Etcd.external():
		return nil
	case was == nil:
		if _, err := os.Lstat(c.Dir("server", "etcd")); err == nil {
			return fmt.Errorf("the cluster of %s is in the etcd that it runs itself: to move it, restore a snapshot of that in the other one and remove %s; or choose another place with --data-dir",
				c.DataDir, c.Dir("server", "etcd"))
		}
		return nil
	}
	if c.Etcd.Prefix != "" && c.Etcd.Prefix != was.Prefix {
		return fmt.Errorf("--etcd-prefix is %s in this cluster and cannot be changed to %s: leave the flag away, or begin anew after `knarr uninstall`", was.Prefix, c.Etcd.Prefix)
	}
	if len(c.Etcd.Endpoints) == 0 {
		c.Etcd.Endpoints = was.Endpoints
	}
	defaultTo(&c.Etcd.CA, was.CA)
	defaultTo(&c.Etcd.Cert, was.Cert)
	defaultTo(&c.Etcd.Key, was.Key)
	defaultTo(&c.Etcd.Prefix, was.Prefix)
	return nil
}

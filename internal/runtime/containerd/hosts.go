package containerd

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// hostPattern is a registry as it stands in an image name: host or host:port.
var hostPattern = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)

// Check tells what cannot be a registry, a mirror or a certificate authority.
func (r Registries) Check() error {
	for host, urls := range r.Mirrors {
		if !hostPattern.MatchString(host) {
			return fmt.Errorf("mirror of %q: not of the form HOST or HOST:PORT", host)
		}
		for _, u := range urls {
			p, err := url.Parse(u)
			if err != nil || (p.Scheme != "http" && p.Scheme != "https") || p.Host == "" || p.User != nil || p.RawQuery != "" {
				return fmt.Errorf("mirror %q of %s is not an http or https URL without credentials", u, host)
			}
		}
	}
	for _, host := range r.Insecure {
		if !hostPattern.MatchString(host) {
			return fmt.Errorf("insecure registry %q is not of the form HOST:PORT", host)
		}
	}
	for host, file := range r.CAs {
		if !hostPattern.MatchString(host) {
			return fmt.Errorf("CA of %q: not of the form HOST or HOST:PORT", host)
		}
		if slices.Contains(r.Insecure, host) {
			return fmt.Errorf("registry %s has a CA and is insecure", host)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("CA of %s: %w", host, err)
		}
		if !filepath.IsAbs(file) || !x509.NewCertPool().AppendCertsFromPEM(data) {
			return fmt.Errorf("CA of %s: %s is not an absolute path of a file with certificates in PEM", host, file)
		}
	}
	return nil
}

// writeHosts writes one hosts.toml per configured registry; containerd reads
// them at each pull, so changes need no restart. Registries on this machine
// (localhost, 127.0.0.1) are spoken to in plain HTTP by containerd itself.
func (r *Runtime) writeHosts() error {
	want := map[string][]byte{}
	for _, host := range slices.Concat(slices.Collect(maps.Keys(r.cfg.Mirrors)), r.cfg.Insecure, slices.Collect(maps.Keys(r.cfg.CAs))) {
		want[host] = r.cfg.Registries.hostsToml(host)
	}
	if err := privateDir(r.hostsDir()); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.hostsDir())
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	for _, e := range entries {
		if want[e.Name()] == nil {
			if err := os.RemoveAll(filepath.Join(r.hostsDir(), e.Name())); err != nil {
				return fmt.Errorf("containerd: %w", err)
			}
		}
	}
	for host, data := range want {
		dir := filepath.Join(r.hostsDir(), host)
		if err := privateDir(dir); err != nil {
			return err
		}
		name, other := "hosts.toml", "ca.crt"
		if r.cfg.CAs[host] != "" && len(r.cfg.Mirrors[host]) == 0 {
			// In hosts.toml containerd 1.6 takes a CA from a host's entry only,
			// and would ask the registry itself once more, without it.
			var err error
			if data, err = os.ReadFile(r.cfg.CAs[host]); err != nil {
				return fmt.Errorf("containerd: CA of %s: %w", host, err)
			}
			name, other = other, name
		}
		if err := writeFile(filepath.Join(dir, name), data); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(dir, other)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("containerd: %w", err)
		}
	}
	return nil
}

// hostsToml orders a registry's sources: mirrors first, itself last.
func (r Registries) hostsToml(host string) []byte {
	var b bytes.Buffer
	server, mirrors, insecure := "https://"+host, r.Mirrors[host], slices.Contains(r.Insecure, host)
	switch {
	case insecure:
		server = "http://" + host
	case host == "docker.io":
		server = "https://registry-1.docker.io" // the name's historical home
	}
	fmt.Fprintf(&b, "server = %s\n", quote(server))
	if insecure || r.CAs[host] != "" { // containerd takes both from a host's entry only
		mirrors = append(slices.Clone(mirrors), server)
	}
	for _, m := range mirrors {
		fmt.Fprintf(&b, "[host.%s]\n  capabilities = [\"pull\", \"resolve\"]\n", quote(m))
		if u, err := url.Parse(m); err == nil && r.CAs[u.Host] != "" {
			fmt.Fprintf(&b, "  ca = %s\n", quote(r.CAs[u.Host]))
		}
	}
	return b.Bytes()
}

package containerd

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// hostPattern is a registry as it stands in an image name: host or host:port.
var hostPattern = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)

func checkRegistries(mirrors map[string][]string, insecure []string) error {
	for host, urls := range mirrors {
		if !hostPattern.MatchString(host) {
			return fmt.Errorf("containerd: mirror of %q: not a registry's host", host)
		}
		for _, u := range urls {
			p, err := url.Parse(u)
			if err != nil || (p.Scheme != "http" && p.Scheme != "https") || p.Host == "" || p.User != nil || p.RawQuery != "" {
				return fmt.Errorf("containerd: mirror %q of %s is not an http or https URL without credentials", u, host)
			}
		}
	}
	for _, host := range insecure {
		if !hostPattern.MatchString(host) {
			return fmt.Errorf("containerd: insecure registry %q: not a registry's host", host)
		}
	}
	return nil
}

// writeHosts writes one hosts.toml per configured registry; containerd reads
// them at each pull, so changes need no restart. Registries on this machine
// (localhost, 127.0.0.1) are spoken to in plain HTTP by containerd itself.
func (r *Runtime) writeHosts() error {
	want := map[string][]byte{}
	for host, urls := range r.cfg.Mirrors {
		want[host] = hostsToml(host, urls, slices.Contains(r.cfg.Insecure, host))
	}
	for _, host := range r.cfg.Insecure {
		if want[host] == nil {
			want[host] = hostsToml(host, nil, true)
		}
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
		if err := writeFile(filepath.Join(dir, "hosts.toml"), data); err != nil {
			return err
		}
	}
	return nil
}

// hostsToml orders a registry's sources: mirrors first, itself last.
func hostsToml(host string, mirrors []string, insecure bool) []byte {
	var b bytes.Buffer
	server := "https://" + host
	switch {
	case insecure:
		server = "http://" + host
	case host == "docker.io":
		server = "https://registry-1.docker.io" // the name's historical home
	}
	fmt.Fprintf(&b, "server = %s\n", quote(server))
	if insecure { // containerd takes the scheme from a host's entry only
		mirrors = append(slices.Clone(mirrors), server)
	}
	for _, m := range mirrors {
		fmt.Fprintf(&b, "[host.%s]\n  capabilities = [\"pull\", \"resolve\"]\n", quote(m))
	}
	return b.Bytes()
}

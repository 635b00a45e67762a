package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"knarr.dev/knarr/internal/runtime/registry"
)

// writeHosts writes one hosts.toml per configured registry; containerd reads
// them at each pull, so changes need no restart. Registries on this machine
// (localhost, 127.0.0.1) are spoken to in plain HTTP by containerd itself.
func (r *Runtime) writeHosts() error {
	want := map[string][]byte{}
	for _, host := range slices.Concat(slices.Collect(maps.Keys(r.cfg.Registries.Mirrors)), r.cfg.Registries.Insecure, slices.Collect(maps.Keys(r.cfg.Registries.CAs))) {
		want[host] = hostsToml(r.cfg.Registries, host)
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
		if r.cfg.Registries.CAs[host] != "" && len(r.cfg.Registries.Mirrors[host]) == 0 {
			// In hosts.toml containerd 1.6 takes a CA from a host's entry only,
			// and would ask the registry itself once more, without it.
			var err error
			if data, err = os.ReadFile(r.cfg.Registries.CAs[host]); err != nil {
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
func hostsToml(r registry.Hosts, host string) []byte {
	var b bytes.Buffer
	server, mirrors, insecure := r.Home(host), r.Mirrors[host], slices.Contains(r.Insecure, host)
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

// Package registry says how the registries of images are reached. Each runtime
// reads it: the private containerd out of files, the built-in one directly.
package registry

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// Hosts says how those registries are reached that need more than their name.
type Hosts struct {
	// Mirrors of registries: registry host to base URLs, tried in order before
	// the registry itself.
	Mirrors map[string][]string
	// Insecure registries are spoken to over plain HTTP.
	Insecure []string
	// CAs by the host of a registry or mirror: a PEM file that its certificate
	// is verified with, instead of the machine's authorities.
	CAs map[string]string
}

// hostPattern is a registry as it stands in an image name: host or host:port.
var hostPattern = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)

// Check tells what cannot be a registry, a mirror or a certificate authority.
func (h Hosts) Check() error {
	for host, urls := range h.Mirrors {
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
	for _, host := range h.Insecure {
		if !hostPattern.MatchString(host) {
			return fmt.Errorf("insecure registry %q is not of the form HOST:PORT", host)
		}
	}
	for host, file := range h.CAs {
		if !hostPattern.MatchString(host) {
			return fmt.Errorf("CA of %q: not of the form HOST or HOST:PORT", host)
		}
		if slices.Contains(h.Insecure, host) {
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

// Home is the base URL of the registry that image names call host. Registries
// on this machine are spoken to in plain HTTP, unless they have a CA.
func (h Hosts) Home(host string) string {
	switch {
	case slices.Contains(h.Insecure, host), loopback(host) && h.CAs[host] == "":
		return "http://" + host
	case host == "docker.io":
		return "https://registry-1.docker.io" // the name's historical home
	}
	return "https://" + host
}

func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.IsLoopback()
}

// Package server wires the components together: read it first, from top to
// bottom. It decides nothing.
package server

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/runtime/registry"
	"knarr.dev/knarr/internal/runtime/supervisor"
	schedulerconfig "knarr.dev/knarr/internal/scheduler/config"
)

// Config of one knarr process. Complete fills in and checks what is missing.
type Config struct {
	// Roles: a server runs the control plane, an agent runs pods; `knarr up`
	// is both.
	Server, Agent bool

	DataDir string // default /var/lib/knarr
	// NodeName is the node's name in the cluster; default: the host name.
	NodeName string
	// NodeIP is the address by which other nodes reach this one; default: the
	// source address of the default route, or that of the only interface.
	NodeIP string

	APIPort     int // default 6443
	KubeletPort int // default 10250
	MaxPods     int // that the node takes; default 110
	// NodeCIDRMaskSize is the bits of a node's part of ClusterCIDR; default 24.
	NodeCIDRMaskSize int

	// The networks are the server's to choose, once; an agent learns them when
	// it has joined.
	ClusterCIDR   string // pods; default 10.244.0.0/16, a /24 for each node
	ServiceCIDR   string // default 10.96.0.0/16
	ClusterDNS    string // default: the tenth address of ServiceCIDR
	ClusterDomain string // default cluster.local
	TLSSANs       []string

	// MaxRequestsInFlight and MaxMutatingRequestsInFlight together are the seats
	// that priority and fairness shares; defaults 400 and 200.
	MaxRequestsInFlight, MaxMutatingRequestsInFlight int
	Access                                           AccessConfig

	// AdmissionConfig is the path of an AdmissionConfiguration, for the defaults
	// and exemptions of PodSecurity.
	AdmissionConfig string
	admission       admission.Configuration // what it says
	// SchedulerConfig is the path of a KubeSchedulerConfiguration; without one
	// there is the default profile.
	SchedulerConfig string
	scheduling      schedulerconfig.Configuration // what it says
	Audit           AuditConfig
	// TracingConfig is the path of a TracingConfiguration; without one there are
	// no spans.
	TracingConfig string

	// EncryptionConfig is the path of an EncryptionConfiguration; without one,
	// Secrets are encrypted with a generated key.
	EncryptionConfig string

	// Etcd that others run, for several servers.
	Etcd EtcdConfig
	// asked are the networks that were said, and not by default; agreed: they are
	// those of all servers.
	asked  map[string]string
	agreed bool

	// Join: where an agent without a server of its own finds the cluster.
	JoinServer string // https://host:port
	JoinToken  string // knarr1.<CA hash>.<id>.<secret>; only needed the first time

	// RuntimeEndpoint is "builtin" (the runtime in this process, by default),
	// "containerd" (our own instance of it), or another's CRI socket.
	RuntimeEndpoint string
	before          *Instance // at the last start; nil: there was none
	// RuntimeHandlers of the built-in runtime, as NAME=PATH.
	RuntimeHandlers []string
	handlers        []supervisor.Handler // what they say
	// Registries that need more than their name; not for another's runtime.
	Registries registry.Hosts
	// ImagesDir holds OCI archives that are loaded at start.
	ImagesDir string

	// plane is set for a control plane without a machine of its own (plane.go).
	plane *planeConfig

	Log *slog.Logger
	// Progress is told in a few words what start-up does; may be nil.
	Progress func(string)
}

// Complete sets defaults and reports the first thing that cannot work. What was
// chosen at an earlier start with the same data directory stays chosen.
func (c *Config) Complete() error {
	if c.DataDir == "" {
		c.DataDir = "/var/lib/knarr"
	}
	if !filepath.IsAbs(c.DataDir) {
		return fmt.Errorf("data directory %q is not an absolute path", c.DataDir)
	}
	// Mounts, sockets and other processes' arguments are compared with real
	// paths: a link in between would hide them.
	c.DataDir = RealPath(c.DataDir)
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if err := c.inherit(); err != nil {
		return err
	}
	if err := c.completePorts(); err != nil {
		return err
	}
	if err := c.completeNode(); err != nil {
		return err
	}
	if err := c.completeHandlers(); err != nil {
		return err
	}
	if !c.Server {
		return c.checkJoin()
	}
	for _, san := range c.TLSSANs {
		if net.ParseIP(san) == nil && len(validation.IsDNS1123Subdomain(strings.TrimPrefix(san, "*."))) > 0 {
			return fmt.Errorf("--tls-san %q is neither an address nor a DNS name", san)
		}
	}
	defaultTo(&c.MaxRequestsInFlight, 400)
	defaultTo(&c.MaxMutatingRequestsInFlight, 200)
	if c.MaxRequestsInFlight < 0 || c.MaxMutatingRequestsInFlight < 0 {
		return errors.New("--max-requests-inflight and --max-mutating-requests-inflight cannot be negative")
	}
	if err := c.Etcd.complete(); err != nil {
		return err
	}
	if c.Etcd.external() {
		c.asked = map[string]string{}
		for key, value := range c.networks() {
			c.asked[key] = *value
		}
	}
	if err := c.completeNetworks(); err != nil {
		return err
	}
	if c.AdmissionConfig != "" {
		read, err := admission.ReadConfiguration(c.AdmissionConfig)
		if err != nil {
			return fmt.Errorf("--admission-control-config-file: %w", err)
		}
		c.admission = *read
	}
	if c.SchedulerConfig != "" {
		read, err := schedulerconfig.Read(c.SchedulerConfig)
		if err != nil {
			return fmt.Errorf("--scheduler-config: %w", err)
		}
		c.scheduling = *read
	}
	if err := c.Audit.complete(); err != nil {
		return err
	}
	if err := c.completeTracing(); err != nil {
		return err
	}
	return c.Access.complete(c.ClusterDomain)
}

// completeHandlers follows completeNode, which says what the runtime is.
func (c *Config) completeHandlers() (err error) {
	if len(c.RuntimeHandlers) > 0 && c.RuntimeEndpoint != runtimeBuiltin {
		return errors.New("--runtime-handler is for the built-in runtime (--container-runtime-endpoint builtin): others have handlers in a configuration of theirs")
	}
	if c.handlers, err = supervisor.ParseHandlers(c.RuntimeHandlers); err != nil {
		return fmt.Errorf("--runtime-handler: %w", err)
	}
	return nil
}

// inherit takes what is not said from the last start.
func (c *Config) inherit() error {
	in, _, err := ReadInstance(c.DataDir)
	if errors.Is(err, ErrNotInstalled) {
		return nil
	}
	if err != nil {
		return err
	}
	const remedy = "; remove that with `knarr uninstall`, or choose another place with --data-dir"
	switch {
	case c.Server && !in.Server:
		return fmt.Errorf("%s belongs to an agent of %s%s", c.DataDir, in.APIURL, remedy)
	case in.Server && !c.Server:
		return fmt.Errorf("%s belongs to a server%s", c.DataDir, remedy)
	case in.Agent && !c.Agent:
		return fmt.Errorf("%s belongs to a server that is a node too: start it with `knarr up`%s", c.DataDir, remedy)
	}
	for _, n := range []struct{ flag, was, is string }{
		{"--cluster-cidr", in.ClusterCIDR, c.ClusterCIDR}, {"--service-cidr", in.ServiceCIDR, c.ServiceCIDR},
		{"--cluster-dns", in.ClusterDNS, c.ClusterDNS}, {"--cluster-domain", in.ClusterDomain, c.ClusterDomain},
	} {
		if c.Server && n.is != "" && n.was != "" && n.is != n.was {
			return fmt.Errorf("%s is %s in this cluster and cannot be changed to %s: leave the flag away, or begin anew after `knarr uninstall`", n.flag, n.was, n.is)
		}
	}
	c.before = in
	defaultTo(&c.RuntimeEndpoint, in.RuntimeEndpoint)
	defaultTo(&c.NodeName, in.NodeName)
	defaultTo(&c.APIPort, in.APIPort)
	defaultTo(&c.KubeletPort, in.KubeletPort)
	defaultTo(&c.MaxPods, in.MaxPods)
	defaultTo(&c.NodeCIDRMaskSize, in.NodeCIDRMaskSize)
	if !c.Server {
		defaultTo(&c.JoinServer, in.APIURL)
		return nil
	}
	if err := c.inheritEtcd(in); err != nil {
		return err
	}
	defaultTo(&c.ClusterCIDR, in.ClusterCIDR)
	defaultTo(&c.ServiceCIDR, in.ServiceCIDR)
	defaultTo(&c.ClusterDNS, in.ClusterDNS)
	defaultTo(&c.ClusterDomain, in.ClusterDomain)
	return nil
}

func (c *Config) completePorts() error {
	defaultTo(&c.APIPort, 6443)
	defaultTo(&c.KubeletPort, 10250)
	for _, p := range []struct {
		flag string
		port int
	}{{"--api-port", c.APIPort}, {"--kubelet-port", c.KubeletPort}} {
		if p.port < 1 || p.port > 65535 {
			return fmt.Errorf("%s %d is not a port: give one from 1 to 65535", p.flag, p.port)
		}
	}
	if c.Server && c.Agent && c.APIPort == c.KubeletPort {
		return fmt.Errorf("--api-port and --kubelet-port are both %d: give two", c.APIPort)
	}
	return nil
}

// maxPods bounds what a node is asked to run.
const maxPods = 4096

// completeNode settles the node's name and address, and checks where it pulls
// images from.
func (c *Config) completeNode() error {
	defaultTo(&c.RuntimeEndpoint, runtimeBuiltin)
	defaultTo(&c.MaxPods, 110)
	if c.MaxPods < 1 || c.MaxPods > maxPods {
		return fmt.Errorf("--max-pods %d: give a number from 1 to %d", c.MaxPods, maxPods)
	}
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("cannot read the host name; give one with --node-name: %w", err)
		}
		c.NodeName = strings.ToLower(host)
	}
	if msgs := validation.IsDNS1123Subdomain(c.NodeName); len(msgs) > 0 {
		return fmt.Errorf("node name %q cannot be used; give another with --node-name: %s", c.NodeName, strings.Join(msgs, "; "))
	}
	if c.NodeIP == "" {
		ip, err := hostAddress()
		if err != nil {
			return err
		}
		c.NodeIP = ip
	}
	ip, err := netip.ParseAddr(c.NodeIP)
	if err != nil || !ip.Is4() || ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("node address %q is none that others can reach: give an IPv4 address of this machine with --node-ip", c.NodeIP)
	}
	return c.Registries.Check()
}

// checkJoin: an agent has to know where to.
func (c *Config) checkJoin() error {
	c.JoinServer = strings.TrimSuffix(c.JoinServer, "/")
	u, err := url.Parse(c.JoinServer)
	if c.JoinServer == "" || err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Path != "" {
		return fmt.Errorf("server %q is not of the form https://HOST:6443: give the server's address with --server", c.JoinServer)
	}
	return nil
}

func (c *Config) completeNetworks() error {
	defaultTo(&c.ClusterCIDR, "10.244.0.0/16")
	defaultTo(&c.ServiceCIDR, "10.96.0.0/16")
	defaultTo(&c.ClusterDomain, "cluster.local")
	if msgs := validation.IsDNS1123Subdomain(c.ClusterDomain); len(msgs) > 0 {
		return fmt.Errorf("--cluster-domain %q is not a DNS name in lower case", c.ClusterDomain)
	}
	services, err := netip.ParsePrefix(c.ServiceCIDR)
	if err != nil || !services.Addr().Is4() || services.Bits() > 24 || services.Bits() < 12 {
		return fmt.Errorf("service CIDR %q is not an IPv4 prefix of 12 to 24 bits", c.ServiceCIDR)
	}
	defaultTo(&c.NodeCIDRMaskSize, 24)
	pods, err := netip.ParsePrefix(c.ClusterCIDR)
	if err != nil || !pods.Addr().Is4() || pods.Bits() > c.NodeCIDRMaskSize {
		return fmt.Errorf("cluster CIDR %q is not an IPv4 prefix of at most %d bits", c.ClusterCIDR, c.NodeCIDRMaskSize)
	}
	if n := c.NodeCIDRMaskSize; n > 30 || n-pods.Bits() > 16 {
		return fmt.Errorf("--node-cidr-mask-size %d: give one up to 30, and at most 16 more than the bits of --cluster-cidr %s", n, pods)
	}
	if room := 1<<(32-c.NodeCIDRMaskSize) - 3; c.Agent && c.MaxPods > room {
		return fmt.Errorf("a node has addresses for %d pods: --max-pods %d needs a smaller --node-cidr-mask-size than %d", room, c.MaxPods, c.NodeCIDRMaskSize)
	}
	for _, p := range []netip.Prefix{services, pods} {
		if p != p.Masked() {
			return fmt.Errorf("%s has bits beyond its prefix: is %s meant?", p, p.Masked())
		}
	}
	if pods.Overlaps(services) {
		return fmt.Errorf("cluster CIDR %s and service CIDR %s overlap; choose another with --cluster-cidr or --service-cidr", c.ClusterCIDR, c.ServiceCIDR)
	}
	node := netip.MustParseAddr(c.NodeIP)
	if pods.Contains(node) || services.Contains(node) {
		return fmt.Errorf("node address %s lies in the cluster's own ranges %s and %s; choose others with --cluster-cidr and --service-cidr", node, c.ClusterCIDR, c.ServiceCIDR)
	}
	if c.ClusterDNS == "" {
		c.ClusterDNS = nthAddress(services, 10).String()
	}
	dns, err := netip.ParseAddr(c.ClusterDNS)
	if err != nil || !services.Contains(dns) {
		return fmt.Errorf("cluster DNS address %q does not lie in the service CIDR %s: choose one there, or leave --cluster-dns away", c.ClusterDNS, c.ServiceCIDR)
	}
	if dns == services.Addr() || c.ClusterDNS == c.ServiceIP() {
		return fmt.Errorf("cluster DNS address %s is taken by the API server's service: choose another, or leave --cluster-dns away", dns)
	}
	return nil
}

// ServiceIP is the address of the kubernetes service, the first of the range.
func (c *Config) ServiceIP() string {
	return nthAddress(netip.MustParsePrefix(c.ServiceCIDR), 1).String()
}

func nthAddress(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// RealPath resolves symbolic links as far as the path exists.
func RealPath(path string) string {
	path = filepath.Clean(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(RealPath(parent), filepath.Base(path))
}

func defaultTo[T comparable](s *T, v T) {
	var none T
	if *s == none {
		*s = v
	}
}

// RunDir holds sockets and the pid file. Socket paths are limited to 108
// bytes, so it is short whatever the data directory is.
func (c *Config) RunDir() string {
	if c.plane != nil {
		return c.Dir("run")
	}
	if c.DataDir == "/var/lib/knarr" {
		return "/run/knarr"
	}
	sum := sha256.Sum256([]byte(c.DataDir))
	return "/run/knarr-" + hex.EncodeToString(sum[:4])
}

// Dir below the data directory.
func (c *Config) Dir(elem ...string) string {
	return filepath.Join(append([]string{c.DataDir}, elem...)...)
}

// Kubeconfig is where a server writes the administrator's kubeconfig.
func (c *Config) Kubeconfig() string { return c.Dir("kubeconfig") }

// APIURL is the address that clients on this machine use.
func (c *Config) APIURL() string {
	if c.plane != nil {
		return "https://" + c.plane.listener.Addr().String()
	}
	return "https://" + net.JoinHostPort(c.NodeIP, fmt.Sprint(c.APIPort))
}

// hostAddress is the address that this machine would send from: no packet is
// sent, the kernel only looks up the route to a documentation address.
func hostAddress() (string, error) {
	conn, err := net.Dial("udp4", "203.0.113.1:9")
	if err == nil {
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("cannot find this machine's address; give it with --node-ip: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", fmt.Errorf("this machine has no IPv4 address besides loopback; give one with --node-ip")
}

package spec

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of resolv.conf (resolv.conf(5), glibc 2.26 and later): servers beyond
// the third are not asked, searches are bounded as upstream bounds them.
const (
	maxServers = 3
	maxSearch  = 32
	maxChars   = 2048
)

// Resolv is the content of a resolv.conf.
type Resolv struct {
	Servers, Search, Options []string
}

// ParseResolv reads the node's resolv.conf.
func ParseResolv(text string) Resolv {
	var r Resolv
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.Servers = append(r.Servers, fields[1])
		case "search":
			r.Search = fields[1:]
		case "options":
			r.Options = append(r.Options, fields[1:]...)
		}
	}
	return r
}

// DNS of a pod.
func DNS(pod *corev1.Pod, clusterDNS, domain string, host Resolv) *runtimeapi.DNSConfig {
	var r Resolv
	policy := pod.Spec.DNSPolicy
	cluster := policy == corev1.DNSClusterFirstWithHostNet || (policy == corev1.DNSClusterFirst || policy == "") && !pod.Spec.HostNetwork
	switch {
	case policy == corev1.DNSNone:
	case cluster && clusterDNS != "":
		r.Servers = []string{clusterDNS}
		r.Search = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		for _, s := range host.Search {
			if !slices.Contains(r.Search, s) {
				r.Search = append(r.Search, s)
			}
		}
		r.Options = []string{"ndots:5"}
	default:
		r = Resolv{slices.Clone(host.Servers), slices.Clone(host.Search), slices.Clone(host.Options)}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.Servers = merge(r.Servers, c.Nameservers)
		r.Search = merge(r.Search, c.Searches)
		for _, o := range c.Options {
			r.Options = option(r.Options, o)
		}
	}
	r.Servers = r.Servers[:min(len(r.Servers), maxServers)]
	r.Search = r.Search[:min(len(r.Search), maxSearch)]
	for len(strings.Join(r.Search, " ")) > maxChars {
		r.Search = r.Search[:len(r.Search)-1]
	}
	return &runtimeapi.DNSConfig{Servers: r.Servers, Searches: r.Search, Options: r.Options}
}

func merge(list, more []string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// option sets name[:value]; a later one replaces an earlier one of that name.
func option(list []string, o corev1.PodDNSConfigOption) []string {
	text := o.Name
	if o.Value != nil && *o.Value != "" {
		text += ":" + *o.Value
	}
	list = slices.DeleteFunc(slices.Clone(list), func(s string) bool {
		name, _, _ := strings.Cut(s, ":")
		return name == o.Name
	})
	return append(list, text)
}

// Hostname of a pod, and its full name in the cluster's domain if it has one.
func Hostname(pod *corev1.Pod, node, domain string) (host, full string) {
	if pod.Spec.HostNetwork {
		return node, ""
	}
	if o := pod.Spec.HostnameOverride; o != nil { // it stands alone: no name in the cluster's domain
		return label(*o), ""
	}
	host = pod.Name
	if pod.Spec.Hostname != "" {
		host = pod.Spec.Hostname
	}
	host = label(host)
	if pod.Spec.Subdomain != "" {
		full = fmt.Sprintf("%s.%s.%s.svc.%s", host, pod.Spec.Subdomain, pod.Namespace, domain)
	}
	return host, full
}

// label cuts a name to what a DNS label takes; sethostname(2) takes one more.
func label(host string) string {
	if len(host) > 63 {
		return strings.TrimRight(host[:63], "-.")
	}
	return host
}

// maxUTS is the longest host name that the kernel takes (sethostname(2)).
const maxUTS = 64

// UTSName is what the host name of a pod with a network of its own is set to.
func UTSName(pod *corev1.Pod, domain string) (string, error) {
	host, full := Hostname(pod, "", domain)
	if !isTrue(pod.Spec.SetHostnameAsFQDN) || full == "" {
		return host, nil
	}
	if len(full) > maxUTS {
		return "", fmt.Errorf("Failed to construct FQDN from Pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", full, maxUTS, len(full)) //nolint:staticcheck // upstream's words
	}
	return full, nil
}

// Hosts is the pod's /etc/hosts. For pods on the node's network it is the
// node's own with the aliases.
func Hosts(pod *corev1.Pod, ips []string, domain, nodeHosts string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.WriteString(nodeHosts)
		if nodeHosts != "" && !strings.HasSuffix(nodeHosts, "\n") {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
		b.WriteString("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		host, full := Hostname(pod, "", domain)
		for _, ip := range ips {
			if full != "" {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, full, host)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			if net.ParseIP(a.IP) != nil {
				fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
			}
		}
	}
	return b.String()
}

// LogDir of a pod below the log directory; the name is what log collectors of
// the field parse.
func LogDir(root string, pod *corev1.Pod) string {
	return filepath.Join(root, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// SandboxSecurity of a pod; users is its user namespace, if it has one of its own.
func SandboxSecurity(pod *corev1.Pod, users *runtimeapi.UserNamespace) *runtimeapi.LinuxSandboxSecurityContext {
	s := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(pod, "", users), SupplementalGroups: groups(pod), SupplementalGroupsPolicy: groupsPolicy(pod),
		// The sandbox's own process needs nothing that the default forbids.
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		if sc.RunAsUser != nil && !pod.Spec.HostNetwork {
			s.RunAsUser = &runtimeapi.Int64Value{Value: *sc.RunAsUser}
		}
		if sc.RunAsGroup != nil && sc.RunAsUser != nil && !pod.Spec.HostNetwork {
			s.RunAsGroup = &runtimeapi.Int64Value{Value: *sc.RunAsGroup}
		}
		s.SelinuxOptions = selinux(sc.SELinuxOptions)
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			s.Privileged = s.Privileged || Privileged(&list[i])
		}
	}
	return s
}

// Ports that the runtime's network maps from the node.
func Ports(pod *corev1.Pod) []*runtimeapi.PortMapping {
	if pod.Spec.HostNetwork {
		return nil
	}
	var out []*runtimeapi.PortMapping
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			m := &runtimeapi.PortMapping{ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP}
			switch p.Protocol {
			case corev1.ProtocolUDP:
				m.Protocol = runtimeapi.Protocol_UDP
			case corev1.ProtocolSCTP:
				m.Protocol = runtimeapi.Protocol_SCTP
			}
			out = append(out, m)
		}
	}
	for i := range pod.Spec.InitContainers {
		// Only sidecars: nobody else takes an init container's port into account.
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

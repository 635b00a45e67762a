package validate

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What the C library's resolver takes, and what it is worth carrying.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
	maxHostname    = 64 // that sethostname(2) takes
)

// PodSpec judges the spec of a pod, or of a template if isPod is false.
func PodSpec(spec *corev1.PodSpec, p *field.Path, isPod bool) field.ErrorList {
	s := &podScope{errors: &errors{}, spec: spec, isPod: isPod}
	s.podSpec(p)
	return s.list
}

func (s *podScope) podSpec(p *field.Path) {
	spec := s.spec
	if spec.TerminationGracePeriodSeconds == nil {
		s.required(p.Child("terminationGracePeriodSeconds"))
	} else {
		s.notNegative(p.Child("terminationGracePeriodSeconds"), *spec.TerminationGracePeriodSeconds)
	}
	s.volumeList(p.Child("volumes"))
	s.resourceClaims(p.Child("resourceClaims"))
	s.containers(p.Child("containers"))
	s.initContainers(p.Child("initContainers"))
	s.ephemeralContainers(p.Child("ephemeralContainers"))
	s.podResources(p.Child("resources"))
	in(s.errors, p.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	in(s.errors, p.Child("dnsPolicy"), spec.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	s.dnsConfig(p.Child("dnsConfig"))
	s.podSecurity(p.Child("securityContext"))
	s.hostNamespaces(p)
	s.placement(p)
	s.identity(p)
	for i, g := range spec.ReadinessGates {
		s.qualifiedName(p.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType))
	}
	if d := spec.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		s.invalid(p.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	if spec.Overhead != nil { // of its runtime class, which admission sees to
		s.containerResources(p.Child("overhead"), &corev1.ResourceRequirements{Limits: spec.Overhead})
	}
	s.unsupported(p)
}

// placement is what the scheduler reads.
func (s *podScope) placement(p *field.Path) {
	spec := s.spec
	s.labels(p.Child("nodeSelector"), spec.NodeSelector)
	s.affinity(p.Child("affinity"), spec.Affinity)
	s.tolerations(p.Child("tolerations"), spec.Tolerations)
	s.spread(p.Child("topologySpreadConstraints"), spec.TopologySpreadConstraints)
	s.schedulingGates(p.Child("schedulingGates"), spec.SchedulingGates)
	if spec.NodeName != "" {
		s.msgs(p.Child("nodeName"), spec.NodeName, subdomain(spec.NodeName, false))
	}
	if spec.PriorityClassName != "" {
		s.msgs(p.Child("priorityClassName"), spec.PriorityClassName, subdomain(spec.PriorityClassName, false))
	}
	if spec.PreemptionPolicy != nil {
		in(s.errors, p.Child("preemptionPolicy"), *spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	if spec.RuntimeClassName != nil {
		s.msgs(p.Child("runtimeClassName"), *spec.RuntimeClassName, subdomain(*spec.RuntimeClassName, false))
	}
	if spec.OS != nil {
		in(s.errors, p.Child("os", "name"), spec.OS.Name, corev1.Linux, corev1.Windows)
	}
}

// identity is what the pod is called and acts as.
func (s *podScope) identity(p *field.Path) {
	spec := s.spec
	if spec.ServiceAccountName != "" {
		s.msgs(p.Child("serviceAccountName"), spec.ServiceAccountName, subdomain(spec.ServiceAccountName, false))
	}
	if spec.Hostname != "" {
		s.dnsLabel(p.Child("hostname"), spec.Hostname)
	}
	if spec.Subdomain != "" {
		s.dnsLabel(p.Child("subdomain"), spec.Subdomain)
	}
	if h := spec.HostnameOverride; h != nil {
		at := p.Child("hostnameOverride")
		if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
			s.forbid(at, "may not be specified when setHostnameAsFQDN is true")
		}
		if spec.HostNetwork {
			s.forbid(at, "may not be specified when hostNetwork is true")
		}
		if len(*h) > maxHostname {
			s.add(field.TooLong(at, "", maxHostname))
		}
		s.msgs(at, *h, validation.IsDNS1123Subdomain(*h))
	}
	for i, a := range spec.HostAliases {
		at := p.Child("hostAliases").Index(i)
		s.ip(at.Child("ip"), a.IP)
		for j, h := range a.Hostnames {
			s.dnsSubdomain(at.Child("hostnames").Index(j), h)
		}
	}
}

func (s *podScope) dnsConfig(p *field.Path) {
	c := s.spec.DNSConfig
	if s.spec.DNSPolicy == corev1.DNSNone {
		switch {
		case c == nil:
			s.add(field.Required(p, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone)))
			return
		case len(c.Nameservers) == 0:
			s.add(field.Required(p.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
			return
		}
	}
	if c == nil {
		return
	}
	if len(c.Nameservers) > maxNameservers {
		s.invalid(p.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers))
	}
	for i, ns := range c.Nameservers {
		s.ip(p.Child("nameservers").Index(i), ns)
	}
	at := p.Child("searches")
	if len(c.Searches) > maxSearches {
		s.invalid(at, c.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchChars {
		s.invalid(at, c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars))
	}
	for i, search := range c.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			s.msgs(at.Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			s.add(field.Required(p.Child("options").Index(i), "must not be empty"))
		}
	}
}

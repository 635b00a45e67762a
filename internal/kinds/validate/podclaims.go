package validate

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// resourceClaims are the pod's claims to devices. Each names one, or a template
// of which one is made.
func (s *podScope) resourceClaims(p *field.Path) {
	seen := map[string]bool{}
	for i := range s.spec.ResourceClaims {
		c, at := &s.spec.ResourceClaims[i], p.Index(i)
		switch name := at.Child("name"); {
		case c.Name == "":
			s.required(name)
		case unique(s.errors, seen, name, c.Name, c.Name):
			s.dnsLabel(name, c.Name)
		}
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			s.invalid(at, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			s.invalid(at, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if c.ResourceClaimName != nil {
			s.msgs(at.Child("resourceClaimName"), *c.ResourceClaimName, subdomain(*c.ResourceClaimName, false))
		}
		if c.ResourceClaimTemplateName != nil {
			s.msgs(at.Child("resourceClaimTemplateName"), *c.ResourceClaimTemplateName, subdomain(*c.ResourceClaimTemplateName, false))
		}
	}
}

// usedClaims are those of the pod's that a container uses, each as a whole or
// one request of it.
func (s *podScope) usedClaims(p *field.Path, list []corev1.ResourceClaim) {
	if len(list) == 0 {
		return
	}
	names, seen := sets.New[string](), map[string]bool{}
	for i := range s.spec.ResourceClaims {
		names.Insert(s.spec.ResourceClaims[i].Name)
	}
	for i, c := range list {
		at, key := p.Index(i), c.Name
		if c.Name == "" {
			s.required(at)
			continue
		}
		if c.Request != "" {
			s.dnsLabel(at.Child("request"), c.Request)
			key += "/" + c.Request
		}
		unique(s.errors, seen, at, key, key)
		if !names.Has(c.Name) {
			missing := field.NotFound(at, c.Name)
			missing.Detail = "must be one of the names in pod.spec.resourceClaims"
			if len(names) == 0 {
				missing.Detail += " which is empty"
			} else {
				missing.Detail += ": " + strings.Join(sets.List(names), ", ")
			}
			s.add(missing)
		}
	}
}

// claimStatuses say which claims were made for a pod.
func (s *podScope) claimStatuses(p *field.Path, list []corev1.PodResourceClaimStatus) {
	seen := map[string]bool{}
	for i := range list {
		c, at := &list[i], p.Index(i).Child("name")
		if !slices.ContainsFunc(s.spec.ResourceClaims, func(have corev1.PodResourceClaim) bool { return have.Name == c.Name }) {
			s.invalid(at, c.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		unique(s.errors, seen, at, c.Name, c.Name)
		if c.ResourceClaimName != nil {
			s.msgs(at, *c.ResourceClaimName, subdomain(*c.ResourceClaimName, false))
		}
	}
}

// extendedClaimStatus says which claim was made for a pod's extended resources,
// and which container gets what of it.
func (s *podScope) extendedClaimStatus(p *field.Path, st *corev1.PodExtendedResourceClaimStatus) {
	if st == nil {
		return
	}
	s.msgs(p.Child("resourceClaimName"), st.ResourceClaimName, subdomain(st.ResourceClaimName, false))
	seen := map[corev1.ContainerExtendedResourceRequest]bool{}
	for i, m := range st.RequestMappings {
		at := p.Child("requestMappings").Index(i)
		all := slices.Concat(s.spec.InitContainers, s.spec.Containers)
		switch c := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == m.ContainerName }); {
		case c < 0:
			s.invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in `spec.initContainers` or `spec.containers`")
		default:
			if _, asks := all[c].Resources.Requests[corev1.ResourceName(m.ResourceName)]; !asks {
				s.invalid(at.Child("resourceName"), m.ResourceName, "must be one of the resources that the container requests")
			}
		}
		s.dnsLabel(at.Child("requestName"), m.RequestName)
		unique(s.errors, seen, at, m, m)
	}
}

package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/internal/kinds"
)

// perClass stands between a storage class and what is limited of it.
const perClass = ".storageclass.storage.k8s.io/"

// service counts the node ports that it will have, not those that it has: they
// are given out after admission.
func service(s *corev1.Service) corev1.ResourceList {
	ports, balancers := 0, 0
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(s.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		ports, balancers = len(s.Spec.Ports), 1
		if a := s.Spec.AllocateLoadBalancerNodePorts; a != nil && !*a {
			ports = 0
			for _, p := range s.Spec.Ports {
				if p.NodePort != 0 {
					ports++
				}
			}
		}
	}
	return corev1.ResourceList{
		countName(kinds.Service): count(1), corev1.ResourceServices: count(1),
		corev1.ResourceServicesNodePorts: count(ports), corev1.ResourceServicesLoadBalancers: count(balancers),
	}
}

func volumeResource(name corev1.ResourceName) bool {
	if _, of, ok := strings.Cut(string(name), perClass); ok {
		name = corev1.ResourceName(of)
	}
	return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
}

// volumeClaim counts what is asked for, or what has been allocated if that is
// more, in whole bytes.
func volumeClaim(c *corev1.PersistentVolumeClaim) corev1.ResourceList {
	out := corev1.ResourceList{countName(kinds.PersistentVolumeClaim): count(1), corev1.ResourcePersistentVolumeClaims: count(1)}
	class, _ := kinds.ClaimClass(c)
	if class != "" {
		out[corev1.ResourceName(class+perClass)+corev1.ResourcePersistentVolumeClaims] = count(1)
	}
	size, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return out
	}
	if has, ok := c.Status.AllocatedResources[corev1.ResourceStorage]; ok && has.Cmp(size) > 0 {
		size = has
	}
	size = wholeBytes(size)
	out[corev1.ResourceRequestsStorage] = size
	if class != "" {
		out[corev1.ResourceName(class+perClass)+corev1.ResourceRequestsStorage] = size
	}
	return out
}

func wholeBytes(q resource.Quantity) resource.Quantity {
	q = q.DeepCopy()
	q.RoundUp(0)
	return q
}

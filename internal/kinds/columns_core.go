package kinds

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var (
	configMapColumns = []Column{
		nameColumn,
		cell("Data", "string", "Number of keys.", func(c *corev1.ConfigMap) any { return int64(len(c.Data) + len(c.BinaryData)) }),
		ageColumn,
	}
	secretColumns = []Column{
		nameColumn,
		cell("Type", "string", "What the secret is for.", func(s *corev1.Secret) any { return string(s.Type) }),
		cell("Data", "string", "Number of keys.", func(s *corev1.Secret) any { return int64(len(s.Data)) }),
		ageColumn,
	}
	serviceAccountColumns = []Column{
		nameColumn,
		cell("Secrets", "string", "Number of secrets that pods may use.", func(sa *corev1.ServiceAccount) any { return int64(len(sa.Secrets)) }),
		ageColumn,
	}
	namespaceColumns = []Column{
		nameColumn,
		cell("Status", "string", "Whether the namespace is active or ending.", func(ns *corev1.Namespace) any { return string(ns.Status.Phase) }),
		ageColumn,
	}
	limitRangeColumns    = plainColumns
	resourceQuotaColumns = []Column{
		nameColumn,
		cell("Request", "string", "Requests that are used, of those allowed.", func(q *corev1.ResourceQuota) any { return quotaUse(q, false) }),
		cell("Limit", "string", "Limits that are used, of those allowed.", func(q *corev1.ResourceQuota) any { return quotaUse(q, true) }),
		ageColumn,
	}
	replicationControllerColumns = columns([]Column{
		nameColumn,
		cell("Desired", "integer", "Number of pods wanted.", func(rc *corev1.ReplicationController) any { return number(rc.Spec.Replicas) }),
		cell("Current", "integer", "Number of pods there are.", func(rc *corev1.ReplicationController) any { return int64(rc.Status.Replicas) }),
		cell("Ready", "integer", "Number of pods that are ready.", func(rc *corev1.ReplicationController) any { return int64(rc.Status.ReadyReplicas) }),
		ageColumn,
	}, containerColumns(func(rc *corev1.ReplicationController) *corev1.PodSpec {
		if rc.Spec.Template == nil {
			return &corev1.PodSpec{}
		}
		return &rc.Spec.Template.Spec
	}), []Column{
		wide(cell("Selector", "string", "Labels of the pods.", func(rc *corev1.ReplicationController) any { return labels.FormatLabels(rc.Spec.Selector) })),
	})
)

func number(n *int32) int64 {
	if n == nil {
		return 0
	}
	return int64(*n)
}

func quotaUse(q *corev1.ResourceQuota, limits bool) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
		if strings.Contains(string(name), "limits") != limits {
			continue
		}
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		parts = append(parts, fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
	}
	return strings.Join(parts, ", ")
}

var serviceColumns = []Column{
	nameColumn,
	cell("Type", "string", "How the service is reached.", func(s *corev1.Service) any { return string(s.Spec.Type) }),
	cell("Cluster-IP", "string", "Address inside of the cluster.", func(s *corev1.Service) any {
		if len(s.Spec.ClusterIPs) > 0 {
			return s.Spec.ClusterIPs[0]
		}
		return none
	}),
	cell("External-IP", "string", "Addresses outside of the cluster.", func(s *corev1.Service) any { return externalIP(s) }),
	cell("Port(s)", "string", "Ports that the service offers.", func(s *corev1.Service) any {
		ports := make([]string, len(s.Spec.Ports))
		for i, p := range s.Spec.Ports {
			if p.NodePort > 0 {
				ports[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
			} else {
				ports[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
			}
		}
		return orNone(strings.Join(ports, ","))
	}),
	ageColumn,
	wide(cell("Selector", "string", "Labels of the pods behind the service.", func(s *corev1.Service) any { return labels.FormatLabels(s.Spec.Selector) })),
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeLoadBalancer:
		all := map[string]bool{}
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				all[in.IP] = true
			} else if in.Hostname != "" {
				all[in.Hostname] = true
			}
		}
		list := append(slices.Sorted(maps.Keys(all)), s.Spec.ExternalIPs...)
		if len(list) == 0 {
			return "<pending>"
		}
		return strings.Join(list, ",")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return unknown
}

var endpointsColumns = []Column{
	nameColumn,
	cell("Endpoints", "string", "Addresses and ports of the pods.", func(e *corev1.Endpoints) any {
		var list []string
		for i := range e.Subsets {
			s := &e.Subsets[i]
			if len(s.Ports) == 0 {
				for j := range s.Addresses {
					list = append(list, s.Addresses[j].IP)
				}
			}
			for _, port := range s.Ports {
				for j := range s.Addresses {
					list = append(list, net.JoinHostPort(s.Addresses[j].IP, strconv.Itoa(int(port.Port))))
				}
			}
		}
		return few(list, none)
	}),
	ageColumn,
}

var endpointSliceColumns = []Column{
	nameColumn,
	cell("AddressType", "string", "What the addresses are.", func(s *discoveryv1.EndpointSlice) any { return string(s.AddressType) }),
	cell("Ports", "string", "Ports of every endpoint.", func(s *discoveryv1.EndpointSlice) any {
		list := make([]string, len(s.Ports))
		for i, p := range s.Ports {
			switch {
			case p.Port != nil:
				list[i] = strconv.Itoa(int(*p.Port))
			case p.Name != nil:
				list[i] = *p.Name
			default:
				list[i] = "*"
			}
		}
		return few(list, unset)
	}),
	cell("Endpoints", "string", "Addresses of the endpoints.", func(s *discoveryv1.EndpointSlice) any {
		var list []string
		for i := range s.Endpoints {
			list = append(list, s.Endpoints[i].Addresses...)
		}
		return few(list, unset)
	}),
	ageColumn,
}

const (
	rolePrefix = "node-role.kubernetes.io/"
	roleLabel  = "kubernetes.io/role"
)

var nodeColumns = []Column{
	nameColumn,
	cell("Status", "string", "The status of the node", func(n *corev1.Node) any {
		status := "Unknown"
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				status = "NotReady"
				if c.Status == corev1.ConditionTrue {
					status = "Ready"
				}
			}
		}
		if n.Spec.Unschedulable {
			status += ",SchedulingDisabled"
		}
		return status
	}),
	cell("Roles", "string", "The roles of the node", func(n *corev1.Node) any {
		roles := map[string]bool{}
		for k, v := range n.Labels {
			if role, ok := strings.CutPrefix(k, rolePrefix); ok && role != "" {
				roles[role] = true
			} else if k == roleLabel && v != "" {
				roles[v] = true
			}
		}
		return orNone(strings.Join(slices.Sorted(maps.Keys(roles)), ","))
	}),
	ageColumn,
	cell("Version", "string", "Version of the kubelet.", func(n *corev1.Node) any { return n.Status.NodeInfo.KubeletVersion }),
	wide(cell("Internal-IP", "string", "Address inside of the cluster.", func(n *corev1.Node) any { return nodeAddress(n, corev1.NodeInternalIP) })),
	wide(cell("External-IP", "string", "Address outside of the cluster.", func(n *corev1.Node) any { return nodeAddress(n, corev1.NodeExternalIP) })),
	wide(cell("OS-Image", "string", "Operating system.", func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.OSImage) })),
	wide(cell("Kernel-Version", "string", "Kernel.", func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.KernelVersion) })),
	wide(cell("Container-Runtime", "string", "Container runtime.", func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion) })),
}

func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return none
}

func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

var eventColumns = eventLines(func(e *corev1.Event) *corev1.Event { return e })

var eventsEventColumns = eventLines(coreEvent)

// eventLines are the columns of both forms of an event.
func eventLines[T Object](core func(T) *corev1.Event) []Column {
	one := func(name, describe string, value func(*corev1.Event) any) Column {
		return cell(name, "string", describe, func(o T) any { return value(core(o)) })
	}
	return []Column{
		timed("Last Seen", "string", "When it happened last.", func(o T, now time.Time) any {
			e := core(o)
			switch {
			case e.Series != nil:
				return since(e.Series.LastObservedTime.Time, now)
			case !e.LastTimestamp.IsZero():
				return since(e.LastTimestamp.Time, now)
			}
			return since(firstSeen(e), now)
		}),
		one("Type", "Normal or Warning.", func(e *corev1.Event) any { return e.Type }),
		one("Reason", "Short word for what happened.", func(e *corev1.Event) any { return e.Reason }),
		one("Object", "What it is about.", func(e *corev1.Event) any {
			kind := strings.ToLower(e.InvolvedObject.Kind)
			if e.InvolvedObject.Name == "" {
				return kind
			}
			return kind + "/" + e.InvolvedObject.Name
		}),
		wide(one("Subobject", "Part of the object that it is about.", func(e *corev1.Event) any { return e.InvolvedObject.FieldPath })),
		wide(one("Source", "Who reports it.", func(e *corev1.Event) any {
			component, instance := e.Source.Component, e.Source.Host
			if component == "" {
				component = e.ReportingController
			}
			if instance == "" {
				instance = e.ReportingInstance
			}
			if instance == "" {
				return component
			}
			return component + ", " + instance
		})),
		one("Message", "What happened.", func(e *corev1.Event) any { return strings.TrimSpace(e.Message) }),
		wide(timed("First Seen", "string", "When it happened first.", func(o T, now time.Time) any { return since(firstSeen(core(o)), now) })),
		wide(one("Count", "How often it happened.", func(e *corev1.Event) any {
			switch {
			case e.Series != nil:
				return int64(e.Series.Count)
			case e.Count == 0:
				return int64(1)
			}
			return int64(e.Count)
		})),
		wide(nameColumn),
	}
}

func firstSeen(e *corev1.Event) time.Time {
	if e.FirstTimestamp.IsZero() {
		return e.EventTime.Time
	}
	return e.FirstTimestamp.Time
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	short := map[corev1.PersistentVolumeAccessMode]string{
		corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP",
	}
	var list []string
	for _, m := range []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod} {
		if slices.Contains(modes, m) {
			list = append(list, short[m])
		}
	}
	return strings.Join(list, ",")
}

// phase of what may be ending.
func phase[P ~string](o metav1.Object, p P) string {
	if o.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	return string(p)
}

func orUnset[T ~string](p *T) string {
	if p == nil {
		return unset
	}
	return string(*p)
}

func storage(list corev1.ResourceList) string {
	q, ok := list[corev1.ResourceStorage]
	if !ok {
		return ""
	}
	return q.String()
}

var (
	persistentVolumeColumns = []Column{
		nameColumn,
		cell("Capacity", "string", "Size of the volume.", func(v *corev1.PersistentVolume) any { return storage(v.Spec.Capacity) }),
		cell("Access Modes", "string", "Ways in which it can be mounted.", func(v *corev1.PersistentVolume) any { return accessModes(v.Spec.AccessModes) }),
		cell("Reclaim Policy", "string", "What happens to it when it is released.", func(v *corev1.PersistentVolume) any { return string(v.Spec.PersistentVolumeReclaimPolicy) }),
		cell("Status", "string", "Whether it is bound.", func(v *corev1.PersistentVolume) any { return phase(v, v.Status.Phase) }),
		cell("Claim", "string", "Claim that it is bound to.", func(v *corev1.PersistentVolume) any {
			if ref := v.Spec.ClaimRef; ref != nil {
				return ref.Namespace + "/" + ref.Name
			}
			return ""
		}),
		cell("StorageClass", "string", "Class that it is of.", func(v *corev1.PersistentVolume) any {
			if class, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				return class
			}
			return v.Spec.StorageClassName
		}),
		cell("VolumeAttributesClass", "string", "Class of its attributes.", func(v *corev1.PersistentVolume) any { return orUnset(v.Spec.VolumeAttributesClassName) }),
		cell("Reason", "string", "Why it has failed.", func(v *corev1.PersistentVolume) any { return v.Status.Reason }),
		ageColumn,
		wide(cell("VolumeMode", "string", "File system or block device.", func(v *corev1.PersistentVolume) any { return orUnset(v.Spec.VolumeMode) })),
	}
	persistentVolumeClaimColumns = []Column{
		nameColumn,
		cell("Status", "string", "Whether it is bound.", func(c *corev1.PersistentVolumeClaim) any { return phase(c, c.Status.Phase) }),
		cell("Volume", "string", "Volume that it is bound to.", func(c *corev1.PersistentVolumeClaim) any { return c.Spec.VolumeName }),
		cell("Capacity", "string", "Size of that volume.", func(c *corev1.PersistentVolumeClaim) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return storage(c.Status.Capacity)
		}),
		cell("Access Modes", "string", "Ways in which it can be mounted.", func(c *corev1.PersistentVolumeClaim) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return accessModes(c.Status.AccessModes)
		}),
		cell("StorageClass", "string", "Class that it asks for.", func(c *corev1.PersistentVolumeClaim) any {
			class, _ := ClaimClass(c)
			return class
		}),
		cell("VolumeAttributesClass", "string", "Class of its attributes.", func(c *corev1.PersistentVolumeClaim) any { return orUnset(c.Spec.VolumeAttributesClassName) }),
		ageColumn,
		wide(cell("VolumeMode", "string", "File system or block device.", func(c *corev1.PersistentVolumeClaim) any { return orUnset(c.Spec.VolumeMode) })),
	}
)

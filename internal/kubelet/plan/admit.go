package plan

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/node/util/sysctl"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/internal/kinds/validate"
)

// safeSysctls change nothing outside of a pod; all others need to be allowed
// by the node's configuration (upstream's list).
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// Room is what a node has to give.
type Room struct {
	Node        *corev1.Node // labels and taints; nil if it is not known yet
	Allocatable corev1.ResourceList
	Pods        []*corev1.Pod // that have their place already
	// Pressure the node is under: memory, disk.
	Pressure []corev1.NodeConditionType
	// Sysctls that are allowed besides the safe ones; one that ends in "*"
	// allows all that begin so.
	Sysctls []string
}

// Admit judges a pod that the scheduler sent: the node may have changed since,
// or somebody may have written spec.nodeName without asking. nil: welcome.
func Admit(pod *corev1.Pod, r Room) *Rejection {
	if rej := underPressure(pod, r.Pressure); rej != nil {
		return rej
	}
	if why := forbiddenSysctl(pod, r.Sysctls); why != "" {
		return &Rejection{"SysctlForbidden", why}
	}
	if r.Node != nil {
		if rej := onNode(pod, r.Node); rej != nil {
			return rej
		}
	}
	taken := ports{}
	for _, other := range r.Pods {
		taken.add(other)
	}
	if taken.clash(pod) {
		return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports")
	}
	return fits(pod, r)
}

func predicate(name, message string) *Rejection {
	return &Rejection{name, fmt.Sprintf("Predicate %s failed: %s", name, message)}
}

func onNode(pod *corev1.Pod, node *corev1.Node) *Rejection {
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		// NoSchedule is the scheduler's alone: who names a node means it.
		if taint.Effect == corev1.TaintEffectNoExecute && !tolerates(pod, taint) {
			return predicate("TaintToleration", fmt.Sprintf("node(s) had untolerated taint(s) %s", taint.Key))
		}
	}
	return nil
}

func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	return slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
		return t.ToleratesTaint(klog.Logger{}, taint, false)
	})
}

// fits compares requests with what is left, resource by resource.
func fits(pod *corev1.Pod, r Room) *Rejection {
	used := corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(int64(len(r.Pods)), resource.DecimalSI)}
	for _, other := range r.Pods {
		for name, q := range resourcehelper.PodRequests(other, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	asks := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	asks[corev1.ResourcePods] = *resource.NewQuantity(1, resource.DecimalSI)
	for _, name := range slices.Sorted(maps.Keys(asks)) {
		q := asks[name]
		if q.IsZero() {
			continue
		}
		capacity, has := used[name], r.Allocatable[name]
		if _, here := r.Allocatable[name]; !here && !validate.NativeResource(name) {
			continue // of the cluster, not of a node: the scheduler's affair
		}
		if has.IsZero() && byDevices(pod, name) {
			continue
		}
		total := capacity.DeepCopy()
		total.Add(q)
		if total.Cmp(has) > 0 {
			return &Rejection{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %s, used: %s, capacity: %s",
				name, amount(name, q), amount(name, capacity), amount(name, has))}
		}
	}
	return nil
}

// byDevices: the pod gets the resource by a claim to devices.
func byDevices(pod *corev1.Pod, name corev1.ResourceName) bool {
	e := pod.Status.ExtendedResourceClaimStatus
	return e != nil && slices.ContainsFunc(e.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool { return m.ResourceName == string(name) })
}

// amount in the unit that upstream prints: thousandths for cpu.
func amount(name corev1.ResourceName, q resource.Quantity) string {
	if name == corev1.ResourceCPU {
		return fmt.Sprint(q.MilliValue())
	}
	return fmt.Sprint(q.Value())
}

// ports that pods take on the node itself.
type ports map[portKey]bool

type portKey struct {
	protocol corev1.Protocol
	port     int32
	ip       string
}

func eachPort(pod *corev1.Pod, fn func(portKey)) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort == 0 || len(pod.Spec.InitContainers) > 0 && &list[0] == &pod.Spec.InitContainers[0] && !sidecar(&list[i]) {
					continue
				}
				k := portKey{p.Protocol, p.HostPort, p.HostIP}
				if k.protocol == "" {
					k.protocol = corev1.ProtocolTCP
				}
				if k.ip == "" {
					k.ip = "0.0.0.0"
				}
				fn(k)
			}
		}
	}
}

func (t ports) add(pod *corev1.Pod) { eachPort(pod, func(k portKey) { t[k] = true }) }

// clash: the same port on the same address, or on all of them.
func (t ports) clash(pod *corev1.Pod) bool {
	hit := false
	eachPort(pod, func(want portKey) {
		for have := range t {
			if have.protocol == want.protocol && have.port == want.port && (have.ip == want.ip || have.ip == "0.0.0.0" || want.ip == "0.0.0.0") {
				hit = true
			}
		}
	})
	return hit
}

// forbiddenSysctl says which setting of the pod would reach beyond it or is
// not known to be safe.
func forbiddenSysctl(pod *corev1.Pod, allowed []string) string {
	if pod.Spec.SecurityContext == nil {
		return ""
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		space, name, _ := sysctl.GetNamespace(s.Name)
		switch {
		case space == sysctl.NetNamespace && pod.Spec.HostNetwork:
			return fmt.Sprintf("forbidden sysctl: %q not allowed with host net enabled", s.Name)
		case space == sysctl.IPCNamespace && pod.Spec.HostIPC:
			return fmt.Sprintf("forbidden sysctl: %q not allowed with host ipc enabled", s.Name)
		case slices.Contains(safeSysctls, name):
		case space == sysctl.UnknownNamespace || !slices.ContainsFunc(allowed, func(a string) bool { return covers(a, name) }):
			return fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)
		}
	}
	return ""
}

func covers(pattern, name string) bool {
	pattern = sysctl.NormalizeName(pattern)
	if n := len(pattern); n > 0 && pattern[n-1] == '*' {
		return len(name) >= n-1 && name[:n-1] == pattern[:n-1]
	}
	return pattern == name
}

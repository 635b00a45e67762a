package warnings

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// oldAnnotations do nothing, and say what to use instead.
var oldAnnotations = map[string]string{
	"scheduler.alpha.kubernetes.io/critical-pod":  `non-functional in v1.16+; use the "priorityClassName" field instead`,
	"security.alpha.kubernetes.io/sysctls":        `non-functional in v1.11+; use the "sysctls" field instead`,
	"security.alpha.kubernetes.io/unsafe-sysctls": `non-functional in v1.11+; use the "sysctls" field instead`,
}

// whole bytes are all that there are.
func (l *list) whole(name corev1.ResourceName, amounts corev1.ResourceList, p *field.Path, at string, more ...string) {
	if q := amounts[name]; q.MilliValue()%1000 != 0 {
		l.addf("%s: fractional byte value %q is invalid, must be an integer", p.Child(at, more...).Key(string(name)), q.String())
	}
}

func (l *list) containers(spec *corev1.PodSpec, p *field.Path) {
	ports := map[string][]takenPort{}
	each := func(name string, containers []corev1.Container) {
		for i := range containers {
			c, at := &containers[i], p.Child(name).Index(i)
			for _, bytes := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
				l.whole(bytes, c.Resources.Limits, at, "resources", "limits")
				l.whole(bytes, c.Resources.Requests, at, "resources", "requests")
			}
			l.environment(at.Child("env"), c.Env)
			l.ports(at.Child("ports"), c.Ports, ports)
		}
	}
	each("initContainers", spec.InitContainers)
	each("containers", spec.Containers)
}

// environment: a variable that is defined again, other than out of its old value.
func (l *list) environment(p *field.Path, env []corev1.EnvVar) {
	seen := make(sets.Set[string], len(env))
	for i, v := range env {
		old := "$(" + v.Name + ")"
		if extends := v.ValueFrom == nil && v.Value != old && strings.Contains(v.Value, old); seen.Has(v.Name) && !extends {
			l.addf("%s: hides previous definition of %q, which may be dropped when using apply", p.Index(i), v.Name)
		}
		seen.Insert(v.Name)
	}
}

type takenPort struct {
	at *field.Path
	corev1.ContainerPort
}

// ports that are declared more than once in a pod; taken is what came before.
func (l *list) ports(p *field.Path, ports []corev1.ContainerPort, taken map[string][]takenPort) {
	for i, port := range ports {
		at := p.Index(i)
		if port.HostIP != "" && port.HostPort == 0 {
			l.addf("%s: hostIP set without hostPort: %+v", at, port)
		}
		key := fmt.Sprintf("%d/%s", port.ContainerPort, port.Protocol)
		for _, other := range taken[key] {
			sameIP, samePort := port.HostIP == other.HostIP, port.HostPort == other.HostPort
			switch {
			case sameIP && samePort:
				l.addf("%s: duplicate port definition with %s", at, other.at)
			case port.HostPort == 0 || other.HostPort == 0:
				l.addf("%s: overlapping port definition with %s", at, other.at)
			case samePort && (port.HostIP == "") != (other.HostIP == ""):
				l.addf("%s: dangerously ambiguous port definition with %s", at, other.at)
			}
		}
		taken[key] = append(taken[key], takenPort{at, port})
	}
}

// lists of which an entry has no use: it is there already, or names nothing.
func (l *list) lists(spec *corev1.PodSpec, p *field.Path) {
	ips, names := sets.Set[string]{}, sets.Set[string]{}
	for i, a := range spec.HostAliases {
		if ips.Has(a.IP) {
			l.addf("%s: duplicate ip %q", p.Child("hostAliases").Index(i).Child("ip"), a.IP)
		}
		ips.Insert(a.IP)
	}
	for i, s := range spec.ImagePullSecrets {
		at := p.Child("imagePullSecrets").Index(i).Child("name")
		if names.Has(s.Name) {
			l.addf("%s: duplicate name %q", at, s.Name)
		}
		if s.Name == "" {
			l.addf("%s: invalid empty name %q", at, s.Name)
		}
		names.Insert(s.Name)
	}
}

// placement: labels of nodes as they were called once, and selectors that find
// no pod.
func (l *list) placement(spec *corev1.PodSpec, p *field.Path) {
	for key := range spec.NodeSelector {
		if why, ok := oldNodeLabels[key]; ok {
			l.addf("%s: %s", p.Child("nodeSelector").Key(key), why)
		}
	}
	for i := range spec.TopologySpreadConstraints {
		c, at := &spec.TopologySpreadConstraints[i], p.Child("topologySpreadConstraints").Index(i)
		if why, ok := oldNodeLabels[c.TopologyKey]; ok {
			l.addf("%s: %s is %s", at.Child("topologyKey"), c.TopologyKey, why)
		}
		if c.LabelSelector == nil {
			l.findsNone(at)
		}
	}
	if spec.Affinity == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if a := spec.Affinity.NodeAffinity; a != nil {
		at := p.Child("affinity", "nodeAffinity")
		if a.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			for i, t := range a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				l.oldLabels(at.Child(required, "nodeSelectorTerms").Index(i), t)
			}
		}
		for i, t := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			l.oldLabels(at.Child(preferred).Index(i).Child("preference"), t.Preference)
		}
	}
	pods := func(at *field.Path, must []corev1.PodAffinityTerm, may []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			if must[i].LabelSelector == nil {
				l.findsNone(at.Child(required).Index(i))
			}
		}
		for i := range may {
			if may[i].PodAffinityTerm.LabelSelector == nil {
				l.findsNone(at.Child(preferred).Index(i).Child("podAffinityTerm"))
			}
		}
	}
	if a := spec.Affinity.PodAffinity; a != nil {
		pods(p.Child("affinity", "podAffinity"), a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := spec.Affinity.PodAntiAffinity; a != nil {
		pods(p.Child("affinity", "podAntiAffinity"), a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (l *list) findsNone(p *field.Path) {
	l.addf("%s: a null labelSelector results in matching no pod", p.Child("labelSelector"))
}

func (l *list) oldLabels(p *field.Path, t corev1.NodeSelectorTerm) {
	for i, r := range t.MatchExpressions {
		l.oldLabel(p.Child("matchExpressions").Index(i), r.Key)
	}
}

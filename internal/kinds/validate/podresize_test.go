package validate

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// sized is a pod of class Burstable with a container, an init container and a
// sidecar.
func sized() *corev1.Pod {
	p := goodPod()
	first(p).Resources = corev1.ResourceRequirements{Requests: quantities("cpu", "1", "memory", "1Gi", "ephemeral-storage", "1Gi"), Limits: quantities("cpu", "2")}
	init := corev1.Container{Name: "init", Image: "i", Resources: corev1.ResourceRequirements{Requests: quantities("cpu", "1")}}
	side := corev1.Container{Name: "side", Image: "i", RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways)}
	p.Spec.InitContainers = []corev1.Container{init, side}
	return p
}

func TestPodResizeUpdate(t *testing.T) {
	set := func(name corev1.ResourceName, to string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { first(p).Resources.Requests[name] = quantities(string(name), to)[name] }
	}
	updates(t, sized, fillPod, PodResizeUpdate, []podChange{
		{"nothing", nil, nil},
		{"more cpu", set("cpu", "2"), nil},
		{"less memory", set("memory", "1Mi"), nil},
		{"a first limit of memory", func(p *corev1.Pod) { first(p).Resources.Limits["memory"] = quantities("memory", "1Gi")["memory"] }, nil},
		{"request above the limit", set("cpu", "3"), []string{"spec.containers[0].resources.requests Invalid: must be less than or equal to cpu limit of 2"}},
		{"storage", set("ephemeral-storage", "2Gi"), []string{"spec Forbidden: only cpu and memory resources are mutable"}},
		{"no memory", func(p *corev1.Pod) { delete(first(p).Resources.Requests, "memory") }, []string{"spec.containers[0].resources.requests Forbidden: resource requests cannot be removed"}},
		{"no limit", func(p *corev1.Pod) { first(p).Resources.Limits = nil }, []string{"spec.containers[0].resources.limits Forbidden: resource limits cannot be removed"}},
		{"init container", func(p *corev1.Pod) { p.Spec.InitContainers[0].Resources.Requests = quantities("cpu", "2") }, nil},
		{"sidecar", func(p *corev1.Pod) { p.Spec.InitContainers[1].Resources.Requests = quantities("cpu", "2") }, nil},
		{"storage of a sidecar", func(p *corev1.Pod) {
			p.Spec.InitContainers[1].Resources.Requests = quantities("ephemeral-storage", "2")
		},
			[]string{"spec.initContainers[1] Forbidden: only cpu and memory resources for init or sidecar containers are mutable"}},
		{"policy", func(p *corev1.Pod) {
			first(p).ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.NotRequired}}
		}, []string{"spec Forbidden: only cpu and memory resources are mutable"}},
		{"one more", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b", Image: "i", ImagePullPolicy: "Always", TerminationMessagePolicy: "File"})
		},
			[]string{"spec.containers Forbidden: containers may not be added or removed on resize"}},
		{"renamed", func(p *corev1.Pod) { first(p).Name = "b" }, []string{"spec.containers[0].name Forbidden: containers may not be renamed or reordered on resize"}},
		{"init renamed", func(p *corev1.Pod) { p.Spec.InitContainers[0].Name = "b" },
			[]string{"spec.initContainers[0].name Forbidden: initContainers may not be renamed or reordered on resize"}},
		{"of the whole pod", func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("cpu", "9")} }, nil},
		{"of the whole pod, too little", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("cpu", "500m")}
		},
			[]string{"spec.resources.requests[cpu] Invalid: must be greater than or equal to aggregate container requests of 1"}},
		{"of the whole pod, storage", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("ephemeral-storage", "9Gi")}
		},
			[]string{"spec Invalid: Pod QOS Class may not change as a result of resizing", `spec.resources.requests[ephemeral-storage] NotSupported: supported values: "cpu", "hugepages-", "memory"`}},
	})
}

func TestPodResizeUpdateClass(t *testing.T) {
	updates(t, func() *corev1.Pod {
		p := goodPod()
		first(p).Resources.Limits = quantities("cpu", "1", "memory", "1Gi")
		p.Status.QOSClass = corev1.PodQOSGuaranteed
		return p
	}, fillPod, PodResizeUpdate, []podChange{
		{"both", func(p *corev1.Pod) {
			first(p).Resources.Requests, first(p).Resources.Limits = quantities("cpu", "2", "memory", "1Gi"), quantities("cpu", "2", "memory", "1Gi")
		}, nil},
		{"requests only", func(p *corev1.Pod) { first(p).Resources.Requests = quantities("cpu", "500m", "memory", "1Gi") },
			[]string{"spec Invalid: Pod QOS Class may not change as a result of resizing"}},
	})
	updates(t, goodPod, fillPod, PodResizeUpdate, []podChange{
		{"best effort", func(p *corev1.Pod) { first(p).Resources.Requests = quantities("cpu", "1") },
			[]string{"spec Invalid: Pod QOS Class may not change as a result of resizing"}},
	})
}

func TestPodResizeUpdateOfOthers(t *testing.T) {
	change := func(old func(*corev1.Pod)) func() *corev1.Pod {
		return func() *corev1.Pod {
			p := sized()
			old(p)
			return p
		}
	}
	more := func(p *corev1.Pod) { first(p).Resources.Requests["cpu"] = quantities("cpu", "2")["cpu"] }
	updates(t, change(func(p *corev1.Pod) {
		p.Annotations, p.Spec.NodeName = map[string]string{corev1.MirrorPodAnnotationKey: "x"}, "n"
	}), fillPod, PodResizeUpdate, []podChange{{"static", more, []string{"[] Forbidden: static pods cannot be resized"}}})
	updates(t, change(func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }), fillPod, PodResizeUpdate,
		[]podChange{{"windows", more, []string{"[] Forbidden: windows pods cannot be resized"}}})
	runs := func(r *corev1.ResourceRequirements) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, Resources: r}}
		}
	}
	updates(t, change(runs(nil)), fillPod, PodResizeUpdate, []podChange{{"old node", more, []string{"spec Forbidden: Pod running on node without support for resize"}}})
	updates(t, change(runs(&corev1.ResourceRequirements{})), fillPod, PodResizeUpdate, []podChange{{"node", more, nil}})
	updates(t, change(func(p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("cpu", "4"), Limits: quantities("cpu", "4")}
	}), fillPod, PodResizeUpdate, []podChange{
		{"the pod's too", func(p *corev1.Pod) { p.Spec.Resources.Requests = quantities("cpu", "3") }, nil},
		{"the pod's removed", func(p *corev1.Pod) { p.Spec.Resources = nil }, []string{"spec.resources Forbidden: pod-level resources cannot be removed"}},
		{"the pod's limit removed", func(p *corev1.Pod) { p.Spec.Resources.Limits = nil }, []string{"spec.resources.limits Forbidden: pod-level resource limits cannot be removed"}},
		{"a container above the pod", func(p *corev1.Pod) { first(p).Resources.Limits["cpu"] = quantities("cpu", "5")["cpu"] },
			[]string{"spec.resources.containers[0][cpu].limits Invalid: must be less than or equal to pod limits of 4"}},
	})
}

func TestPodRestartRules(t *testing.T) {
	rules := func(policy corev1.ContainerRestartPolicy, list ...corev1.ContainerRestartRule) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			if policy != "" {
				first(p).RestartPolicy = &policy
			}
			first(p).RestartPolicyRules = list
		}
	}
	codes := &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{42}}
	good := corev1.ContainerRestartRule{Action: "Restart", ExitCodes: codes}
	const at = "spec.containers[0].restartPolicyRules"
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"good", rules("Never", good), nil},
		{"without a policy", rules("", good), []string{"spec.containers[0].restartPolicy Required: must specify restartPolicy when restart rules are used"}},
		{"policy", rules("Maybe"), []string{"spec.containers[0].restartPolicy NotSupported"}},
		{"action", rules("Never", corev1.ContainerRestartRule{Action: "Pray", ExitCodes: codes}), []string{at + "[0].action NotSupported"}},
		{"no codes", rules("Never", corev1.ContainerRestartRule{Action: "Restart"}), []string{at + "[0].exitCodes Required: must be specified"}},
		{"operator", rules("Never", corev1.ContainerRestartRule{Action: "Restart", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{}}), []string{at + "[0].exitCodes.operator Required"}},
		{"init", func(p *corev1.Pod) {
			c := corev1.Container{Name: "i", Image: "i", ImagePullPolicy: "Always", TerminationMessagePolicy: "File"}
			c.RestartPolicy, c.RestartPolicyRules = ptr(corev1.ContainerRestartPolicyAlways), []corev1.ContainerRestartRule{good}
			p.Spec.InitContainers = []corev1.Container{c}
		}, []string{"spec.initContainers[0].restartPolicyRules Forbidden: restartPolicyRules are not allowed for init containers with restart policy Always"}},
		{"resize policy of an init container", func(p *corev1.Pod) {
			c := corev1.Container{Name: "i", Image: "i", ImagePullPolicy: "Always", TerminationMessagePolicy: "File"}
			c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.RestartContainer}}
			p.Spec.InitContainers = []corev1.Container{c}
		}, []string{"spec.initContainers[0].resizePolicy[0].restartPolicy Invalid: must not be set to 'RestartContainer' for non-sidecar initContainers"}},
	})
}

func TestPodHostnameOverride(t *testing.T) {
	creates(t, goodPod, fillPod, Pod, []podChange{
		{"good", func(p *corev1.Pod) { p.Spec.HostnameOverride = ptr("a.b") }, nil},
		{"with more", func(p *corev1.Pod) {
			p.Spec.HostnameOverride, p.Spec.SetHostnameAsFQDN, p.Spec.HostNetwork = ptr("A"), ptr(true), true
		}, []string{"spec.hostnameOverride Forbidden: may not be specified when setHostnameAsFQDN is true", "spec.hostnameOverride Forbidden: may not be specified when hostNetwork is true", "spec.hostnameOverride Invalid"}},
		{"too long", func(p *corev1.Pod) { p.Spec.HostnameOverride = ptr(strings.Repeat("a", 63) + ".b") }, []string{"spec.hostnameOverride TooLong"}},
	})
}

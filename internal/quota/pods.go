package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	componentresource "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/validate"
)

const (
	requests = corev1.DefaultResourceRequestsPrefix
	limits   = "limits."
)

// compute are the resources that a quota names bare, or with a prefix.
var compute = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}

func podResource(name corev1.ResourceName) bool {
	bare := corev1.ResourceName(strings.TrimPrefix(strings.TrimPrefix(string(name), requests), limits))
	switch {
	case name == corev1.ResourcePods || slices.Contains(compute, bare):
		return true
	case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix), strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix):
		return true
	}
	return extended(name)
}

// extended resources are limited by their requests: they cannot be promised
// twice.
func extended(name corev1.ResourceName) bool {
	s := string(name)
	return strings.HasPrefix(s, requests) && (!validate.NativeResource(name) || strings.HasPrefix(s, corev1.ResourceImplicitExtendedClaimsPerClass))
}

// pod counts as an object as long as it is stored, and with what it asks for
// until it has ended.
func (m Meter) pod(p *corev1.Pod) corev1.ResourceList {
	out := corev1.ResourceList{countName(kinds.Pod): count(1)}
	if !m.runs(p) {
		return out
	}
	o := componentresource.PodResourcesOptions{UseStatusResources: true}
	add(out, asks(componentresource.PodRequests(p, o), componentresource.PodLimits(p, o)))
	return out
}

// runs is false for a pod that has ended, or should have: one that a lost node
// keeps from going must not keep others from coming.
func (m Meter) runs(p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return false
	}
	at, ends := overdue(p)
	return !ends || !m.Now.After(at)
}

// overdue is when a pod that is being deleted stops to count.
func overdue(p *corev1.Pod) (time.Time, bool) {
	if p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil {
		return time.Time{}, false
	}
	return p.DeletionTimestamp.Add(time.Duration(*p.DeletionGracePeriodSeconds) * time.Second), true
}

// asks names requests and limits as quotas do.
func asks(req, lim corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{corev1.ResourcePods: count(1)}
	for _, name := range compute {
		if q, ok := req[name]; ok {
			out[name], out[requests+name] = q, q
		}
		if q, ok := lim[name]; ok {
			out[limits+name] = q
		}
	}
	for name, q := range req {
		switch {
		case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			out[name], out[requests+name] = q, q
		case strings.HasPrefix(string(name), resourcev1.ResourceDeviceClassPrefix),
			!validate.NativeResource(name) && !strings.HasPrefix(string(name), requests) && len(validation.IsQualifiedName(requests+string(name))) == 0:
			out[requests+name] = q
		}
	}
	return out
}

// mustSay are the resources that each container of a pod must ask for if a
// quota limits them. That was a mistake once and is kept for those who rely on
// it; nothing may be added.
var mustSay = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU,
	corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory}

// unsaid says what containers leave out that a quota of these names needs, or
// nothing.
func unsaid(names []corev1.ResourceName, p *corev1.Pod) string {
	if componentresource.IsPodLevelResourcesSet(p) {
		return ""
	}
	missing := map[corev1.ResourceName]sets.Set[string]{}
	for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		said := asks(c.Resources.Requests, c.Resources.Limits)
		for _, name := range names {
			if _, ok := said[name]; ok || !slices.Contains(mustSay, name) {
				continue
			}
			if missing[name] == nil {
				missing[name] = sets.New[string]()
			}
			missing[name].Insert(c.Name)
		}
	}
	var out []string
	for _, name := range sets.List(sets.KeySet(missing)) {
		out = append(out, fmt.Sprintf("%s for: %s", name, strings.Join(sets.List(missing[name]), ",")))
	}
	return strings.Join(out, "; ")
}

package why

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/kinds"
)

// aboutDevices is what the scheduler says when no node has what a claim asks for.
const aboutDevices = "cannot allocate all claims"

// noDevices is why the pod's claims to devices keep it from having a node; nil:
// they do not. said is the scheduler's word; empty: it has said nothing.
func (l *look) noDevices(p *corev1.Pod, said string) *finding {
	for i := range p.Spec.ResourceClaims {
		want := &p.Spec.ResourceClaims[i]
		f := about(kinds.Pod, p, "it waits for its claim %s", want.Name)
		if said != "" {
			f = about(kinds.Pod, p, "%s", said)
		}
		name, _, err := resourceclaim.Name(p, want)
		if err != nil {
			return l.unmade(p, want, f)
		}
		if name == nil {
			continue
		}
		c, gone := get[*resourcev1.ResourceClaim](l, kinds.ResourceClaim, p.Namespace, *name)
		switch {
		case gone:
			return f.because(missing(kinds.ResourceClaim, p.Namespace, *name, "create it, or name another in the pod's spec.resourceClaims"))
		case c != nil && c.DeletionTimestamp != nil:
			return f.behind(kinds.ResourceClaim, c)
		case c != nil && c.Status.Allocation == nil:
			if class := l.noClass(c); class != nil {
				return f.because(about(kinds.ResourceClaim, c, "it asks for devices of a class that is not there").because(class))
			}
		}
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for name := range c.Resources.Requests {
			class, ok := strings.CutPrefix(string(name), resourcev1.ResourceDeviceClassPrefix)
			if !ok || !strings.Contains(said, "Insufficient "+string(name)) {
				continue
			}
			if class := l.classGone(class); class != nil {
				return about(kinds.Pod, p, "%s", said).because(class)
			}
		}
	}
	if strings.Contains(said, aboutDevices) {
		if all, whole := list[*resourcev1.ResourceSlice](l, Want{Kind: kinds.ResourceSlice}); whole && len(all) == 0 {
			return about(kinds.Pod, p, "%s", said).because(on(kinds.ResourceSlice, "", "*", "there is none: no driver offers devices").
				help("install the driver of the devices, or see why it does not run"))
		}
	}
	return nil
}

// unmade: the claim is not made from its template.
func (l *look) unmade(p *corev1.Pod, want *corev1.PodResourceClaim, f *finding) *finding {
	if want.ResourceClaimTemplateName == nil {
		return f
	}
	if _, gone := get[*resourcev1.ResourceClaimTemplate](l, kinds.ResourceClaimTemplate, p.Namespace, *want.ResourceClaimTemplateName); gone {
		return f.because(missing(kinds.ResourceClaimTemplate, p.Namespace, *want.ResourceClaimTemplateName, "create it, or name another in the pod's spec.resourceClaims"))
	}
	if e := l.told(p, "FailedResourceClaimCreation"); e != nil {
		return f.because(about(kinds.Pod, p, "%s", e.Message).since(began(e)))
	}
	return f
}

// noClass is the first class that a claim asks for and that is not there.
func (l *look) noClass(c *resourcev1.ResourceClaim) *finding {
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		var names []string
		if r.Exactly != nil {
			names = append(names, r.Exactly.DeviceClassName)
		}
		for j := range r.FirstAvailable {
			names = append(names, r.FirstAvailable[j].DeviceClassName)
		}
		for _, name := range names {
			if f := l.classGone(name); f != nil {
				return f
			}
		}
	}
	return nil
}

func (l *look) classGone(name string) *finding {
	if _, gone := get[*resourcev1.DeviceClass](l, kinds.DeviceClass, "", name); gone {
		return missing(kinds.DeviceClass, "", name, "install the driver that brings it, or ask for devices of another class")
	}
	return nil
}

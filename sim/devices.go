package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// deviced is what the class, the template, the claims and the pods are called.
	deviced = "dev"
	// devicedResource is what the devices of the class stand for.
	devicedResource corev1.ResourceName = "dev.example.com/dev"
	// onNetwork devices are reached from all nodes; each node has one of its own.
	onNetwork = 5
	// devicePods and sharedClaims of a namespace, at most.
	devicePods, sharedClaims = 4, 2
	// taintRules of the cluster, at most.
	taintRules = 2
)

// deviceObjects are what a driver brings.
func deviceObjects() []kinds.Object {
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: deviced}}
	stands := string(devicedResource)
	class.Spec.ExtendedResourceName = &stands
	out := []kinds.Object{class}
	slice := func(name string, count int, where func(*resourcev1.ResourceSliceSpec)) {
		s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}}
		s.Spec.Driver, s.Spec.Pool = "dev.example.com", resourcev1.ResourcePool{Name: name, ResourceSliceCount: 1}
		for i := range count {
			s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprintf("d%d", i)})
		}
		where(&s.Spec)
		out = append(out, s)
	}
	yes := true
	slice("network", onNetwork, func(s *resourcev1.ResourceSliceSpec) { s.AllNodes = &yes })
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		slice(name, 1, func(s *resourcev1.ResourceSliceSpec) { s.NodeName = &name })
	}
	return out
}

func deviceSpec() resourcev1.ResourceClaimSpec {
	return resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: deviced}}}}}
}

// actOnDevices does one thing to a pod with a claim, or to a claim.
func (u *users) actOnDevices(ns string) (string, error) {
	name := fmt.Sprintf("%s-%d", deviced, u.rng.IntN(devicePods))
	ref := kinds.Ref{Kind: kinds.Pod, Namespace: ns, Name: name}
	switch u.rng.IntN(16) {
	case 0, 1:
		return "delete pod with devices", u.remove(ref, "")
	case 2:
		return "pod with devices ends", u.patch(ref.WithSub("status"), `{"status":{"phase":"Succeeded"}}`)
	case 3:
		return "delete a claim to devices", u.removeAny(kinds.ResourceClaim, ns, "")
	case 4:
		return "delete the template of claims", u.remove(kinds.Ref{Kind: kinds.ResourceClaimTemplate, Namespace: ns, Name: deviced}, "")
	case 5, 6:
		return "create claims to devices", u.claimDevices(ns)
	case 7:
		return "taint a device", u.create(kinds.DeviceTaintRule, u.taintRule())
	case 8:
		return "untaint a device", u.remove(kinds.Ref{Kind: kinds.DeviceTaintRule, Name: fmt.Sprintf("%s-%d", deviced, u.rng.IntN(taintRules))}, "")
	}
	if u.rng.IntN(4) > 0 { // otherwise they may come later
		u.note("create claims", u.claimDevices(ns))
	}
	p := u.pod(ns, "alone")
	p.Name = name
	c, template := corev1.PodResourceClaim{Name: "c"}, deviced
	switch shared := fmt.Sprintf("%s-%d", deviced, u.rng.IntN(sharedClaims)); u.rng.IntN(3) {
	case 0:
		c.ResourceClaimName = &shared
	case 1:
		c.ResourceClaimTemplateName = &template
	default:
		r := &p.Spec.Containers[0].Resources
		for _, list := range []*corev1.ResourceList{&r.Requests, &r.Limits} {
			if *list = maps.Clone(*list); *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[devicedResource] = *resource.NewQuantity(1, resource.DecimalSI)
		}
		return "create pod with an extended resource", u.create(kinds.Pod, p)
	}
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{c}
	return "create pod with devices", u.create(kinds.Pod, p)
}

// wantsDevices reports whether a pod may only have a node with devices, and
// extended whether that is because of an extended resource.
func wantsDevices(p *corev1.Pod) (wants, extended bool) {
	_, extended = p.Spec.Containers[0].Resources.Requests[devicedResource]
	return extended || len(p.Spec.ResourceClaims) > 0, extended
}

// taintRule drives pods out of the first device of a pool, or says whom it would.
func (u *users) taintRule() *resourcev1.DeviceTaintRule {
	r := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", deviced, u.rng.IntN(taintRules))}}
	pool, device := u.pick("network", "n0", "n1"), "d0"
	r.Spec.DeviceSelector = &resourcev1.DeviceTaintSelector{Pool: &pool, Device: &device}
	r.Spec.Taint = resourcev1.DeviceTaint{Key: "k", Effect: resourcev1.DeviceTaintEffect(u.pick("NoExecute", "NoExecute", "None"))}
	return r
}

// claimDevices makes what pods name. What is there is no error.
func (u *users) claimDevices(ns string) error {
	err := u.create(kinds.ResourceClaimTemplate, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: deviced}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: deviceSpec()}})
	for i := range sharedClaims {
		if e := u.create(kinds.ResourceClaim, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s-%d", deviced, i)}, Spec: deviceSpec()}); e != nil {
			err = e
		}
	}
	return err
}

// relieveDevices sees to it that all claims are there.
func (u *users) relieveDevices() {
	for ns := range view.List[*corev1.Namespace](u.tap.Snapshot(), kinds.Namespace, "") {
		u.note("create claims", u.claimDevices(ns.Name))
	}
}

// deviceAudit watches what schedulers and controllers may never do.
type deviceAudit struct {
	holders map[string]types.UID // of devices: the claim that has each
	claims  map[string]*resourcev1.ResourceClaim
	pods    map[types.UID]*corev1.Pod
	granted int
	// extended of the pods got theirs for an extended resource.
	extended int
}

func newDeviceAudit() *deviceAudit {
	return &deviceAudit{holders: map[string]types.UID{}, claims: map[string]*resourcev1.ResourceClaim{}, pods: map[types.UID]*corev1.Pod{}}
}

// observe one commit: no device is had twice, no pod is bound before it has its
// claims, and none loses them while it may run.
func (a *deviceAudit) observe(before, after kinds.Object) error {
	switch old := before.(type) {
	case *resourcev1.ResourceClaim:
		delete(a.claims, old.Namespace+"/"+old.Name)
		now, _ := after.(*resourcev1.ResourceClaim)
		for _, d := range devicesOf(old) {
			delete(a.holders, d)
		}
		if old.Status.Allocation != nil && (now == nil || now.Status.Allocation == nil) {
			for _, r := range old.Status.ReservedFor {
				if p := a.pods[r.UID]; p != nil && p.Spec.NodeName != "" && !finished(p) {
					return fmt.Errorf("claim %s/%s loses its devices, but pod %s may run", old.Namespace, old.Name, p.Name)
				}
			}
		}
	case *corev1.Pod:
		delete(a.pods, old.UID)
	}
	switch now := after.(type) {
	case *resourcev1.ResourceClaim:
		a.claims[now.Namespace+"/"+now.Name] = now
		for _, d := range devicesOf(now) {
			if other := a.holders[d]; other != "" && other != now.UID {
				return fmt.Errorf("claim %s/%s is given device %s, which another one has", now.Namespace, now.Name, d)
			}
			a.holders[d] = now.UID
		}
	case *corev1.Pod:
		if wants, _ := wantsDevices(now); !wants {
			return nil
		}
		a.pods[now.UID] = now
		if old, ok := before.(*corev1.Pod); ok && old.UID == now.UID && old.Spec.NodeName == "" && now.Spec.NodeName != "" {
			return a.bound(now)
		}
	}
	return nil
}

func (a *deviceAudit) bound(p *corev1.Pod) error {
	if _, extended := wantsDevices(p); extended {
		if p.Status.ExtendedResourceClaimStatus == nil {
			return fmt.Errorf("pod %s/%s is bound without devices for its extended resource", p.Namespace, p.Name)
		}
		a.extended++
	}
	for name := range resourceclaim.PodClaims(p) {
		c := a.claims[p.Namespace+"/"+name]
		if c == nil || c.Status.Allocation == nil || !resourceclaim.IsReservedForPod(p, c, false) {
			return fmt.Errorf("pod %s/%s is bound without its claim %s", p.Namespace, p.Name, name)
		}
		a.granted++
	}
	return nil
}

func devicesOf(c *resourcev1.ResourceClaim) (out []string) {
	if c.Status.Allocation != nil {
		for _, r := range c.Status.Allocation.Devices.Results {
			out = append(out, r.Pool+"/"+r.Device)
		}
	}
	return out
}

// tainted are the devices that rules drive pods out of. None does so any more.
func tainted(t truth) (map[string]bool, error) {
	out := map[string]bool{}
	for _, r := range all[*resourcev1.DeviceTaintRule](t, kinds.DeviceTaintRule) {
		c := meta.FindStatusCondition(r.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
		if c == nil || c.ObservedGeneration != r.Generation || c.Status != metav1.ConditionFalse {
			return nil, fmt.Errorf("rule %s says %+v, but nothing is under way", r.Name, c)
		}
		if r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
			out[*r.Spec.DeviceSelector.Pool+"/"+*r.Spec.DeviceSelector.Device] = true
		}
	}
	return out, nil
}

// checkDevices: claims have devices if and only if pods use them, nobody else is
// in the way, no pod stays on a device that drives it out, and no pod waits for a device that is free.
func (w *world) checkDevices(t truth) error {
	pods := map[types.UID]*corev1.Pod{}
	for _, p := range all[*corev1.Pod](t, kinds.Pod) {
		pods[p.UID] = p
	}
	driven, err := tainted(t)
	if err != nil {
		return err
	}
	free := onNetwork
	if driven["network/d0"] {
		free--
	}
	claims := map[string]*resourcev1.ResourceClaim{}
	for _, c := range all[*resourcev1.ResourceClaim](t, kinds.ResourceClaim) {
		claims[c.Namespace+"/"+c.Name] = c
		has := c.Status.Allocation != nil
		// A scheduler that crashes may leave one protected that has nothing.
		if has && !slices.Contains(c.Finalizers, resourcev1.Finalizer) || has != (len(c.Status.ReservedFor) > 0) {
			return fmt.Errorf("claim %s/%s: has devices: %v, finalizers %v, reserved for %v", c.Namespace, c.Name, has, c.Finalizers, c.Status.ReservedFor)
		}
		for _, r := range c.Status.ReservedFor {
			if p := pods[r.UID]; p == nil || finished(p) {
				return fmt.Errorf("claim %s/%s is reserved for %s, which is gone or has ended", c.Namespace, c.Name, r.Name)
			}
		}
		if ref := metav1.GetControllerOf(c); ref != nil && (pods[ref.UID] == nil || finished(pods[ref.UID])) {
			return fmt.Errorf("claim %s/%s was made for %s, which is gone or has ended", c.Namespace, c.Name, ref.Name)
		}
		for _, d := range devicesOf(c) {
			if driven[d] {
				return fmt.Errorf("claim %s/%s has device %s, which drives pods out", c.Namespace, c.Name, d)
			}
			if strings.HasPrefix(d, "network/") {
				free--
			}
		}
	}
	for _, p := range pods {
		wants, open := wantsDevices(p)
		if !wants || finished(p) || p.Spec.NodeName != "" || free == 0 || p.DeletionTimestamp != nil {
			continue
		}
		for name := range resourceclaim.PodClaims(p) {
			c := claims[p.Namespace+"/"+name]
			open = open || c != nil && c.DeletionTimestamp == nil && c.Status.Allocation == nil
		}
		if open {
			for i := range nodes {
				n := fmt.Sprintf("n%d", i)
				if l := w.audit.at(n); l.room(requests(p)) && slices.ContainsFunc(all[*corev1.Node](t, kinds.Node), func(o *corev1.Node) bool { return o.Name == n && !drained(o) }) {
					return fmt.Errorf("pod %s/%s waits, but %d devices are free, and %s has room: %s", p.Namespace, p.Name, free, n, reason(p))
				}
			}
		}
	}
	return nil
}

package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"

	"knarr.dev/knarr/internal/kinds"
)

// A class of devices may stand for an extended resource. A pod that asks for
// that gets devices of the class on nodes that do not have the resource
// themselves, by a claim that is made when the pod is bound (KEP-5004).

// draft is such a claim before it is made. Its UID is not the API's: decisions
// count what it is promised under it.
type draft struct {
	claim     *resourcev1.ResourceClaim
	resources []served
	mappings  []corev1.ContainerExtendedResourceRequest // what of it is whose
}

// served is a resource that devices of a class stand for.
type served struct {
	name  corev1.ResourceName
	class string
	count int64 // that the draft asks for
}

// classFor is the class whose devices stand for a resource; nil: none do. Of
// several with one name the newest counts, and of these the first by name.
func (d *devices) classFor(name corev1.ResourceName) *resourcev1.DeviceClass {
	if d.standsFor == nil {
		d.standsFor = map[corev1.ResourceName]*resourcev1.DeviceClass{}
		for _, class := range d.deviceClasses {
			d.standsFor[corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix+class.Name)] = class
			if class.Spec.ExtendedResourceName == nil {
				continue
			}
			explicit := corev1.ResourceName(*class.Spec.ExtendedResourceName)
			if other := d.standsFor[explicit]; other == nil || cmp.Or(other.CreationTimestamp.Compare(class.CreationTimestamp.Time), cmp.Compare(class.Name, other.Name)) < 0 {
				d.standsFor[explicit] = class
			}
		}
	}
	return d.standsFor[name]
}

// reclass takes in what classes stand for now, which every node's fitness may
// depend on.
func (c *cluster) reclass() {
	c.standsFor = nil
	for _, n := range c.slots {
		if n != nil {
			c.touch(n)
		}
	}
}

// ofClass reports whether devices of a class serve a pod's extended resources.
func (c *cycle) ofClass(class string) bool {
	for name := range c.pod.request.more {
		if is := c.classFor(name); is != nil && is.Name == class {
			return true
		}
	}
	return false
}

// needsDevices reports whether there is something to look up for the pod.
func (c *cycle) needsDevices() bool {
	if !c.rules.grantsDevices {
		return false
	}
	if len(c.pod.obj.Spec.ResourceClaims) > 0 || c.stale() != nil {
		return true
	}
	for name := range c.pod.request.more {
		if c.classFor(name) != nil {
			return true
		}
	}
	return false
}

// delegated: what the pod asks for is not the node's own, but devices stand for it.
func (c *cycle) delegated(n *node, name corev1.ResourceName) bool {
	return n.allocatable.more[name] == 0 && c.rules.grantsDevices && c.classFor(name) != nil
}

// ownerOf is the UID of the pod for whose extended resources a claim was made;
// empty: it is no such claim.
func ownerOf(claim *resourcev1.ResourceClaim) types.UID {
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		return ""
	}
	if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.Kind == kinds.Pod.GVK.Kind {
		return ref.UID
	}
	return ""
}

// stale is a claim that was made for the pod, though it was not bound then. What
// that has may be of no use now, so it has to go first; nil: there is none.
func (c *cycle) stale() *resourcev1.ResourceClaim { return c.staleClaim(c.pod) }

func (d *devices) staleClaim(p *pod) *resourcev1.ResourceClaim {
	if list := d.madeFor[p.obj.UID]; len(list) > 0 {
		return list[0]
	}
	return nil
}

// setMade follows the claims that are made for extended resources. One that has
// what was promised to its draft counts instead of that.
func (d *devices) setMade(o *resourcev1.ResourceClaim, gone bool) {
	pod := ownerOf(o)
	if pod == "" {
		return
	}
	list := slices.DeleteFunc(slices.Clone(d.madeFor[pod]), func(other *resourcev1.ResourceClaim) bool { return other.Name == o.Name })
	if !gone {
		list = append(list, o)
	}
	if len(list) == 0 {
		delete(d.madeFor, pod)
	} else {
		d.madeFor[pod] = list
	}
	uid := draftUID(pod)
	if a, promise := o.Status.Allocation, d.promises[uid]; !gone && a != nil && promise != nil && apiequality.Semantic.DeepEqual(a.Devices, promise.Devices) {
		delete(d.promises, uid)
		d.hold(uid, nil)
	}
}

// draftUID is no UID that the API gives, and another one for each pod.
func draftUID(pod types.UID) types.UID { return "extended-resources/" + pod }

// draftFor is the claim that the pod needs on a node; nil: none, the node has
// all that the pod asks for itself.
func (c *cycle) draftFor(n *node) *draft {
	var names []corev1.ResourceName
	key := ""
	for _, name := range slices.Sorted(maps.Keys(c.pod.request.more)) {
		if c.delegated(n, name) {
			names = append(names, name)
			key += string(name) + " "
		}
	}
	if len(names) == 0 {
		return nil
	}
	d, known := c.podDevices.drafts[key]
	if !known {
		d = c.newDraft(names)
		c.podDevices.drafts[key] = d
	}
	return d
}

func (c *cycle) newDraft(names []corev1.ResourceName) *draft {
	p, yes := c.pod.obj, true
	d := &draft{claim: &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Namespace, GenerateName: p.Name + "-extended-resources-", UID: draftUID(p.UID),
		Annotations:     map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: kinds.Pod.GVK.GroupVersion().String(), Kind: kinds.Pod.GVK.Kind, Name: p.Name, UID: p.UID, Controller: &yes}},
	}}}
	for _, name := range names {
		d.add(p, name, c.classFor(name).Name)
	}
	if len(d.mappings) == 0 {
		return nil // no container asks for it
	}
	slices.SortFunc(d.claim.Spec.Devices.Requests, func(a, b resourcev1.DeviceRequest) int { return cmp.Compare(a.Name, b.Name) })
	return d
}

// add the requests for one resource. Containers that run side by side have
// devices of their own. Init containers come before, one after the other, so
// they share those of the ones after them, and whatever more one of them needs.
func (d *draft) add(p *corev1.Pod, name corev1.ResourceName, class string) {
	all := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	counts := make([]int64, len(all)) // of their own
	var inits []int
	for i := range all {
		q := all[i].Resources.Requests[name]
		if q.IsZero() {
			continue
		}
		always := all[i].RestartPolicy != nil && *all[i].RestartPolicy == corev1.ContainerRestartPolicyAlways
		if i < len(p.Spec.InitContainers) && !always {
			inits = append(inits, i)
			continue
		}
		counts[i] = q.Value()
		d.request(all, i, name, class, counts[i])
		d.give(all, i, name, i)
	}
	// Which of the init containers needs most beyond what comes later.
	most, extra := -1, int64(0)
	for _, i := range inits {
		q := all[i].Resources.Requests[name]
		if missing := q.Value() - sum(counts[i:]); missing > extra {
			most, extra = i, missing
		}
	}
	if most >= 0 {
		d.request(all, most, name, class, extra)
	}
	for _, i := range inits {
		q := all[i].Resources.Requests[name]
		want := q.Value()
		for j := i; j < len(all) && want > 0; j++ {
			if counts[j] > 0 {
				d.give(all, i, name, j)
				want -= counts[j]
			}
		}
		if want > 0 {
			d.give(all, i, name, most)
		}
	}
	d.resources = append(d.resources, served{name, class, sum(counts) + extra})
}

func sum(list []int64) (n int64) {
	for _, v := range list {
		n += v
	}
	return n
}

// request devices for a container, as users find them in the claim.
func (d *draft) request(all []corev1.Container, i int, name corev1.ResourceName, class string, count int64) {
	d.claim.Spec.Devices.Requests = append(d.claim.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: requestName(all, i, name),
		Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}})
}

// give a container what is requested for it, or for another.
func (d *draft) give(all []corev1.Container, i int, name corev1.ResourceName, of int) {
	d.mappings = append(d.mappings, corev1.ContainerExtendedResourceRequest{ContainerName: all[i].Name, ResourceName: string(name), RequestName: requestName(all, of, name)})
}

// requestName is by the places of the container and of the resource in it.
func requestName(all []corev1.Container, i int, name corev1.ResourceName) string {
	at := slices.Index(slices.Sorted(maps.Keys(all[i].Resources.Requests)), name)
	return fmt.Sprintf("container-%d-request-%d", i, at)
}

// inUse implements the type: nothing, if devices do not serve the resource on the
// node, or if it cannot be told which of them do.
func (c *cycle) inUse(n *node, name corev1.ResourceName) (used, of int64) {
	if c.podDevices == nil || !c.delegated(n, name) {
		return 0, 0
	}
	class := c.classFor(name)
	for _, s := range c.offer() {
		for i := range s.Spec.Devices {
			d := &s.Spec.Devices[i]
			ok, err := reaches(n.obj, &s.Spec, d)
			if ok && err == nil {
				ok, err = c.podDevices.isOf(class, s.Spec.Driver, d)
			}
			switch {
			case err != nil:
				return 0, 0
			case !ok:
				continue
			}
			of++
			if structured.IsDeviceAllocated(structured.MakeDeviceID(s.Spec.Driver, s.Spec.Pool.Name, d.Name), &c.taken) {
				used++
			}
		}
	}
	return used, of
}

// reaches reports whether a node reaches a device of a slice.
func reaches(n *corev1.Node, s *resourcev1.ResourceSliceSpec, d *resourcev1.Device) (bool, error) {
	name, all, selector := s.NodeName, s.AllNodes, s.NodeSelector
	if s.PerDeviceNodeSelection != nil && *s.PerDeviceNodeSelection {
		name, all, selector = d.NodeName, d.AllNodes, d.NodeSelector
	}
	only := ""
	if name != nil {
		only = *name
	}
	return structured.NodeMatches(deviceFeatures, n, only, all != nil && *all, selector)
}

// isOf reports whether a device is of a class.
func (p *podDevices) isOf(class *resourcev1.DeviceClass, driver string, d *resourcev1.Device) (bool, error) {
	for _, s := range class.Spec.Selectors {
		if s.CEL == nil {
			continue // validation refuses it
		}
		compiled := p.selectors.GetOrCompile(s.CEL.Expression)
		if compiled.Error != nil {
			return false, compiled.Error
		}
		ok, _, err := compiled.DeviceMatches(context.Background(), cel.Device{Driver: driver, AllowMultipleAllocations: d.AllowMultipleAllocations, Attributes: d.Attributes, Capacity: d.Capacity})
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// implicit is the class that a resource names by itself.
func implicit(name corev1.ResourceName) (class string, ok bool) {
	return strings.CutPrefix(string(name), resourcev1.ResourceDeviceClassPrefix)
}

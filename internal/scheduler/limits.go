package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// volumeLimits lets a pod go only where the drivers of its volumes are, if they
// ask for that, and can attach as many more.
type volumeLimits struct{}

func (volumeLimits) Name() string { return "NodeVolumeLimits" }

// prepareLimits finds out once for all nodes what the pod's volumes count as.
func (c *cycle) prepareLimits() {
	if c.attachKnown || len(c.pod.claims)+len(c.pod.disks) == 0 {
		return
	}
	c.attachKnown = true
	c.eachAttachable(c.pod, func(a attachable) {
		if !slices.Contains(c.attach, a) {
			c.attach = append(c.attach, a)
		}
	})
}

func (f volumeLimits) Fits(c *cycle, n *node) bool {
	if len(c.pod.claims)+len(c.pod.disks) == 0 {
		return true
	}
	c.prepareLimits()
	return c.missingDriver(n) == "" && c.overLimit(n, nil)
}

// missingDriver is one without which the pod must not go to the node.
func (c *cycle) missingDriver(n *node) string {
	here := c.csiNodes[n.name]
	for _, a := range c.attach {
		d := c.drivers[a.driver]
		if d == nil || d.Spec.PreventPodSchedulingIfMissing == nil || !*d.Spec.PreventPodSchedulingIfMissing || a.inTree && here == nil {
			continue
		}
		if here == nil || driverOn(here, a.driver) == nil {
			return a.driver
		}
	}
	return ""
}

func driverOn(n *storagev1.CSINode, name string) *storagev1.CSINodeDriver {
	for i := range n.Spec.Drivers {
		if n.Spec.Drivers[i].Name == name {
			return &n.Spec.Drivers[i]
		}
	}
	return nil
}

// overLimit calls fn (nil: none) with each driver of which the pod would have
// too many volumes on the node, and how many; ok: there is none.
func (c *cycle) overLimit(n *node, fn func(driver string, many int)) (ok bool) {
	here := c.csiNodes[n.name]
	if here == nil || len(c.attach) == 0 {
		return true
	}
	ok = true
	var there map[attachable]bool // volumes of the pods on the node; nil: not counted yet
	for i := range here.Spec.Drivers {
		d := &here.Spec.Drivers[i]
		if d.Allocatable == nil || d.Allocatable.Count == nil || !slices.ContainsFunc(c.attach, func(a attachable) bool { return a.driver == d.Name }) {
			continue
		}
		if there == nil {
			there = c.attached(n)
		}
		count := 0
		for _, a := range c.attach {
			if a.driver == d.Name && !there[a] {
				count++
			}
		}
		if count == 0 {
			continue // all of them are there already
		}
		for a := range there {
			if a.driver == d.Name {
				count++
			}
		}
		count += c.leftAttached(n, d.Name, there)
		if many := count - int(*d.Allocatable.Count); many > 0 {
			if ok = false; fn != nil {
				fn(d.Name, many)
			}
		}
	}
	return ok
}

// attached is what the volumes of the pods on a node count as.
func (c *cycle) attached(n *node) map[attachable]bool {
	out := map[attachable]bool{}
	for _, p := range n.pods {
		if len(p.claims)+len(p.disks) > 0 {
			c.eachAttachable(p, func(a attachable) { out[a] = true })
		}
	}
	return out
}

// leftAttached counts the volumes that are still attached to a node, though no
// pod there has them.
func (c *cycle) leftAttached(n *node, driver string, there map[attachable]bool) (count int) {
	seen := map[string]bool{}
	for _, va := range c.attachments[n.name] {
		if va.Spec.Attacher != driver || va.Spec.Source.PersistentVolumeName == nil {
			continue
		}
		v := c.volumes[*va.Spec.Source.PersistentVolumeName]
		if v == nil || v.Spec.CSI == nil || seen[v.Spec.CSI.VolumeHandle] {
			continue
		}
		handle := v.Spec.CSI.VolumeHandle
		seen[handle] = true
		if !there[attachable{driver: driver, handle: handle}] && !there[attachable{driver: driver, handle: handle, inTree: true}] {
			count++
		}
	}
	return count
}

func (volumeLimits) Explain(c *cycle, n *node, why []string) ([]string, bool) {
	if driver := c.missingDriver(n); driver != "" {
		return append(why, driver+" CSI driver is not installed on the node"), false
	}
	return append(why, "node(s) exceed max volume count"), false
}

func (volumeLimits) Advise(c *cycle, n *node, out []change) []change {
	if driver := c.missingDriver(n); driver != "" {
		out = append(out, change{kind: driverThere, name: driver})
	}
	c.overLimit(n, func(driver string, many int) {
		out = append(out, change{kind: fewerVolumes, name: driver, missing: int64(many)})
	})
	return out
}

// Helps: the node takes more volumes now, or has fewer; or those of the pod, or
// of pods on nodes, count otherwise.
func (f volumeLimits) Helps(c *cycle, e *event) bool {
	switch e.what {
	case claimChanged:
		return slices.Contains(c.pod.claims, e.name) || c.claimUsers[e.name] > 0
	case volumeChanged:
		return e.volume == nil || e.volume.Spec.ClaimRef != nil && c.claimUsers[e.volume.Spec.ClaimRef.Namespace+"/"+e.volume.Spec.ClaimRef.Name] > 0 || c.minds(e)
	case classChanged:
		return true
	case driverChanged:
		c.prepareLimits()
		return slices.ContainsFunc(c.attach, func(a attachable) bool { return a.driver == e.name })
	}
	return onNode(f, c, e, nodeChanged, podLeft, csiNodeChanged, attachmentGone) || c.preemptable(f, e)
}

// attachable is a volume that takes one of the places that a driver has on a
// node. Of a claim that has no volume yet, claim is true and the claim's name
// its handle.
type attachable struct {
	driver, handle string
	claim          bool
	// inTree: it is of one of the kinds that drivers have taken over. It counts
	// only where drivers are known.
	inTree bool
}

// takenOver are the drivers that care for the volumes of today's in-tree kinds,
// by the names that provisioners had.
var takenOver = map[string]string{
	"kubernetes.io/aws-ebs": "ebs.csi.aws.com", "kubernetes.io/gce-pd": "pd.csi.storage.gke.io", "kubernetes.io/azure-disk": "disk.csi.azure.com",
	"kubernetes.io/cinder": "cinder.csi.openstack.org", "kubernetes.io/portworx-volume": "pxd.portworx.com",
}

// notCounted are in-tree provisioners whose volumes have no limit.
var notCounted = []string{"kubernetes.io/azure-file", "kubernetes.io/vsphere-volume"}

func inTree(provisioner, handle string) attachable {
	return attachable{driver: takenOver[provisioner], handle: handle, inTree: true}
}

// attachableDisk is what a volume counts as that a pod names itself; ok is false
// if it counts as nothing.
func attachableDisk(v *corev1.Volume) (attachable, bool) {
	switch {
	case v.AWSElasticBlockStore != nil:
		return ebs(v.AWSElasticBlockStore.VolumeID), true
	case v.GCEPersistentDisk != nil:
		return inTree("kubernetes.io/gce-pd", "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/"+v.GCEPersistentDisk.PDName), true
	case v.AzureDisk != nil:
		return inTree("kubernetes.io/azure-disk", v.AzureDisk.DataDiskURI), true
	case v.Cinder != nil:
		return inTree("kubernetes.io/cinder", v.Cinder.VolumeID), true
	case v.PortworxVolume != nil:
		return inTree("kubernetes.io/portworx-volume", v.PortworxVolume.VolumeID), true
	}
	return attachable{}, false
}

// ebs: the in-tree form of a volume's ID has a zone before it.
func ebs(id string) attachable {
	return inTree("kubernetes.io/aws-ebs", id[strings.LastIndexByte(id, '/')+1:])
}

func attachableVolume(v *corev1.PersistentVolume) (attachable, bool) {
	switch s := &v.Spec.PersistentVolumeSource; {
	case s.CSI != nil:
		return attachable{driver: s.CSI.Driver, handle: s.CSI.VolumeHandle}, s.CSI.VolumeHandle != ""
	case s.AWSElasticBlockStore != nil:
		return ebs(s.AWSElasticBlockStore.VolumeID), true
	case s.GCEPersistentDisk != nil:
		zone := "UNSPECIFIED"
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone} {
			if z := v.Labels[key]; z != "" {
				zone = z
				break
			}
		}
		return inTree("kubernetes.io/gce-pd", "projects/UNSPECIFIED/zones/"+zone+"/disks/"+s.GCEPersistentDisk.PDName), true
	case s.AzureDisk != nil:
		return inTree("kubernetes.io/azure-disk", s.AzureDisk.DataDiskURI), true
	case s.Cinder != nil:
		return inTree("kubernetes.io/cinder", s.Cinder.VolumeID), true
	case s.PortworxVolume != nil:
		return inTree("kubernetes.io/portworx-volume", s.PortworxVolume.VolumeID), true
	}
	return attachable{}, false
}

// attachableClaim: a claim without a volume counts by its class's provisioner.
func (s *storage) attachableClaim(c *corev1.PersistentVolumeClaim) (attachable, bool) {
	if v := s.volumes[c.Spec.VolumeName]; v != nil {
		return attachableVolume(v)
	}
	class := s.storageClasses[classOfClaim(c)]
	if class == nil || class.Provisioner == "" || slices.Contains(notCounted, class.Provisioner) {
		return attachable{}, false
	}
	if driver := takenOver[class.Provisioner]; driver != "" {
		return attachable{driver: driver, handle: keyOf(c), claim: true, inTree: true}, true
	}
	return attachable{driver: class.Provisioner, handle: keyOf(c), claim: true}, true
}

// eachAttachable calls fn with all that a pod's volumes count as.
func (s *storage) eachAttachable(p *pod, fn func(attachable)) {
	for _, name := range p.claims {
		if c := s.claims[name]; c != nil {
			if a, ok := s.attachableClaim(c); ok {
				fn(a)
			}
		}
	}
	for _, v := range p.disks {
		if a, ok := attachableDisk(v); ok {
			fn(a)
		}
	}
}

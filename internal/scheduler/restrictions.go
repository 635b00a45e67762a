package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// volumeRestrictions keeps a pod from a node where another uses a disk that
// both cannot have, and from all nodes while another uses a claim that only
// one pod may use at a time.
type volumeRestrictions struct{}

func (volumeRestrictions) Name() string { return "VolumeRestrictions" }

func (volumeRestrictions) Fits(c *cycle, n *node) bool {
	if len(c.pod.disks) > 0 && c.contested(n) != nil {
		return false
	}
	return !c.soleUsed()
}

func (c *cycle) soleUsed() bool {
	for _, name := range c.soleClaims {
		if c.claimUsers[name] > 0 {
			return true
		}
	}
	return false
}

// contested is a disk of the pod that it cannot have beside the pods on the node.
func (c *cycle) contested(n *node) *corev1.Volume {
	for _, v := range c.pod.disks {
		for _, p := range n.pods {
			if p.contests(v) {
				return v
			}
		}
	}
	return nil
}

// contests reports whether a pod has a disk that another must not have too. One
// that both only read is no matter, except for those of AWS.
func (p *pod) contests(v *corev1.Volume) bool {
	return slices.ContainsFunc(p.disks, func(other *corev1.Volume) bool {
		switch {
		case v.GCEPersistentDisk != nil && other.GCEPersistentDisk != nil:
			a, b := v.GCEPersistentDisk, other.GCEPersistentDisk
			return a.PDName == b.PDName && !(a.ReadOnly && b.ReadOnly)
		case v.AWSElasticBlockStore != nil && other.AWSElasticBlockStore != nil:
			return v.AWSElasticBlockStore.VolumeID == other.AWSElasticBlockStore.VolumeID
		case v.ISCSI != nil && other.ISCSI != nil:
			return v.ISCSI.IQN == other.ISCSI.IQN && !(v.ISCSI.ReadOnly && other.ISCSI.ReadOnly)
		case v.RBD != nil && other.RBD != nil:
			a, b := v.RBD, other.RBD
			shared := slices.ContainsFunc(a.CephMonitors, func(m string) bool { return slices.Contains(b.CephMonitors, m) })
			return shared && a.RBDPool == b.RBDPool && a.RBDImage == b.RBDImage && !(a.ReadOnly && b.ReadOnly)
		}
		return false
	})
}

// isDisk reports whether a pod names a volume itself that is limited or
// contested.
func isDisk(v *corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.ISCSI != nil || v.RBD != nil ||
		v.AzureDisk != nil || v.Cinder != nil || v.PortworxVolume != nil
}

func disksOf(obj *corev1.Pod) (disks []*corev1.Volume) {
	for i := range obj.Spec.Volumes {
		if v := &obj.Spec.Volumes[i]; isDisk(v) {
			disks = append(disks, v)
		}
	}
	return disks
}

func (volumeRestrictions) Explain(c *cycle, n *node, why []string) ([]string, bool) {
	if c.contested(n) != nil {
		return append(why, "node(s) had no available disk"), false
	}
	return append(why, "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"), false
}

func (volumeRestrictions) Advise(c *cycle, n *node, out []change) []change {
	if v := c.contested(n); v != nil {
		out = append(out, change{kind: freeDisk, name: v.Name})
	}
	for _, name := range c.soleClaims {
		if c.claimUsers[name] > 0 {
			out = append(out, change{kind: freeClaim, name: name})
		}
	}
	return out
}

// Helps: another user of a claim or a disk went away, or a node came where
// nobody uses the disk.
func (f volumeRestrictions) Helps(c *cycle, e *event) bool {
	switch e.what {
	case claimChanged:
		return slices.Contains(c.pod.claims, e.name)
	case podLeft:
		if slices.ContainsFunc(c.pod.claims, func(name string) bool { return slices.Contains(e.pod.claims, name) }) ||
			slices.ContainsFunc(c.pod.disks, e.pod.contests) {
			return true
		}
	}
	c.prepareVolumes()
	return onNode(f, c, e, nodeChanged) || c.preemptable(f, e)
}

package why

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// noProvisioner is the provisioner of classes whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

func (l *look) claim(c *corev1.PersistentVolumeClaim) *finding {
	switch c.Status.Phase {
	case corev1.ClaimBound:
		for i := range c.Status.Conditions {
			if x := &c.Status.Conditions[i]; x.Status == corev1.ConditionTrue && (x.Type == corev1.PersistentVolumeClaimControllerResizeError || x.Type == corev1.PersistentVolumeClaimNodeResizeError) {
				return about(kinds.PersistentVolumeClaim, c, "it is bound, but cannot be resized: %s", x.Message).since(x.LastTransitionTime)
			}
		}
		return nil
	case corev1.ClaimLost:
		return about(kinds.PersistentVolumeClaim, c, "its volume is lost").
			because(missing(kinds.PersistentVolume, "", c.Spec.VolumeName, "restore the volume; or delete the claim, and what it held is lost"))
	}
	f := about(kinds.PersistentVolumeClaim, c, "it is not bound to a volume").since(c.CreationTimestamp)
	if name := c.Spec.VolumeName; name != "" {
		return l.wantedVolume(c, f, name)
	}
	if c.Spec.StorageClassName == nil || *c.Spec.StorageClassName == "" {
		f.What = "it is not bound to a volume: it names no StorageClass, and no PersistentVolume without one fits"
		if c.Spec.StorageClassName == nil {
			f.What = "it is not bound to a volume: it names no StorageClass, there is no default one, and no PersistentVolume without one fits"
		}
		return f.help("name a StorageClass in it, make one the default, or make a PersistentVolume for it (%s)", claimText(c))
	}
	class, gone := get[*storagev1.StorageClass](l, kinds.StorageClass, "", *c.Spec.StorageClassName)
	if gone {
		return f.because(missing(kinds.StorageClass, "", *c.Spec.StorageClassName, "create it, or name another in the claim; or make a PersistentVolume that names it"))
	}
	e := l.told(c, "ProvisioningFailed", "FailedBinding", "WaitForFirstConsumer", "WaitForPodScheduled", "ExternalProvisioning", "VolumeMismatch")
	if e != nil && e.Type == corev1.EventTypeWarning && (class == nil || class.Provisioner != noProvisioner) {
		f.What = fmt.Sprintf("no volume is made for it: %s", e.Message)
		return f.since(began(e))
	}
	if class == nil {
		return l.blind(f)
	}
	return l.classed(c, class, f)
}

// wantedVolume: a claim that names its volume.
func (l *look) wantedVolume(c *corev1.PersistentVolumeClaim, f *finding, name string) *finding {
	v, gone := get[*corev1.PersistentVolume](l, kinds.PersistentVolume, "", name)
	switch {
	case gone:
		return f.because(missing(kinds.PersistentVolume, "", name, "create it, or do not set spec.volumeName"))
	case v == nil:
		return l.blind(f)
	case v.Spec.ClaimRef != nil && (v.Spec.ClaimRef.Namespace != c.Namespace || v.Spec.ClaimRef.Name != c.Name):
		return f.because(about(kinds.PersistentVolume, v, "it belongs to another claim, %s/%s", v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name).
			help("name another volume"))
	}
	return f.behind(kinds.PersistentVolume, v)
}

func claimText(c *corev1.PersistentVolumeClaim) string {
	q := c.Spec.Resources.Requests[corev1.ResourceStorage]
	return fmt.Sprintf("%s, %v", q.String(), c.Spec.AccessModes)
}

// classed: a claim of a class that exists.
func (l *look) classed(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, f *finding) *finding {
	if m := class.VolumeBindingMode; m != nil && *m == storagev1.VolumeBindingWaitForFirstConsumer {
		pods, complete := list[*corev1.Pod](l, Want{Kind: kinds.Pod, Namespace: c.Namespace})
		user := slices.IndexFunc(pods, func(p *corev1.Pod) bool { return uses(p, c.Name) })
		switch {
		case user < 0 && complete:
			f.What = fmt.Sprintf("it is bound when the first pod uses it (class %s), and none does", class.Name)
			return f.help("nothing is wrong if nobody needs it yet")
		case user >= 0 && pods[user].Spec.NodeName == "" && c.Annotations[selectedNode] == "":
			f.What = fmt.Sprintf("it is bound when pod %s has a node", pods[user].Name)
			return f.behind(kinds.Pod, pods[user])
		}
	}
	if class.Provisioner == noProvisioner {
		f.What = fmt.Sprintf("it is not bound to a volume: class %s makes none, and no PersistentVolume of that class fits", class.Name)
		return f.help("make a PersistentVolume of class %s for it (%s)", class.Name, claimText(c))
	}
	f.What = fmt.Sprintf("it waits for the provisioner %s of class %s to make a volume", class.Provisioner, class.Name)
	return f.help("does that provisioner run?")
}

func uses(p *corev1.Pod, claim string) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed &&
		slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return view.ClaimOf(p, &v) == claim })
}

func (l *look) volume(v *corev1.PersistentVolume) *finding {
	switch v.Status.Phase {
	case corev1.VolumeFailed:
		return about(kinds.PersistentVolume, v, "it cannot be recycled or deleted: %s", v.Status.Message)
	case corev1.VolumeReleased:
		f := about(kinds.PersistentVolume, v, "its claim is gone, and nobody else gets it (%s)", v.Spec.PersistentVolumeReclaimPolicy)
		if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain {
			return f.help("save or delete what is on it, then remove spec.claimRef, or delete it")
		}
		return f
	}
	return nil
}

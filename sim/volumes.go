package main

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	// claimed is the name of the claims' template.
	claimed = "data"
	// own is what users call their own claims, by number.
	own = "own"
	// perApp: so many claims of a kind a namespace may have.
	perApp = 4
	// numbered volumes are what users make; and how many free ones are enough for
	// all claims that there can be: of each of three namespaces its set's and its
	// users'.
	numbered = 20
	enough   = 3 * 2 * perApp
)

// actOnVolumes does one thing to a volume or a claim.
func (u *users) actOnVolumes(ns string) (string, error) {
	ref := kinds.Ref{Kind: kinds.PersistentVolume, Name: fmt.Sprintf("v%d", u.rng.IntN(numbered))}
	switch u.rng.IntN(12) {
	case 0:
		return "delete volume " + ref.Name, u.remove(ref, "")
	case 1:
		return "empty volume " + ref.Name, u.empty(ref)
	case 2, 3:
		return "delete a claim", u.removeAny(kinds.PersistentVolumeClaim, ns, "")
	case 4, 5, 6, 7:
		c := claim(fmt.Sprintf("%s-%d", own, u.rng.IntN(perApp)))
		c.Namespace = ns
		if u.rng.IntN(6) == 0 { // a volume that may come later
			c.Spec.VolumeName = ref.Name
		}
		return "create claim " + c.Name, u.create(kinds.PersistentVolumeClaim, c)
	}
	v := u.volume(ref.Name)
	if u.rng.IntN(4) == 0 { // meant for a claim, which may come later or never
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: fmt.Sprintf("%s-%d", u.pick(own, claimed+"-"+ring), u.rng.IntN(perApp))}
	}
	return "create volume " + ref.Name, u.create(kinds.PersistentVolume, v)
}

func (u *users) volume(name string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(u.pick("1Gi", "2Gi", "3Gi"))}
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/data"}
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimPolicy(u.pick("Retain", "Retain", "Delete", "Recycle"))
	return v
}

// empty a volume whose claim is gone, as an administrator does by hand.
func (u *users) empty(ref kinds.Ref) error {
	v := view.Get[*corev1.PersistentVolume](u.tap.Snapshot(), kinds.PersistentVolume, "", ref.Name)
	if v == nil || v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		return nil
	}
	return u.patch(ref, `{"spec":{"claimRef":null}}`)
}

// relieveVolumes sees to it that all claims can be bound.
func (u *users) relieveVolumes() {
	free := 0
	for v := range view.List[*corev1.PersistentVolume](u.tap.Snapshot(), kinds.PersistentVolume, "") {
		ref := kinds.RefTo(kinds.PersistentVolume, v)
		switch {
		case v.DeletionTimestamp != nil:
		case v.Spec.ClaimRef == nil:
			free++
		case v.Spec.ClaimRef.UID == "":
			u.note("give away", u.patch(ref, `{"spec":{"claimRef":null}}`))
			free++
		case v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed:
			u.note("empty", u.empty(ref))
			free++
		}
	}
	for ; free < enough; free++ {
		u.note("create volume", u.create(kinds.PersistentVolume, u.volume("spare-"+suffix(u.rng))))
	}
}

// claim to any volume without a class.
func claim(name string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	none := ""
	c.Spec.StorageClassName = &none
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	return c
}

// claims gives a stateful set claims, and says what becomes of them.
func (u *users) claims(s *appsv1.StatefulSet) {
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{*claim(claimed)}
	s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
		WhenDeleted: appsv1.PersistentVolumeClaimRetentionPolicyType(u.pick("Retain", "Delete")),
		WhenScaled:  appsv1.PersistentVolumeClaimRetentionPolicyType(u.pick("Retain", "Delete")),
	}
}

// held reports whether what is being deleted may stay: a claim to devices that
// somebody uses, a claim that a pod on a node uses, or what waits for the end of one, say a set that has let go of the
// pod.
func (t truth) held(o kinds.Object) bool {
	if c, ok := o.(*resourcev1.ResourceClaim); ok {
		return len(c.Status.ReservedFor) > 0
	}
	c, ok := o.(*corev1.PersistentVolumeClaim)
	if !ok {
		return slices.ContainsFunc(all[*corev1.PersistentVolumeClaim](t, kinds.PersistentVolumeClaim), func(c *corev1.PersistentVolumeClaim) bool {
			return slices.ContainsFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() }) && t.held(c)
		})
	}
	return slices.ContainsFunc(t.usersOf(c.Namespace, c.Name), func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
}

// usersOf a claim, or of one of that name.
func (t truth) usersOf(namespace, name string) (out []*corev1.Pod) {
	for _, p := range all[*corev1.Pod](t, kinds.Pod) {
		if p.Namespace == namespace && slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return view.ClaimOf(p, &v) == name }) {
			out = append(out, p)
		}
	}
	return out
}

// inUse reports whether pods that have not ended use a claim of that name.
func (t truth) inUse(namespace, name string) bool {
	return slices.ContainsFunc(t.usersOf(namespace, name), func(p *corev1.Pod) bool { return !finished(p) })
}

// robbed: it waits for a claim that a user has deleted, and has no set any more
// that would make another.
func (t truth) robbed(p *corev1.Pod) bool {
	if p.Spec.NodeName != "" || metav1.GetControllerOf(p) != nil {
		return false
	}
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		name := view.ClaimOf(p, &v)
		return name != "" && !slices.ContainsFunc(all[*corev1.PersistentVolumeClaim](t, kinds.PersistentVolumeClaim), func(c *corev1.PersistentVolumeClaim) bool {
			return c.Namespace == p.Namespace && c.Name == name
		})
	})
}

// heldVolume: a volume that is being deleted may stay as long as its claim does.
func (t truth) heldVolume(o kinds.Object) bool {
	v, ok := o.(*corev1.PersistentVolume)
	return ok && v.Status.Phase == corev1.VolumeBound
}

// checkVolumes: claims and volumes name each other and say so, every claim has a
// volume unless it wants one that it cannot have, and every pod of a stateful set has its own claim.
func (w *world) checkVolumes(t truth) error {
	byName, uids := map[string]*corev1.PersistentVolume{}, map[types.UID]*corev1.PersistentVolumeClaim{}
	for _, v := range all[*corev1.PersistentVolume](t, kinds.PersistentVolume) {
		byName[v.Name] = v
	}
	there := map[string]bool{}
	for _, c := range all[*corev1.PersistentVolumeClaim](t, kinds.PersistentVolumeClaim) {
		uids[c.UID], there[c.Namespace+"/"+c.Name] = c, true
		v := byName[c.Spec.VolumeName]
		if c.Status.Phase == corev1.ClaimPending && c.Spec.VolumeName != "" && (v == nil || v.DeletionTimestamp != nil || v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID != c.UID) {
			continue // it waits for that one
		}
		if v == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID || c.Status.Phase != corev1.ClaimBound || c.Status.Capacity.Storage().Cmp(*v.Spec.Capacity.Storage()) != 0 {
			return fmt.Errorf("claim %s/%s of volume %q is %s", c.Namespace, c.Name, c.Spec.VolumeName, c.Status.Phase)
		}
	}
	for _, v := range byName {
		want := []corev1.PersistentVolumePhase{corev1.VolumeAvailable}
		if ref := v.Spec.ClaimRef; ref != nil && ref.UID != "" {
			want = []corev1.PersistentVolumePhase{corev1.VolumeBound}
			switch {
			case uids[ref.UID] == nil && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain:
				want = []corev1.PersistentVolumePhase{corev1.VolumeReleased, corev1.VolumeFailed} // the policy may have changed
			case uids[ref.UID] == nil && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle && !there[ref.Namespace+"/"+ref.Name] && t.inUse(ref.Namespace, ref.Name):
				want = []corev1.PersistentVolumePhase{corev1.VolumeReleased, corev1.VolumeFailed} // pods may still be writing to it
			case uids[ref.UID] == nil:
				want = []corev1.PersistentVolumePhase{corev1.VolumeFailed} // nobody can recycle or delete it
			case uids[ref.UID].Spec.VolumeName != v.Name:
				return fmt.Errorf("volume %s is kept for claim %s/%s, which has %s", v.Name, ref.Namespace, ref.Name, uids[ref.UID].Spec.VolumeName)
			}
		}
		if !slices.Contains(want, v.Status.Phase) {
			return fmt.Errorf("volume %s is %s, want %v", v.Name, v.Status.Phase, want)
		}
	}
	for _, p := range all[*corev1.Pod](t, kinds.Pod) {
		for i := range p.Spec.Volumes {
			if name := view.ClaimOf(p, &p.Spec.Volumes[i]); name != "" && !finished(p) && !t.robbed(p) && (name != claimed+"-"+p.Name || !there[p.Namespace+"/"+name]) {
				return fmt.Errorf("pod %s/%s runs with claim %s", p.Namespace, p.Name, name)
			}
		}
	}
	return nil
}

// volumeAudit watches what binders may never do.
type volumeAudit struct {
	// owners of volumes: the claim that is bound to each.
	owners map[string]types.UID
}

// observe one commit: two claims that stand are never bound to one volume, and a
// volume is never given to another claim unless it was given back before.
func (a *volumeAudit) observe(before, after kinds.Object) error {
	switch old := before.(type) {
	case *corev1.PersistentVolumeClaim:
		if after == nil && a.owners[old.Spec.VolumeName] == old.UID {
			delete(a.owners, old.Spec.VolumeName)
		}
	case *corev1.PersistentVolume:
		now, ok := after.(*corev1.PersistentVolume)
		if ok && old.UID == now.UID && old.Spec.ClaimRef != nil && now.Spec.ClaimRef != nil && old.Spec.ClaimRef.UID != "" && now.Spec.ClaimRef.UID != "" &&
			old.Spec.ClaimRef.UID != now.Spec.ClaimRef.UID {
			return fmt.Errorf("volume %s is taken from claim %s for %s", now.Name, old.Spec.ClaimRef.UID, now.Spec.ClaimRef.UID)
		}
	}
	c, ok := after.(*corev1.PersistentVolumeClaim)
	if !ok || c.Annotations["pv.kubernetes.io/bind-completed"] == "" || c.Spec.VolumeName == "" {
		return nil
	}
	if other := a.owners[c.Spec.VolumeName]; other != "" && other != c.UID {
		return fmt.Errorf("claim %s/%s is bound to volume %s, which another one has", c.Namespace, c.Name, c.Spec.VolumeName)
	}
	a.owners[c.Spec.VolumeName] = c.UID
	return nil
}

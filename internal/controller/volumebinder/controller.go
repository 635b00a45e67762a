package volumebinder

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// reporter is the name that upstream's events have.
const reporter = "persistentvolume-controller"

// again is how often what a claim waits for is told anew: events live for an
// hour.
const again = 10 * time.Minute

// Claims binds claims. The view needs view.PodsByClaim, view.UnboundClaims,
// view.ClaimsByVolume, view.VolumesByClaim and view.FreeVolumes.
func Claims() reconcile.Controller {
	return reconcile.Controller{
		Name: "persistent-volume-binder", Reporter: reporter, For: kinds.PersistentVolumeClaim, Resync: again,
		Watches: []reconcile.Watch{
			{Kind: kinds.PersistentVolume, Keys: claimants},
			{Kind: kinds.StorageClass, Keys: ofClass},
			{Kind: kinds.Pod, Keys: ofPod},
		},
		Writes: []reconcile.Write{
			{Kind: kinds.PersistentVolume, Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.PersistentVolumeClaim, Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.PersistentVolumeClaim, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: reconcile.Pair(observe, Plan),
	}
}

// claimants are the claims that a change of a volume may matter to: those that
// it names, that name it, and that it fits.
func claimants(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	add := func(k reconcile.Key) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, o := range []kinds.Object{c.Old, c.New} {
		if v, ok := o.(*corev1.PersistentVolume); ok && v.Spec.ClaimRef != nil {
			add(reconcile.Key{Namespace: v.Spec.ClaimRef.Namespace, Name: v.Spec.ClaimRef.Name})
		}
	}
	for claim := range view.By[*corev1.PersistentVolumeClaim](s, view.ClaimsByVolume, c.Object().GetName()) {
		add(reconcile.KeyOf(claim))
	}
	v, ok := c.New.(*corev1.PersistentVolume)
	if !ok || v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable ||
		delayed(view.Get[*storagev1.StorageClass](s, kinds.StorageClass, "", kinds.VolumeClass(v))) {
		return keys
	}
	for claim := range view.By[*corev1.PersistentVolumeClaim](s, view.UnboundClaims, kinds.VolumeClass(v)) {
		if fits(v, claim) {
			add(reconcile.KeyOf(claim))
		}
	}
	return keys
}

// ofClass are the claims that wait for a class, or for a default one.
func ofClass(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	classes := []string{c.Object().GetName()}
	if c.New != nil && kinds.IsDefaultStorageClass(c.New) {
		classes = append(classes, "")
	}
	for _, class := range classes {
		for claim := range view.By[*corev1.PersistentVolumeClaim](s, view.UnboundClaims, class) {
			keys = append(keys, reconcile.KeyOf(claim))
		}
	}
	return keys
}

// ofPod are the unbound claims of a new pod: for what they wait has changed.
func ofPod(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	pod, ok := c.New.(*corev1.Pod)
	if !ok || c.Old != nil {
		return nil
	}
	for i := range pod.Spec.Volumes {
		name := view.ClaimOf(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		if claim := view.Get[*corev1.PersistentVolumeClaim](s, kinds.PersistentVolumeClaim, pod.Namespace, name); claim != nil && claim.Spec.VolumeName == "" {
			keys = append(keys, reconcile.KeyOf(claim))
		}
	}
	return keys
}

func observe(in reconcile.Input) (Observed, bool) {
	s := in.View
	claim := view.Get[*corev1.PersistentVolumeClaim](s, kinds.PersistentVolumeClaim, in.Key.Namespace, in.Key.Name)
	if claim == nil {
		return Observed{}, false
	}
	o := Observed{Claim: claim}
	if name := claim.Spec.VolumeName; name != "" {
		rev, err := strconv.ParseInt(claim.ResourceVersion, 10, 64)
		o.CaughtUp = err == nil && s.Rev(kinds.PersistentVolume) >= rev
		o.Volume = view.Get[*corev1.PersistentVolume](s, kinds.PersistentVolume, "", name)
		return o, true
	}
	class, asks := kinds.ClaimClass(claim)
	o.Reserved = slices.Collect(view.By[*corev1.PersistentVolume](s, view.VolumesByClaim, in.Key.String()))
	o.Free = slices.Collect(view.By[*corev1.PersistentVolume](s, view.FreeVolumes, class))
	if !asks {
		o.Default = kinds.DefaultStorageClass(view.List[*storagev1.StorageClass](s, kinds.StorageClass, ""))
	}
	if class != "" {
		o.Class = view.Get[*storagev1.StorageClass](s, kinds.StorageClass, "", class)
	}
	for p := range view.By[*corev1.Pod](s, view.PodsByClaim, in.Key.String()) {
		if p.Spec.NodeName == "" && !ended(p) {
			o.Waiting = append(o.Waiting, p)
		}
	}
	return o, true
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Volumes says what volumes are, and gives them back. The view needs
// view.PodsByClaim and view.VolumesByClaim.
func Volumes() reconcile.Controller {
	return reconcile.Controller{
		Name: "persistent-volume-releaser", Reporter: reporter, For: kinds.PersistentVolume, Resync: again, Reads: []*kinds.Kind{kinds.Pod},
		Watches: []reconcile.Watch{{Kind: kinds.PersistentVolumeClaim, Keys: volumesOf}},
		Writes: []reconcile.Write{
			{Kind: kinds.PersistentVolume, Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.PersistentVolume, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: reconcile.Pair(observeVolume, PlanVolume),
	}
}

// volumesOf are the volumes of a claim that comes, goes, or gets one.
func volumesOf(s *view.Snapshot, c view.Change) (keys []reconcile.Key) {
	old, _ := c.Old.(*corev1.PersistentVolumeClaim)
	now, _ := c.New.(*corev1.PersistentVolumeClaim)
	if old != nil && now != nil && old.UID == now.UID && old.Spec.VolumeName == now.Spec.VolumeName {
		return nil
	}
	for _, claim := range []*corev1.PersistentVolumeClaim{old, now} {
		if claim != nil && claim.Spec.VolumeName != "" {
			keys = append(keys, reconcile.Key{Name: claim.Spec.VolumeName})
		}
	}
	for v := range view.By[*corev1.PersistentVolume](s, view.VolumesByClaim, reconcile.KeyOf(c.Object()).String()) {
		keys = append(keys, reconcile.KeyOf(v))
	}
	slices.SortFunc(keys, func(a, b reconcile.Key) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(keys)
}

func observeVolume(in reconcile.Input) (Held, bool) {
	v := view.Get[*corev1.PersistentVolume](in.View, kinds.PersistentVolume, "", in.Key.Name)
	if v == nil {
		return Held{}, false
	}
	h := Held{Volume: v}
	if ref := v.Spec.ClaimRef; ref != nil {
		key := reconcile.Key{Namespace: ref.Namespace, Name: ref.Name}
		h.Claim = view.Get[*corev1.PersistentVolumeClaim](in.View, kinds.PersistentVolumeClaim, ref.Namespace, ref.Name)
		for p := range view.By[*corev1.Pod](in.View, view.PodsByClaim, key.String()) {
			if !ended(p) {
				h.Users = append(h.Users, p.Namespace+"/"+p.Name)
			}
		}
	}
	return h, true
}

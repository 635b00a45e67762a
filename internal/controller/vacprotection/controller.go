package vacprotection

import (
	"slices"

	storagev1 "k8s.io/api/storage/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// Controller protects classes that are in use.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "volumeattributesclass-protection-controller", For: kinds.VolumeAttributesClass,
		Watches: []reconcile.Watch{{Kind: kinds.PersistentVolumeClaim, Keys: left}, {Kind: kinds.PersistentVolume, Keys: left}},
		Writes:  []reconcile.Write{{Kind: kinds.VolumeAttributesClass, Verbs: []plan.Verb{plan.Patch}}},
		Plan:    reconcile.Pair(observe, Plan),
	}
}

// left are the classes that a claim or volume does not name any more.
func left(_ *view.Snapshot, c view.Change) []reconcile.Key {
	if c.Old == nil {
		return nil
	}
	var now []string
	if c.New != nil {
		now = classesOf(c.New)
	}
	var keys []reconcile.Key
	for _, name := range classesOf(c.Old) {
		if !slices.Contains(now, name) {
			keys = append(keys, reconcile.Key{Name: name})
		}
	}
	return keys
}

func observe(in reconcile.Input) (Observed, bool) {
	class := view.Get[*storagev1.VolumeAttributesClass](in.View, kinds.VolumeAttributesClass, "", in.Key.Name)
	if class == nil {
		return Observed{}, false
	}
	o := Observed{Class: class}
	if plan.Protection(class, Finalizer) == plan.Leaving { // a rare thing: no index is worth it
		o.Used = names(in.View, kinds.PersistentVolumeClaim, class.Name) || names(in.View, kinds.PersistentVolume, class.Name)
	}
	return o, true
}

func names(s *view.Snapshot, k *kinds.Kind, class string) bool {
	for obj := range view.List[kinds.Object](s, k, "") {
		if slices.Contains(classesOf(obj), class) {
			return true
		}
	}
	return false
}

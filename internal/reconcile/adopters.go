package reconcile

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Adopters finds the objects of k that may adopt one which became an orphan, or
// an orphan whose labels changed.
func Adopters(k *kinds.Kind, selector func(kinds.Object) *metav1.LabelSelector) func(*view.Snapshot, view.Change) []Key {
	return func(s *view.Snapshot, c view.Change) []Key {
		if c.New == nil || metav1.GetControllerOfNoCopy(c.New) != nil || c.New.GetDeletionTimestamp() != nil {
			return nil
		}
		if c.Old != nil && metav1.GetControllerOfNoCopy(c.Old) == nil && labels.Equals(c.Old.GetLabels(), c.New.GetLabels()) {
			return nil
		}
		var keys []Key
		for o := range view.List[kinds.Object](s, k, c.New.GetNamespace()) {
			sel, err := metav1.LabelSelectorAsSelector(selector(o))
			if err == nil && !sel.Empty() && sel.Matches(labels.Set(c.New.GetLabels())) {
				keys = append(keys, KeyOf(o))
			}
		}
		return keys
	}
}

// ChangedOwners finds the objects of k that control what has changed or gone;
// what has just been made does not wake who made it.
func ChangedOwners(k *kinds.Kind) func(*view.Snapshot, view.Change) []Key {
	return func(_ *view.Snapshot, c view.Change) []Key {
		if c.Old == nil {
			return nil
		}
		return controllersOf(k, c)
	}
}

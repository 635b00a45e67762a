// Package prepare resets what a client may not write before an object is
// admitted and validated: the status on the main resource, everything but the
// status on the status subresource, the generation, and fields that the server
// computes. What needs a user, a clock or an allocation is the apiserver's. What
// is kept is shared with the old object: replace it, never change it in place.
package prepare

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds/equal"
)

// fresh clears what only the server may set on a new object. managed kinds
// count their generations from 1.
func fresh(o metav1.Object, managed bool) {
	o.SetDeletionTimestamp(nil)
	o.SetDeletionGracePeriodSeconds(nil)
	o.SetSelfLink("")
	if managed {
		o.SetGeneration(1)
	} else {
		o.SetGeneration(0)
	}
}

// Create prepares a new object of a kind without generations.
func Create[T metav1.Object](o T) { fresh(o, false) }

// CreateManaged prepares a new object of a kind that counts generations and
// has nothing else to reset.
func CreateManaged[T metav1.Object](o T) { fresh(o, true) }

// Keep takes from old the metadata that the server owns.
func Keep[T metav1.Object](o, old T) {
	o.SetGeneration(old.GetGeneration())
	o.SetDeletionTimestamp(old.GetDeletionTimestamp())
	o.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	o.SetSelfLink(old.GetSelfLink())
	if o.GetUID() == "" {
		o.SetUID(old.GetUID())
	}
	if stamp := o.GetCreationTimestamp(); stamp.IsZero() {
		o.SetCreationTimestamp(old.GetCreationTimestamp())
	}
}

// bump counts a change that controllers must observe.
func bump(o, old metav1.Object, changed bool) {
	if changed {
		o.SetGeneration(old.GetGeneration() + 1)
	}
}

func differ(a, b any) bool { return !equal.Values(a, b) }

package plan

import (
	"encoding/json"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// Protected says what a finalizer that keeps an object as long as it is used
// calls for.
type Protected int

// What there is to do.
const (
	Fine Protected = iota
	// Unprotected: it is older than the protection, or somebody took it away.
	Unprotected
	// Leaving: it is being deleted, and only may not go while it is used.
	Leaving
)

// Protection of an object by a finalizer.
func Protection(obj kinds.Object, finalizer string) Protected {
	switch has := slices.Contains(obj.GetFinalizers(), finalizer); {
	case obj.GetDeletionTimestamp() == nil && !has:
		return Unprotected
	case obj.GetDeletionTimestamp() != nil && has:
		return Leaving
	}
	return Fine
}

// Guard protects an object that is not protected, and lets go of one that is
// being deleted as soon as nobody uses it; used is asked about such a one only.
func Guard(k *kinds.Kind, obj kinds.Object, finalizer string, used func() bool) Result {
	switch Protection(obj, finalizer) {
	case Unprotected:
		return Result{Actions: []Action{Protect(k, obj, finalizer)}}
	case Leaving:
		if !used() {
			return Result{Actions: []Action{Release(k, obj, finalizer)}}
		}
	}
	return Result{}
}

// Protect adds a finalizer to the object as it was seen.
func Protect(k *kinds.Kind, obj kinds.Object, finalizer string) Action {
	return setFinalizers(k, obj, append(slices.Clone(obj.GetFinalizers()), finalizer))
}

// Release takes a finalizer away from the object as it was seen.
func Release(k *kinds.Kind, obj kinds.Object, finalizer string) Action {
	return setFinalizers(k, obj, slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == finalizer }))
}

func setFinalizers(k *kinds.Kind, obj kinds.Object, list []string) Action {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": list}})
	if err != nil {
		panic("plan: " + err.Error()) // strings always marshal
	}
	return Action{Verb: Patch, Ref: kinds.RefTo(k, obj), PatchType: types.MergePatchType, Data: data,
		UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(), Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}}
}

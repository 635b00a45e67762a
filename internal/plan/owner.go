package plan

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// Adopt makes owner, of kind by, the controller of an orphan; other references
// stay. The server is asked whether the owner stands: an orphan of one that is
// being deleted must stay one.
func Adopt(k *kinds.Kind, orphan kinds.Object, by *kinds.Kind, owner kinds.Object) Action {
	a := setOwner(k, orphan, *metav1.NewControllerRef(owner, by.GVK))
	a.Live = []Live{{Want: Alive, Ref: kinds.RefTo(by, owner), UID: owner.GetUID()}}
	return a
}

// Disown takes the references to an owner away from an object that it does not
// select any more; other references stay.
func Disown(k *kinds.Kind, obj kinds.Object, owner types.UID) Action {
	a := setOwner(k, obj, map[string]string{"$patch": "delete", "uid": string(owner)})
	a.Tolerate = []metav1.StatusReason{metav1.StatusReasonNotFound}
	return a
}

// setOwner is a strategic merge patch of one owner reference, which is told from
// others by its UID.
func setOwner(k *kinds.Kind, obj kinds.Object, ref any) Action {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": []any{ref}}})
	if err != nil {
		panic("plan: " + err.Error()) // strings and booleans always marshal
	}
	return Action{Verb: Patch, Ref: kinds.RefTo(k, obj), UID: obj.GetUID(), PatchType: types.StrategicMergePatchType, Data: data, Parallel: true}
}

package plan

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// AddOwner is the strategic merge patch that adds an owner reference, or
// replaces the one with the same UID. Other references stay.
func AddOwner(ref metav1.OwnerReference) []byte {
	return owners(ref)
}

// RemoveOwner is the strategic merge patch that removes the references to an
// owner. Other references stay.
func RemoveOwner(uid types.UID) []byte {
	return owners(map[string]string{"$patch": "delete", "uid": string(uid)})
}

func owners(ref any) []byte {
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": []any{ref}}})
	if err != nil {
		panic("plan: " + err.Error()) // strings and booleans always marshal
	}
	return b
}

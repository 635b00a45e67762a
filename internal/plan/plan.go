// Package plan holds what pure planners return: actions on API objects, the
// events that go with them and when to look again. One executor, in
// reconcile, applies them; planners never do anything themselves.
package plan

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// Verb of an action, one of the API's.
type Verb string

// The verbs that plans use. Every one but Create carries the UID (and for
// Update the resourceVersion) of the object that was looked at, so that an
// action planned on an old view fails instead of hitting a newer object.
const (
	Create Verb = "create"
	Update Verb = "update"
	Patch  Verb = "patch"
	Delete Verb = "delete"
)

// Action is one write.
type Action struct {
	Verb Verb
	Ref  kinds.Ref // Ref.Sub for status, binding, eviction, ...

	Object runtime.Object // Create and Update: the whole body

	PatchType types.PatchType // Patch
	Data      []byte          // Patch

	UID             types.UID // precondition of Delete and Patch; empty: none
	ResourceVersion string    // precondition of Delete; empty: none
	Propagation     metav1.DeletionPropagation
	GraceSeconds    *int64

	// Tolerate lists the Status reasons that count as success: AlreadyExists
	// for a Create, NotFound for a Delete.
	Tolerate []metav1.StatusReason

	// Event is emitted once the action succeeded; Failed, if set, once it
	// failed, with the error appended to its message.
	Event, Failed *Event
}

// Event is what users read in kubectl describe. Regarding is looked up by
// reference only.
type Event struct {
	Regarding kinds.Ref
	UID       types.UID
	Type      string // corev1.EventTypeNormal or EventTypeWarning
	Reason    string // UpperCamelCase, a fixed set per component
	Message   string
}

// Result of planning one key: actions in order (an action that fails ends the
// pass), events that belong to no action, and when to plan again even if
// nothing changes (0: only on change and resync).
type Result struct {
	Actions []Action
	Events  []Event
	After   time.Duration
}

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
	// DeleteAll deletes what it finds of Ref.Kind in Ref.Namespace, some at a
	// time; for kinds that no view holds because there are too many of them.
	// A Live check for Empty on what follows tells whether anything is left.
	DeleteAll Verb = "deletecollection"
)

// Action is one write.
type Action struct {
	Verb Verb
	Ref  kinds.Ref // Ref.Sub for status, binding, eviction, ...

	Object runtime.Object // Create and Update: the whole body

	PatchType types.PatchType // Patch
	Data      []byte          // Patch

	UID             types.UID // precondition of Delete and Patch; empty: none
	ResourceVersion string    // precondition of Delete and Patch; empty: none
	Propagation     metav1.DeletionPropagation
	GraceSeconds    *int64

	// Live is asked of the server right before the write, for decisions that a
	// view that lags would get wrong; if one does not hold, the pass ends
	// quietly and the key is planned again later.
	Live []Live
	// Parallel says that neighbours in the list that are marked too do not
	// depend on this action: the executor may run them at the same time, in
	// waves of 1, 2, 4, ... while they succeed.
	Parallel bool

	// Tolerate lists the Status reasons that count as success: AlreadyExists
	// for a Create, NotFound for a Delete.
	Tolerate []metav1.StatusReason

	// Event is emitted once the action succeeded; Failed, if set, once it
	// failed, with the error appended to its message.
	Event, Failed *Event
}

// Condition of a Live check.
type Condition int

// The live conditions.
const (
	// Absent: no object of that reference has the UID; with an empty UID: there
	// is no object of that reference at all.
	Absent Condition = iota
	// Alive: the object exists, has the UID and is not being deleted.
	Alive
	// Empty: no object of the reference's kind exists in its namespace.
	Empty
	// Waiting: the object is Absent, or is being deleted in the foreground and
	// waits for its dependents.
	Waiting
)

// Live is a precondition on another object than the one that is written.
type Live struct {
	Want Condition
	Ref  kinds.Ref
	UID  types.UID
}

// Event is what users read in kubectl describe. Regarding is looked up by
// reference only.
type Event struct {
	Regarding kinds.Ref
	UID       types.UID
	FieldPath string // part of the object, as in "spec.containers{web}"; mostly empty
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

// Package storagemigration writes all objects of a resource anew, as they are
// stored by now: in another version, or encrypted with another key.
package storagemigration

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
)

const (
	// patience is how long a resource may stay unknown: its definition may be
	// as new as the migration.
	patience = time.Minute
	again    = time.Second
)

// passing are the failures after which the same write may succeed.
var passing = []metav1.StatusReason{
	metav1.StatusReasonServerTimeout, metav1.StatusReasonTooManyRequests, metav1.StatusReasonServiceUnavailable,
	metav1.StatusReasonInternalError, metav1.StatusReasonTimeout, metav1.StatusReasonUnknown,
}

// Observed is what a plan depends on.
type Observed struct {
	Migration *migrationv1.StorageVersionMigration
	Kind      *kinds.Kind // nil: the resource is not known
	Patchable bool
	Objects   []kinds.Object
	Revision  string // of the view that Objects are from
	Now       time.Time
	Failure   *reconcile.Failure
}

// ended: a migration runs once.
func ended(m *migrationv1.StorageVersionMigration) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationSucceeded)) ||
		meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationFailed))
}

// Plan first notes the revision from which on every write is a new one, then
// writes each object that is older, by an empty patch, and at last that it is
// done: that action is only reached when all others succeeded. After a restart
// it begins again from the noted revision.
func Plan(o Observed) plan.Result {
	m := o.Migration
	switch {
	case o.Kind == nil && o.Now.Before(m.CreationTimestamp.Add(patience)):
		return plan.Result{After: again}
	case o.Kind == nil:
		return o.fail("resource does not exist in discovery")
	case !o.Patchable:
		return o.fail(fmt.Sprintf("resource %q does not support the patches of a migration", m.Spec.Resource.String()))
	case o.Failure != nil && o.Failure.Kind == o.Kind && o.Failure.Verb == plan.Patch && !slices.Contains(passing, o.Failure.Reason):
		return o.fail("migration encountered unhandled error: " + o.Failure.Message)
	case m.Status.ResourceVersion == "":
		next := m.DeepCopy()
		next.Status.ResourceVersion = o.Revision
		return plan.Result{Actions: []plan.Action{o.status(next, migrationv1.MigrationRunning, "MigrationRunning", running(len(o.Objects), len(o.Objects)))}}
	}
	from, err := strconv.ParseInt(m.Status.ResourceVersion, 10, 64)
	if err != nil {
		return o.fail("migration encountered unhandled error: " + err.Error())
	}
	var res plan.Result
	for _, obj := range o.Objects {
		if rev, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64); err == nil && rev > from {
			continue
		}
		res.Actions = append(res.Actions, plan.Action{
			Verb: plan.Patch, Ref: kinds.RefTo(o.Kind, obj), PatchType: types.MergePatchType, Data: []byte("{}"),
			ResourceVersion: obj.GetResourceVersion(), Parallel: true,
			// Who changed it has written it anew; who deleted it, too.
			Tolerate: []metav1.StatusReason{metav1.StatusReasonConflict, metav1.StatusReasonNotFound},
		})
	}
	next := m.DeepCopy()
	o.status(next, migrationv1.MigrationRunning, "MigrationRunning", running(0, len(o.Objects)))
	res.Actions = append(res.Actions, o.status(next, migrationv1.MigrationSucceeded, "StorageVersionMigrationSucceeded", "Migration completed"))
	return res
}

// running is upstream's message.
func running(left, all int) string {
	switch {
	case all == 0:
		return "The migration is running"
	case left == 0:
		return fmt.Sprintf("The migration is running, %d objects verified migrated", all)
	}
	return fmt.Sprintf("The migration is running, %d/%d objects not yet migrated", left, all)
}

func (o Observed) fail(message string) plan.Result {
	return plan.Result{Actions: []plan.Action{o.status(o.Migration.DeepCopy(), migrationv1.MigrationFailed, "StorageVersionMigrationFailed", message)}}
}

// status sets a condition of next and writes it.
func (o Observed) status(next *migrationv1.StorageVersionMigration, t migrationv1.MigrationConditionType, reason, message string) plan.Action {
	meta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
		Type: string(t), Status: metav1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(o.Now)})
	return plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.StorageVersionMigration, next).WithSub("status"), Object: next}
}

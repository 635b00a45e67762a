package kinds

import (
	migrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
)

// StorageVersionMigration orders that all objects of a resource are written
// anew, as they are stored by now.
var StorageVersionMigration = &Kind{
	GVK: migrationv1.SchemeGroupVersion.WithKind("StorageVersionMigration"), Resource: "storageversionmigrations", Singular: "storageversionmigration",
	Prefix: "storageversionmigrations",
	New:    func() Object { return &migrationv1.StorageVersionMigration{} }, NewList: func() runtime.Object { return &migrationv1.StorageVersionMigrationList{} },
	PrepareCreate: do(prepare.StorageVersionMigrationCreate), PrepareUpdate: doBoth(prepare.StorageVersionMigrationUpdate),
	Validate: check(validate.StorageVersionMigration), ValidateUpdate: checkBoth(validate.StorageVersionMigrationUpdate),
	Subresources: map[string]Subresource{"status": status(prepare.StorageVersionMigrationStatusUpdate, validate.StorageVersionMigrationStatusUpdate)},
	Columns: []Column{
		nameColumn,
		cell("Resource", "string", "Resource whose objects are written anew.", func(m *migrationv1.StorageVersionMigration) any { return m.Spec.Resource.String() }),
		cell("Status", "string", "How far it is.", func(m *migrationv1.StorageVersionMigration) any { return migrationState(m) }),
	},
	RequireVersion: true,
}

var migrationKinds = []*Kind{StorageVersionMigration}

// migrationState is the last condition that holds.
func migrationState(m *migrationv1.StorageVersionMigration) string {
	state := "Unknown"
	for _, c := range m.Status.Conditions {
		if c.Status != metav1.ConditionTrue {
			continue
		}
		switch migrationv1.MigrationConditionType(c.Type) {
		case migrationv1.MigrationRunning, migrationv1.MigrationSucceeded, migrationv1.MigrationFailed:
			state = c.Type
		}
	}
	return state
}

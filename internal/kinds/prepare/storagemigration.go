package prepare

import migrationv1 "k8s.io/api/storagemigration/v1"

// StorageVersionMigrationCreate clears the status.
func StorageVersionMigrationCreate(m *migrationv1.StorageVersionMigration) {
	fresh(m, false)
	m.Status = migrationv1.StorageVersionMigrationStatus{}
}

// StorageVersionMigrationUpdate keeps the status.
func StorageVersionMigrationUpdate(m, old *migrationv1.StorageVersionMigration) {
	Keep(m, old)
	m.Status = old.Status
}

// StorageVersionMigrationStatusUpdate keeps everything else.
func StorageVersionMigrationStatusUpdate(m, old *migrationv1.StorageVersionMigration) {
	statusOnly(m, old)
	m.Spec = old.Spec
}

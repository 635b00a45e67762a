package warnings

import migrationv1 "k8s.io/api/storagemigration/v1"

// StorageVersionMigration is not acted on yet.
func StorageVersionMigration(_, old *migrationv1.StorageVersionMigration) []string {
	return inert("StorageVersionMigration", old == nil)
}

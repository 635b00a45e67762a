package validate

import (
	"testing"

	migrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStorageVersionMigration(t *testing.T) {
	type migration = migrationv1.StorageVersionMigration
	good := func() *migration {
		return &migration{ObjectMeta: named("m", ""), Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: "secrets"}}}
	}
	creates(t, good, nothing, StorageVersionMigration, []change[*migration]{
		{"good", nil, nil},
		{"group", func(m *migration) { m.Spec.Resource.Group = "a.example" }, nil},
		{"nothing", func(m *migration) { m.Spec.Resource.Resource = "" }, []string{"spec.resource.resource Required: resource is required to be set"}},
		{"odd", func(m *migration) { m.Spec.Resource = metav1.GroupResource{Group: "A", Resource: "1"} }, []string{"spec.resource.resource Invalid", "spec.resource.group Invalid"}},
	})
	updates(t, good, nothing, StorageVersionMigrationUpdate, []change[*migration]{
		{"spec", func(m *migration) { m.Spec.Resource.Resource = "pods" }, []string{"spec Invalid: field is immutable"}},
	})
	is := func(m *migration, list ...migrationv1.MigrationConditionType) {
		m.Status.Conditions = nil
		for _, c := range list {
			m.Status.Conditions = append(m.Status.Conditions, metav1.Condition{Type: string(c), Status: "True", Reason: "R", LastTransitionTime: metav1.Unix(1, 0)})
		}
	}
	at := func(list ...migrationv1.MigrationConditionType) func() *migration {
		return func() *migration {
			m := good()
			m.Status.ResourceVersion = "7"
			is(m, list...)
			return m
		}
	}
	updates(t, at(migrationv1.MigrationRunning), nothing, StorageVersionMigrationStatusUpdate, []change[*migration]{
		{"done", func(m *migration) { is(m, migrationv1.MigrationRunning, migrationv1.MigrationSucceeded) }, nil},
		{"both", func(m *migration) { is(m, migrationv1.MigrationFailed, migrationv1.MigrationSucceeded) }, []string{"status.conditions Invalid: Both success and failed conditions cannot be true at the same time"}},
		{"other version", func(m *migration) { m.Status.ResourceVersion = "8" }, []string{"status.resourceVersion Invalid: field is immutable"}},
		{"no version", func(m *migration) { m.Status.ResourceVersion = "x" }, []string{"status.resourceVersion Invalid: resource version is not well formed", "status.resourceVersion Invalid: field is immutable"}},
	})
	updates(t, at(migrationv1.MigrationSucceeded), nothing, StorageVersionMigrationStatusUpdate, []change[*migration]{
		{"undone", func(m *migration) { is(m) }, []string{"status.conditions Invalid: Success condition cannot be set to false once it is true"}},
	})
	updates(t, at(migrationv1.MigrationFailed), nothing, StorageVersionMigrationStatusUpdate, []change[*migration]{
		{"undone", func(m *migration) { is(m) }, []string{"status.conditions Invalid: Failed condition cannot be set to false once it is true"}},
	})
}

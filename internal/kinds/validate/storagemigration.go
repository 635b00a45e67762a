package validate

import (
	"strings"

	migrationv1 "k8s.io/api/storagemigration/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// StorageVersionMigration judges a new order to write objects anew.
func StorageVersionMigration(m *migrationv1.StorageVersionMigration) field.ErrorList {
	e := meta(&m.ObjectMeta, false, subdomain)
	p := specPath.Child("resource")
	if r := m.Spec.Resource.Resource; r == "" {
		e.add(field.Required(p.Child("resource"), "resource is required to be set"))
	} else if bad := validation.IsDNS1035Label(r); len(bad) > 0 {
		e.invalid(p.Child("resource"), r, strings.Join(bad, ","))
	}
	if g := m.Spec.Resource.Group; g != "" {
		if bad := validation.IsDNS1123Subdomain(g); len(bad) > 0 {
			e.invalid(p.Child("group"), g, strings.Join(bad, ","))
		}
	}
	return e.list
}

// StorageVersionMigrationUpdate judges a changed one; what it is about stays.
func StorageVersionMigrationUpdate(m, old *migrationv1.StorageVersionMigration) field.ErrorList {
	e := metaUpdate(&m.ObjectMeta, &old.ObjectMeta)
	e.immutable(specPath, m.Spec, old.Spec)
	return e.list
}

// StorageVersionMigrationStatusUpdate judges how far it is. It ends once.
func StorageVersionMigrationStatusUpdate(m, old *migrationv1.StorageVersionMigration) field.ErrorList {
	e := metaUpdate(&m.ObjectMeta, &old.ObjectMeta)
	at, rv := statusPath.Child("resourceVersion"), m.Status.ResourceVersion
	if rv != "" {
		if _, err := resourceversion.CompareResourceVersion(rv, rv); err != nil {
			e.invalid(at, rv, err.Error())
		}
	}
	if was := old.Status.ResourceVersion; was != "" && was != rv {
		e.invalid(at, rv, "field is immutable")
	}
	p := statusPath.Child("conditions")
	e.all(metavalidation.ValidateConditions(m.Status.Conditions, p))
	is := func(m *migrationv1.StorageVersionMigration, c migrationv1.MigrationConditionType) bool {
		return apimeta.IsStatusConditionTrue(m.Status.Conditions, string(c))
	}
	if is(m, migrationv1.MigrationSucceeded) && is(m, migrationv1.MigrationFailed) {
		e.invalid(p, m.Status.Conditions, "Both success and failed conditions cannot be true at the same time")
	}
	if is(old, migrationv1.MigrationSucceeded) && !is(m, migrationv1.MigrationSucceeded) {
		e.invalid(p, m.Status.Conditions, "Success condition cannot be set to false once it is true")
	}
	if is(old, migrationv1.MigrationFailed) && !is(m, migrationv1.MigrationFailed) {
		e.invalid(p, m.Status.Conditions, "Failed condition cannot be set to false once it is true")
	}
	return e.list
}

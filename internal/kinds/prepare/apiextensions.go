package prepare

import (
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// CustomResourceDefinitionCreate clears the status but for the version that
// objects will be stored in.
func CustomResourceDefinitionCreate(crd *apiextensionsv1.CustomResourceDefinition) {
	fresh(crd, true)
	crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
	storedVersion(crd)
}

// CustomResourceDefinitionUpdate keeps the status, in which a new storage
// version is noted.
func CustomResourceDefinitionUpdate(crd, old *apiextensionsv1.CustomResourceDefinition) {
	Keep(crd, old)
	crd.Status = old.Status
	bump(crd, old, differ(crd.Spec, old.Spec))
	storedVersion(crd)
}

func storedVersion(crd *apiextensionsv1.CustomResourceDefinition) {
	for _, v := range crd.Spec.Versions {
		if v.Storage && !slices.Contains(crd.Status.StoredVersions, v.Name) {
			crd.Status.StoredVersions = append(slices.Clone(crd.Status.StoredVersions), v.Name)
		}
	}
}

// CustomResourceDefinitionStatusUpdate keeps the spec.
func CustomResourceDefinitionStatusUpdate(crd, old *apiextensionsv1.CustomResourceDefinition) {
	Keep(crd, old)
	crd.Spec = old.Spec
}

package kinds

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/kinds/warnings"
)

// CustomResourceDefinition describes kinds that users bring.
var CustomResourceDefinition = &Kind{
	GVK: apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"), Resource: "customresourcedefinitions", Singular: "customresourcedefinition",
	ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
	Prefix: "apiextensions.k8s.io/customresourcedefinitions",
	New:    func() Object { return &apiextensionsv1.CustomResourceDefinition{} }, NewList: func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },
	Default:       do(defaults.CustomResourceDefinition),
	PrepareCreate: do(prepare.CustomResourceDefinitionCreate), PrepareUpdate: doBoth(prepare.CustomResourceDefinitionUpdate),
	Validate: check(validate.CustomResourceDefinition), ValidateUpdate: checkBoth(validate.CustomResourceDefinitionUpdate),
	Warnings:       warn(warnings.CustomResourceDefinition),
	Columns:        plainColumns,
	Subresources:   map[string]Subresource{"status": status(prepare.CustomResourceDefinitionStatusUpdate, validate.CustomResourceDefinitionStatusUpdate)},
	RequireVersion: true,
}

var apiextensions = []*Kind{CustomResourceDefinition}

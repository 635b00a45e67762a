package validate

import (
	"context"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CustomResourceDefinition judges a new one, with the library that defines what
// a structural schema and a rule may be.
func CustomResourceDefinition(crd *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	in, errs := internalCRD(crd)
	if len(errs) > 0 {
		return errs
	}
	return validation.ValidateCustomResourceDefinition(context.Background(), in)
}

// CustomResourceDefinitionUpdate judges a changed one.
func CustomResourceDefinitionUpdate(crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	in, errs := internalCRD(crd)
	before, more := internalCRD(old)
	if errs = append(errs, more...); len(errs) > 0 {
		return errs
	}
	return validation.ValidateCustomResourceDefinitionUpdate(context.Background(), in, before)
}

// CustomResourceDefinitionStatusUpdate judges a changed status.
func CustomResourceDefinitionStatusUpdate(crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	in, errs := internalCRD(crd)
	before, more := internalCRD(old)
	if errs = append(errs, more...); len(errs) > 0 {
		return errs
	}
	return validation.ValidateUpdateCustomResourceDefinitionStatus(context.Background(), in, before)
}

// internalCRD is the form that the library works on. It shares nothing with
// crd: the conversion moves what all versions have in common.
func internalCRD(crd *apiextensionsv1.CustomResourceDefinition) (*apiextensions.CustomResourceDefinition, field.ErrorList) {
	out := &apiextensions.CustomResourceDefinition{}
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd.DeepCopy(), out, nil); err != nil {
		return nil, field.ErrorList{field.Invalid(specPath, crd.Name, err.Error())}
	}
	return out, nil
}

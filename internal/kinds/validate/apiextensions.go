package validate

import (
	"context"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CustomResourceDefinition judges a new one, with the library that defines what
// a structural schema and a rule may be.
func CustomResourceDefinition(crd *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	in, errs := internalCRD(crd)
	if len(errs) > 0 {
		return errs
	}
	return append(unreadableFields(in), validation.ValidateCustomResourceDefinition(context.Background(), in)...)
}

// CustomResourceDefinitionUpdate judges a changed one.
func CustomResourceDefinitionUpdate(crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	in, errs := internalCRD(crd)
	before, more := internalCRD(old)
	if errs = append(errs, more...); len(errs) > 0 {
		return errs
	}
	return append(unreadableFields(in), validation.ValidateCustomResourceDefinitionUpdate(context.Background(), in, before)...)
}

// CustomResourceDefinitionStatusUpdate judges a changed status.
func CustomResourceDefinitionStatusUpdate(crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	in, errs := internalCRD(crd)
	before, more := internalCRD(old)
	if errs = append(errs, more...); len(errs) > 0 {
		return errs
	}
	return append(unreadableFields(in), validation.ValidateUpdateCustomResourceDefinitionStatus(context.Background(), in, before)...)
}

// unreadableFields takes selectable fields away from schemas that are not
// structural, and says why: the library would follow their paths into a schema
// that it does not have.
func unreadableFields(crd *apiextensions.CustomResourceDefinition) (errs field.ErrorList) {
	check := func(fields *[]apiextensions.SelectableField, v *apiextensions.CustomResourceValidation, p *field.Path) {
		if len(*fields) == 0 || v == nil { // which the library refuses
			return
		}
		switch s, err := structural.NewStructural(v.OpenAPIV3Schema); {
		case err != nil:
			errs = append(errs, field.Invalid(p.Child("schema.openAPIV3Schema"), "", err.Error()))
		case s == nil:
			errs = append(errs, field.Invalid(p.Child("selectableFields"), "", "may only be set when validations.schema is included"))
		default:
			return
		}
		*fields = nil
	}
	check(&crd.Spec.SelectableFields, crd.Spec.Validation, specPath)
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		schema := v.Schema
		if schema == nil {
			schema = crd.Spec.Validation
		}
		check(&v.SelectableFields, schema, specPath.Child("versions").Index(i))
	}
	return errs
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

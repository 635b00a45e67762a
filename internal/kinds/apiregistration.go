package kinds

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
)

// APIService says which server answers for a group and version: this one, or
// the pods behind a service.
var APIService = &Kind{
	GVK: apiregistrationv1.SchemeGroupVersion.WithKind("APIService"), Resource: "apiservices", Singular: "apiservice", Categories: []string{"api-extensions"},
	Prefix: "apiregistration.k8s.io/apiservices",
	New:    func() Object { return &apiregistrationv1.APIService{} }, NewList: func() runtime.Object { return &apiregistrationv1.APIServiceList{} },
	Default:       do(defaults.APIService),
	PrepareCreate: do(prepare.APIServiceCreate), PrepareUpdate: doBoth(prepare.APIServiceUpdate),
	Validate: check(validate.APIService), ValidateUpdate: checkBoth(validate.APIServiceUpdate),
	Columns:        apiServiceColumns,
	Subresources:   map[string]Subresource{"status": status(prepare.APIServiceStatusUpdate, validate.APIServiceStatusUpdate)},
	RequireVersion: true,
}

var apiregistration = []*Kind{APIService}

var apiServiceColumns = []Column{
	nameColumn,
	cell("Service", "string", "The reference to the service that hosts this API endpoint.", func(a *apiregistrationv1.APIService) any {
		if s := a.Spec.Service; s != nil {
			return s.Namespace + "/" + s.Name
		}
		return "Local"
	}),
	cell("Available", "string", "Whether this service is available.", func(a *apiregistrationv1.APIService) any { return availability(a) }),
	ageColumn,
}

func availability(a *apiregistrationv1.APIService) string {
	for _, c := range a.Status.Conditions {
		if c.Type != apiregistrationv1.Available {
			continue
		}
		if c.Status == apiregistrationv1.ConditionTrue {
			return string(metav1.ConditionTrue)
		}
		return string(c.Status) + " (" + c.Reason + ")"
	}
	return string(metav1.ConditionUnknown)
}

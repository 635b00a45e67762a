package prepare

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// APIServiceCreate clears the status. What this server answers itself is
// available from the beginning.
func APIServiceCreate(a *apiregistrationv1.APIService) {
	fresh(a, false)
	a.Status = apiregistrationv1.APIServiceStatus{}
	if a.Spec.Service == nil {
		a.Status.Conditions = []apiregistrationv1.APIServiceCondition{{
			Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Local",
			Message: "Local APIServices are always available", LastTransitionTime: metav1.Time{Time: a.CreationTimestamp.Time},
		}}
	}
}

// APIServiceUpdate keeps the status.
func APIServiceUpdate(a, old *apiregistrationv1.APIService) {
	Keep(a, old)
	a.Status = old.Status
}

// APIServiceStatusUpdate keeps everything else.
func APIServiceStatusUpdate(a, old *apiregistrationv1.APIService) {
	Keep(a, old)
	a.Spec, a.Labels, a.Annotations = old.Spec, old.Labels, old.Annotations
	a.Finalizers, a.OwnerReferences = old.Finalizers, old.OwnerReferences
}

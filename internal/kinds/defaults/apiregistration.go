package defaults

import (
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"
)

// APIService defaults the port of the service.
func APIService(a *apiregistrationv1.APIService) {
	if s := a.Spec.Service; s != nil && s.Port == nil {
		s.Port = ptr.To[int32](443)
	}
}

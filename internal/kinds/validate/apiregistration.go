package validate

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Upper bounds of an APIService's priorities.
const (
	maxGroupPriority   = 20000
	maxVersionPriority = 1000
)

// APIService judges a new one.
func APIService(a *apiregistrationv1.APIService) field.ErrorList {
	want := a.Spec.Version + "." + a.Spec.Group
	e := meta(&a.ObjectMeta, false, func(name string, _ bool) []string {
		if bad := path.IsValidPathSegmentName(name); len(bad) > 0 {
			return bad
		}
		if name != want {
			return []string{fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)}
		}
		return nil
	})
	e.apiService(&a.Spec)
	return e.list
}

// APIServiceUpdate judges a changed one.
func APIServiceUpdate(a, old *apiregistrationv1.APIService) field.ErrorList {
	e := metaUpdate(&a.ObjectMeta, &old.ObjectMeta)
	if want := a.Spec.Version + "." + a.Spec.Group; a.Name != want {
		e.invalid(metaPath.Child("name"), a.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want))
	}
	e.apiService(&a.Spec)
	return e.list
}

func (e *errors) apiService(s *apiregistrationv1.APIServiceSpec) {
	group, version := specPath.Child("group"), specPath.Child("version")
	if s.Group == "" && s.Version != "v1" {
		e.add(field.Required(group, "only v1 may have an empty group and it better be legacy kube"))
	}
	if s.Group != "" {
		e.msgs(group, s.Group, validation.IsDNS1123Subdomain(s.Group))
	}
	e.msgs(version, s.Version, validation.IsDNS1035Label(s.Version))
	if p := s.GroupPriorityMinimum; p <= 0 || p > maxGroupPriority {
		e.invalid(specPath.Child("groupPriorityMinimum"), p, "must be positive and less than 20000")
	}
	if p := s.VersionPriority; p <= 0 || p > maxVersionPriority {
		e.invalid(specPath.Child("versionPriority"), p, "must be positive and less than 1000")
	}
	bundle, skip := specPath.Child("caBundle"), specPath.Child("insecureSkipTLSVerify")
	if s.Service == nil {
		if len(s.CABundle) > 0 {
			e.invalid(bundle, fmt.Sprintf("%d bytes", len(s.CABundle)), "local APIServices may not have a caBundle")
		}
		if s.InsecureSkipTLSVerify {
			e.invalid(skip, true, "local APIServices may not have insecureSkipTLSVerify")
		}
		return
	}
	service := specPath.Child("service")
	if s.Service.Namespace == "" {
		e.required(service.Child("namespace"))
	}
	if s.Service.Name == "" {
		e.required(service.Child("name"))
	}
	if port := s.Service.Port; port != nil {
		if bad := validation.IsValidPortNum(int(*port)); len(bad) > 0 {
			e.invalid(service.Child("port"), *port, "port is not valid: "+strings.Join(bad, ", "))
		}
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		e.invalid(skip, true, "may not be true if caBundle is present")
	}
	if len(s.CABundle) > 0 && !hasCertificate(s.CABundle) {
		e.invalid(bundle, fmt.Sprintf("%d bytes", len(s.CABundle)), "unable to load root certificates: no PEM encoded certificates found")
	}
}

// hasCertificate: with a bundle that holds none, every answer of the service
// would be refused without a word of why.
func hasCertificate(bundle []byte) bool {
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return false
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			return true
		}
	}
}

// APIServiceStatusUpdate judges a changed status.
func APIServiceStatusUpdate(a, old *apiregistrationv1.APIService) field.ErrorList {
	e := metaUpdate(&a.ObjectMeta, &old.ObjectMeta)
	for i, c := range a.Status.Conditions {
		in(e, statusPath.Child("conditions").Index(i).Child("status"), c.Status,
			apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown)
	}
	return e.list
}

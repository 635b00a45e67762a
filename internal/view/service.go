package view

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// ServiceAddress is where a port of a service leads: "address:port" of one of
// its ready endpoints, picked at random. The view has to hold services and
// endpoint slices with SlicesByService. Errors say 503, as a client of whatever
// stands behind the service will see them. A service outside of the cluster
// (ExternalName) leads nowhere: no server may be sent to a name that a user
// chose (CVE-2020-8555).
func ServiceAddress(s *Snapshot, namespace, name string, port int32) (string, error) {
	svc := Get[*corev1.Service](s, kinds.Service, namespace, name)
	switch {
	case svc == nil:
		return "", nowhere("service %q not found", name) // upstream's words
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return "", nowhere("service %q is of type ExternalName", name)
	}
	i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port })
	if i < 0 {
		return "", nowhere("no service port %d found for service %q", port, name)
	}
	var all []string
	for slice := range By[*discoveryv1.EndpointSlice](s, SlicesByService, namespace+"/"+name) {
		for _, p := range slice.Ports {
			if p.Port == nil || portName(p.Name) != svc.Spec.Ports[i].Name {
				continue
			}
			for _, e := range slice.Endpoints {
				if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					all = append(all, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	if len(all) == 0 {
		return "", nowhere("no endpoints available for service %q", name)
	}
	return all[rand.IntN(len(all))], nil
}

func portName(name *string) string {
	if name == nil {
		return ""
	}
	return *name
}

func nowhere(format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable,
		Reason: metav1.StatusReasonServiceUnavailable, Message: fmt.Sprintf(format, args...)}}
}

package kinds

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
)

// The fields that field selectors may name, as upstream.

type selectable = map[string]func(Object) string

var podFields = selectable{
	"spec.nodeName":            text(func(p *corev1.Pod) string { return p.Spec.NodeName }),
	"spec.restartPolicy":       text(func(p *corev1.Pod) string { return string(p.Spec.RestartPolicy) }),
	"spec.schedulerName":       text(func(p *corev1.Pod) string { return p.Spec.SchedulerName }),
	"spec.serviceAccountName":  text(func(p *corev1.Pod) string { return p.Spec.ServiceAccountName }),
	"spec.hostNetwork":         text(func(p *corev1.Pod) string { return strconv.FormatBool(p.Spec.HostNetwork) }),
	"status.phase":             text(func(p *corev1.Pod) string { return string(p.Status.Phase) }),
	"status.nominatedNodeName": text(func(p *corev1.Pod) string { return p.Status.NominatedNodeName }),
	"status.podIP": text(func(p *corev1.Pod) string {
		if len(p.Status.PodIPs) > 0 {
			return p.Status.PodIPs[0].IP
		}
		return p.Status.PodIP
	}),
	"status.podIPs": text(func(p *corev1.Pod) string {
		if len(p.Status.PodIPs) > 0 {
			return p.Status.PodIPs[0].IP
		}
		return p.Status.PodIP
	}),
}

var namespaceFields = selectable{
	"status.phase": text(func(ns *corev1.Namespace) string { return string(ns.Status.Phase) }),
	// An old name of metadata.name.
	"name": text(func(ns *corev1.Namespace) string { return ns.Name }),
}

// oldName is an old name of metadata.name.
var oldName = selectable{"name": func(o Object) string { return o.GetName() }}

var nodeFields = selectable{
	"spec.unschedulable": text(func(n *corev1.Node) string { return strconv.FormatBool(n.Spec.Unschedulable) }),
}

var secretFields = selectable{
	"type": text(func(s *corev1.Secret) string { return string(s.Type) }),
}

var serviceFields = selectable{
	"spec.clusterIP": text(func(s *corev1.Service) string { return s.Spec.ClusterIP }),
	"spec.type":      text(func(s *corev1.Service) string { return string(s.Spec.Type) }),
}

var replicaSetFields = selectable{
	"status.replicas": text(func(rs *appsv1.ReplicaSet) string { return strconv.Itoa(int(rs.Status.Replicas)) }),
}

var replicationControllerFields = selectable{
	"status.replicas": text(func(rc *corev1.ReplicationController) string { return strconv.Itoa(int(rc.Status.Replicas)) }),
}

var certificateSigningRequestFields = selectable{
	"spec.signerName": text(func(c *certificatesv1.CertificateSigningRequest) string { return c.Spec.SignerName }),
}

var eventFields = selectable{
	"involvedObject.kind":            text(func(e *corev1.Event) string { return e.InvolvedObject.Kind }),
	"involvedObject.namespace":       text(func(e *corev1.Event) string { return e.InvolvedObject.Namespace }),
	"involvedObject.name":            text(func(e *corev1.Event) string { return e.InvolvedObject.Name }),
	"involvedObject.uid":             text(func(e *corev1.Event) string { return string(e.InvolvedObject.UID) }),
	"involvedObject.apiVersion":      text(func(e *corev1.Event) string { return e.InvolvedObject.APIVersion }),
	"involvedObject.resourceVersion": text(func(e *corev1.Event) string { return e.InvolvedObject.ResourceVersion }),
	"involvedObject.fieldPath":       text(func(e *corev1.Event) string { return e.InvolvedObject.FieldPath }),
	"reason":                         text(func(e *corev1.Event) string { return e.Reason }),
	"reportingComponent":             text(func(e *corev1.Event) string { return e.ReportingController }),
	"source": text(func(e *corev1.Event) string {
		if e.Source.Component == "" {
			return e.ReportingController
		}
		return e.Source.Component
	}),
	"type": text(func(e *corev1.Event) string { return e.Type }),
}

var eventsEventFields = selectable{
	"regarding.kind":            text(func(e *eventsv1.Event) string { return e.Regarding.Kind }),
	"regarding.namespace":       text(func(e *eventsv1.Event) string { return e.Regarding.Namespace }),
	"regarding.name":            text(func(e *eventsv1.Event) string { return e.Regarding.Name }),
	"regarding.uid":             text(func(e *eventsv1.Event) string { return string(e.Regarding.UID) }),
	"regarding.apiVersion":      text(func(e *eventsv1.Event) string { return e.Regarding.APIVersion }),
	"regarding.resourceVersion": text(func(e *eventsv1.Event) string { return e.Regarding.ResourceVersion }),
	"regarding.fieldPath":       text(func(e *eventsv1.Event) string { return e.Regarding.FieldPath }),
	"reason":                    text(func(e *eventsv1.Event) string { return e.Reason }),
	"reportingController":       text(func(e *eventsv1.Event) string { return e.ReportingController }),
	"type":                      text(func(e *eventsv1.Event) string { return e.Type }),
}

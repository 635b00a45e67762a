package prepare

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// DeploymentCreate clears the status.
func DeploymentCreate(d *appsv1.Deployment) {
	fresh(d, true)
	d.Status = appsv1.DeploymentStatus{}
}

// DeploymentUpdate keeps the status. Annotations count as a change: the
// controller copies them to replica sets.
func DeploymentUpdate(d, old *appsv1.Deployment) {
	Keep(d, old)
	d.Status = old.Status
	bump(d, old, differ(d.Spec, old.Spec) || differ(d.Annotations, old.Annotations))
}

// DeploymentStatusUpdate keeps spec and labels.
func DeploymentStatusUpdate(d, old *appsv1.Deployment) {
	Keep(d, old)
	d.Spec, d.Labels = old.Spec, old.Labels
}

// ReplicaSetCreate clears the status.
func ReplicaSetCreate(rs *appsv1.ReplicaSet) {
	fresh(rs, true)
	rs.Status = appsv1.ReplicaSetStatus{}
}

// ReplicaSetUpdate keeps the status and counts changes.
func ReplicaSetUpdate(rs, old *appsv1.ReplicaSet) {
	Keep(rs, old)
	rs.Status = old.Status
	bump(rs, old, differ(rs.Spec, old.Spec))
}

// ReplicaSetStatusUpdate keeps the spec.
func ReplicaSetStatusUpdate(rs, old *appsv1.ReplicaSet) {
	Keep(rs, old)
	rs.Spec = old.Spec
}

// DaemonSetCreate clears the status.
func DaemonSetCreate(ds *appsv1.DaemonSet) {
	fresh(ds, true)
	ds.Status = appsv1.DaemonSetStatus{}
	setTemplateGeneration(ds, max(1, templateGeneration(ds)))
}

// DaemonSetUpdate keeps the status and counts changes.
func DaemonSetUpdate(ds, old *appsv1.DaemonSet) {
	Keep(ds, old)
	ds.Status = old.Status
	n := templateGeneration(old)
	if differ(ds.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(ds, n)
	bump(ds, old, differ(ds.Spec, old.Spec))
}

// templateGeneration counts the templates of a daemon set, in an annotation
// since the field for it is gone: it is on the set's pods as a label.
func templateGeneration(ds *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(ds *appsv1.DaemonSet, n int64) {
	text := strconv.FormatInt(n, 10)
	if ds.Annotations[appsv1.DeprecatedTemplateGeneration] == text {
		return
	}
	notes := maps.Clone(ds.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	notes[appsv1.DeprecatedTemplateGeneration] = text
	ds.Annotations = notes
}

// DaemonSetStatusUpdate keeps the spec.
func DaemonSetStatusUpdate(ds, old *appsv1.DaemonSet) {
	Keep(ds, old)
	ds.Spec = old.Spec
}

// StatefulSetCreate clears the status.
func StatefulSetCreate(sts *appsv1.StatefulSet) {
	fresh(sts, true)
	sts.Status = appsv1.StatefulSetStatus{}
}

// StatefulSetUpdate keeps the status and counts changes.
func StatefulSetUpdate(sts, old *appsv1.StatefulSet) {
	Keep(sts, old)
	sts.Status = old.Status
	bump(sts, old, differ(sts.Spec, old.Spec))
}

// StatefulSetStatusUpdate keeps the spec.
func StatefulSetStatusUpdate(sts, old *appsv1.StatefulSet) {
	Keep(sts, old)
	sts.Spec = old.Spec
}

// CertificateSigningRequestCreate clears the status. Who asks is written by
// the apiserver.
func CertificateSigningRequestCreate(csr *certificatesv1.CertificateSigningRequest) {
	fresh(csr, false)
	csr.Status = certificatesv1.CertificateSigningRequestStatus{}
}

// CertificateSigningRequestUpdate changes metadata only.
func CertificateSigningRequestUpdate(csr, old *certificatesv1.CertificateSigningRequest) {
	Keep(csr, old)
	csr.Spec, csr.Status = old.Spec, old.Status
}

// CertificateSigningRequestStatusUpdate keeps the spec.
func CertificateSigningRequestStatusUpdate(csr, old *certificatesv1.CertificateSigningRequest) {
	Keep(csr, old)
	csr.Spec = old.Spec
}

// CertificateSigningRequestApprovalUpdate changes the conditions alone.
func CertificateSigningRequestApprovalUpdate(csr, old *certificatesv1.CertificateSigningRequest) {
	Keep(csr, old)
	conditions := csr.Status.Conditions
	csr.Spec, csr.Status = old.Spec, old.Status
	csr.Status.Conditions = conditions
}

// IngressCreate clears the status.
func IngressCreate(ing *networkingv1.Ingress) {
	fresh(ing, true)
	ing.Status = networkingv1.IngressStatus{}
}

// IngressUpdate keeps the status and counts changes.
func IngressUpdate(ing, old *networkingv1.Ingress) {
	Keep(ing, old)
	ing.Status = old.Status
	bump(ing, old, differ(ing.Spec, old.Spec))
}

// IngressStatusUpdate keeps the spec.
func IngressStatusUpdate(ing, old *networkingv1.Ingress) {
	Keep(ing, old)
	ing.Spec = old.Spec
}

// IngressClassUpdate counts changes.
func IngressClassUpdate(ic, old *networkingv1.IngressClass) {
	Keep(ic, old)
	bump(ic, old, differ(ic.Spec, old.Spec))
}

// NetworkPolicyUpdate counts changes.
func NetworkPolicyUpdate(np, old *networkingv1.NetworkPolicy) {
	Keep(np, old)
	bump(np, old, differ(np.Spec, old.Spec))
}

package prepare

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds/defaults"
)

// NamespaceCreate makes a namespace active, with the finalizer that holds it
// until it is empty.
func NamespaceCreate(ns *corev1.Namespace) {
	fresh(ns, false)
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
	defaults.Namespace(ns) // the name may be generated
}

// NamespaceUpdate changes neither the finalizers of the spec nor the status.
func NamespaceUpdate(ns, old *corev1.Namespace) {
	Keep(ns, old)
	ns.Spec.Finalizers, ns.Status = old.Spec.Finalizers, old.Status
}

// NamespaceStatusUpdate changes the status alone.
func NamespaceStatusUpdate(ns, old *corev1.Namespace) {
	Keep(ns, old)
	ns.Spec = old.Spec
}

// NamespaceFinalizeUpdate changes the finalizers of the spec alone.
func NamespaceFinalizeUpdate(ns, old *corev1.Namespace) {
	Keep(ns, old)
	ns.Status = old.Status
}

// NodeUpdate keeps the status. A node is created with its status, as the
// kubelet knows it.
func NodeUpdate(node, old *corev1.Node) {
	Keep(node, old)
	node.Status = old.Status
}

// NodeStatusUpdate keeps the spec.
func NodeStatusUpdate(node, old *corev1.Node) {
	Keep(node, old)
	node.Spec = old.Spec
}

// PersistentVolumeCreate starts a volume as pending.
func PersistentVolumeCreate(pv *corev1.PersistentVolume) {
	fresh(pv, false)
	made := pv.CreationTimestamp
	pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &made}
}

// PersistentVolumeUpdate keeps the status.
func PersistentVolumeUpdate(pv, old *corev1.PersistentVolume) {
	Keep(pv, old)
	pv.Status = old.Status
}

// PersistentVolumeStatusUpdate keeps the spec.
func PersistentVolumeStatusUpdate(pv, old *corev1.PersistentVolume) {
	Keep(pv, old)
	pv.Spec = old.Spec
}

// PersistentVolumeStamp says when the phase changed, if the client does not.
func PersistentVolumeStamp(pv, old *corev1.PersistentVolume, now metav1.Time) {
	at, before := &pv.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime
	switch moved := pv.Status.Phase != old.Status.Phase; {
	case moved && (*at == nil || (*at).Equal(before)):
		*at = &now
	case !moved && *at == nil:
		*at = before
	}
}

// PersistentVolumeClaimCreate starts a claim as pending.
func PersistentVolumeClaimCreate(pvc *corev1.PersistentVolumeClaim) {
	fresh(pvc, false)
	pvc.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
	mirrorDataSource(&pvc.Spec, nil)
}

// PersistentVolumeClaimUpdate keeps the status.
func PersistentVolumeClaimUpdate(pvc, old *corev1.PersistentVolumeClaim) {
	Keep(pvc, old)
	pvc.Status = old.Status
	mirrorDataSource(&pvc.Spec, &old.Spec)
}

// PersistentVolumeClaimStatusUpdate keeps the spec.
func PersistentVolumeClaimStatusUpdate(pvc, old *corev1.PersistentVolumeClaim) {
	Keep(pvc, old)
	pvc.Spec = old.Spec
	if old.Status.HealthStatus == nil {
		pvc.Status.HealthStatus = nil // behind an alpha gate upstream
	}
}

// mirrorDataSource: the older field and the newer one say the same. The older
// one alone has always been cleared of what is neither a claim nor a snapshot.
func mirrorDataSource(spec, old *corev1.PersistentVolumeClaimSpec) {
	if had := old != nil && (old.DataSource != nil || old.DataSourceRef != nil); !had && spec.DataSourceRef == nil && !claimOrSnapshot(spec.DataSource) {
		spec.DataSource = nil
	}
	switch src, ref := spec.DataSource, spec.DataSourceRef; {
	case src != nil && ref == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: src.APIGroup, Kind: src.Kind, Name: src.Name}
	case ref != nil && src == nil && (ref.Namespace == nil || *ref.Namespace == ""):
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

func claimOrSnapshot(src *corev1.TypedLocalObjectReference) bool {
	if src == nil {
		return false
	}
	group := ""
	if src.APIGroup != nil {
		group = *src.APIGroup
	}
	return src.Kind == "PersistentVolumeClaim" && group == "" || src.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io"
}

// ReplicationControllerCreate clears the status.
func ReplicationControllerCreate(rc *corev1.ReplicationController) {
	fresh(rc, true)
	rc.Status = corev1.ReplicationControllerStatus{}
}

// ReplicationControllerUpdate keeps the status and counts changes.
func ReplicationControllerUpdate(rc, old *corev1.ReplicationController) {
	Keep(rc, old)
	rc.Status = old.Status
	bump(rc, old, differ(rc.Spec, old.Spec))
}

// ReplicationControllerStatusUpdate keeps the spec.
func ReplicationControllerStatusUpdate(rc, old *corev1.ReplicationController) {
	Keep(rc, old)
	rc.Spec = old.Spec
}

// ResourceQuotaCreate clears the status.
func ResourceQuotaCreate(q *corev1.ResourceQuota) {
	fresh(q, false)
	q.Status = corev1.ResourceQuotaStatus{}
}

// ResourceQuotaUpdate keeps the status.
func ResourceQuotaUpdate(q, old *corev1.ResourceQuota) {
	Keep(q, old)
	q.Status = old.Status
}

// ResourceQuotaStatusUpdate keeps the spec.
func ResourceQuotaStatusUpdate(q, old *corev1.ResourceQuota) {
	Keep(q, old)
	q.Spec = old.Spec
}

// SecretUpdate keeps the type that an update leaves out.
func SecretUpdate(s, old *corev1.Secret) {
	Keep(s, old)
	if s.Type == "" {
		s.Type = old.Type
	}
}

// ServiceAccountCreate keeps only the names of the listed secrets.
func ServiceAccountCreate(sa *corev1.ServiceAccount) {
	fresh(sa, false)
	bareSecrets(sa)
}

// ServiceAccountUpdate likewise.
func ServiceAccountUpdate(sa, old *corev1.ServiceAccount) {
	Keep(sa, old)
	bareSecrets(sa)
}

func bareSecrets(sa *corev1.ServiceAccount) {
	for i, s := range sa.Secrets {
		sa.Secrets[i] = corev1.ObjectReference{Name: s.Name}
	}
}

// PodTemplateUpdate counts changes.
func PodTemplateUpdate(t, old *corev1.PodTemplate) {
	Keep(t, old)
	bump(t, old, differ(t.Template, old.Template))
}

package defaults

import (
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Deployment rolls over by a quarter at a time and keeps ten revisions.
func Deployment(d *appsv1.Deployment) {
	PodSpec(&d.Spec.Template.Spec)
	set(&d.Spec.Replicas, 1)
	set(&d.Spec.RevisionHistoryLimit, 10)
	set(&d.Spec.ProgressDeadlineSeconds, 600)
	s := &d.Spec.Strategy
	or(&s.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Type == appsv1.RollingUpdateDeploymentStrategyType {
		set(&s.RollingUpdate, appsv1.RollingUpdateDeployment{})
		set(&s.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		set(&s.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
}

// ReplicaSet wants one pod.
func ReplicaSet(rs *appsv1.ReplicaSet) {
	PodSpec(&rs.Spec.Template.Spec)
	set(&rs.Spec.Replicas, 1)
}

// DaemonSet replaces one pod at a time.
func DaemonSet(ds *appsv1.DaemonSet) {
	PodSpec(&ds.Spec.Template.Spec)
	set(&ds.Spec.RevisionHistoryLimit, 10)
	s := &ds.Spec.UpdateStrategy
	or(&s.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		set(&s.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		set(&s.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		set(&s.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
}

// StatefulSet goes in order, one at a time, and keeps its volumes.
func StatefulSet(sts *appsv1.StatefulSet) {
	spec := &sts.Spec
	PodSpec(&spec.Template.Spec)
	set(&spec.Replicas, 1)
	set(&spec.RevisionHistoryLimit, 10)
	or(&spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	or(&spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		set(&spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		set(&spec.UpdateStrategy.RollingUpdate.Partition, 0)
		set(&spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	set(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	or(&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	or(&spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	for i := range spec.VolumeClaimTemplates {
		t := &spec.VolumeClaimTemplates[i]
		t.APIVersion, t.Kind = "v1", "PersistentVolumeClaim" // so that naming them is no change of an immutable field
		PersistentVolumeClaim(t)
	}
}

// NetworkPolicy is about ingress, and about egress if it has such rules.
func NetworkPolicy(np *networkingv1.NetworkPolicy) {
	for i := range np.Spec.Ingress {
		policyPorts(np.Spec.Ingress[i].Ports)
	}
	for i := range np.Spec.Egress {
		policyPorts(np.Spec.Egress[i].Ports)
	}
	if len(np.Spec.PolicyTypes) == 0 {
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(np.Spec.Egress) > 0 {
			np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func policyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		set(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// IngressClass parameters are cluster-scoped.
func IngressClass(ic *networkingv1.IngressClass) {
	if ic.Spec.Parameters != nil {
		set(&ic.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

// RoleBinding names roles and subjects of the one group there is.
func RoleBinding(rb *rbacv1.RoleBinding) {
	or(&rb.RoleRef.APIGroup, rbacv1.GroupName)
	subjects(rb.Subjects)
}

// ClusterRoleBinding likewise.
func ClusterRoleBinding(crb *rbacv1.ClusterRoleBinding) {
	or(&crb.RoleRef.APIGroup, rbacv1.GroupName)
	subjects(crb.Subjects)
}

func subjects(list []rbacv1.Subject) {
	for i := range list {
		if list[i].Kind == rbacv1.UserKind || list[i].Kind == rbacv1.GroupKind {
			or(&list[i].APIGroup, rbacv1.GroupName)
		}
	}
}

// PriorityClass preempts.
func PriorityClass(pc *schedulingv1.PriorityClass) {
	set(&pc.PreemptionPolicy, corev1.PreemptLowerPriority)
}

// TokenRequest asks for an hour.
func TokenRequest(tr *authenticationv1.TokenRequest) { set(&tr.Spec.ExpirationSeconds, 3600) }

package validate

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// StatefulSet judges a new stateful set. Its name becomes the host name of its
// pods.
func StatefulSet(sts *appsv1.StatefulSet) field.ErrorList {
	e := meta(&sts.ObjectMeta, true, label)
	e.statefulSet(&sts.Spec)
	for i := range sts.Spec.VolumeClaimTemplates { // later they cannot change
		e.claim(specPath.Child("volumeClaimTemplates").Index(i).Child("spec"), &sts.Spec.VolumeClaimTemplates[i].Spec)
	}
	if name := sts.Spec.ServiceName; name != "" { // later it cannot change
		e.dnsLabel(specPath.Child("serviceName"), name)
	}
	return e.list
}

// StatefulSetUpdate judges a changed one.
func StatefulSetUpdate(sts, old *appsv1.StatefulSet) field.ErrorList {
	e := metaUpdate(&sts.ObjectMeta, &old.ObjectMeta)
	e.statefulSet(&sts.Spec)
	was := &old.Spec
	e.immutable(specPath.Child("selector"), sts.Spec.Selector, was.Selector)
	e.immutable(specPath.Child("volumeClaimTemplates"), sts.Spec.VolumeClaimTemplates, was.VolumeClaimTemplates)
	e.immutable(specPath.Child("serviceName"), sts.Spec.ServiceName, was.ServiceName)
	e.immutable(specPath.Child("podManagementPolicy"), sts.Spec.PodManagementPolicy, was.PodManagementPolicy)
	return e.list
}

func (e *errors) statefulSet(spec *appsv1.StatefulSetSpec) {
	switch spec.PodManagementPolicy {
	case "":
		e.required(specPath.Child("podManagementPolicy"))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		e.invalid(specPath.Child("podManagementPolicy"), spec.PodManagementPolicy,
			fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement))
	}
	e.statefulStrategy(specPath.Child("updateStrategy"), &spec.UpdateStrategy)
	if r := spec.PersistentVolumeClaimRetentionPolicy; r != nil {
		p := specPath.Child("persistentVolumeClaimRetentionPolicy")
		const retain, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		oneOf(e, p.Child("whenDeleted"), r.WhenDeleted, retain, remove)
		oneOf(e, p.Child("whenScaled"), r.WhenScaled, retain, remove)
	}
	e.replicas(spec.Replicas)
	e.notNegative(specPath.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	if spec.Ordinals != nil {
		e.notNegative(specPath.Child("ordinals", "start"), int64(spec.Ordinals.Start))
	}
	e.selected(spec.Selector, &spec.Template, "statefulset")
	e.statefulTemplate(spec)
	e.longRunningTemplate(specPath.Child("template"), &spec.Template, "StatefulSet")
}

// statefulTemplate may mount the volumes of its claims, which take the place of
// the template's own of those names.
func (e *errors) statefulTemplate(spec *appsv1.StatefulSetSpec) {
	t := spec.Template
	t.Spec.Subdomain, t.Spec.Hostname = "", "" // the controller gives each pod its own
	if len(spec.VolumeClaimTemplates) > 0 {
		var volumes []corev1.Volume
		claimed := make(map[string]bool, len(spec.VolumeClaimTemplates))
		for i := range spec.VolumeClaimTemplates {
			name := spec.VolumeClaimTemplates[i].Name
			if claimed[name] {
				continue
			}
			claimed[name] = true
			volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
		for i := range t.Spec.Volumes {
			if !claimed[t.Spec.Volumes[i].Name] {
				volumes = append(volumes, t.Spec.Volumes[i])
			}
		}
		t.Spec.Volumes = volumes
	}
	e.template(specPath.Child("template"), &t)
}

func (e *errors) statefulStrategy(p *field.Path, s *appsv1.StatefulSetUpdateStrategy) {
	switch s.Type {
	case "":
		e.required(p)
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			e.invalid(p.Child("rollingUpdate"), s.RollingUpdate.String(), fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		r, at := s.RollingUpdate, p.Child("rollingUpdate")
		if r == nil {
			return
		}
		if r.Partition != nil {
			e.notNegative(at.Child("partition"), int64(*r.Partition))
		}
		if r.MaxUnavailable != nil {
			e.portion(at.Child("maxUnavailable"), r.MaxUnavailable)
			e.atMostAll(at.Child("maxUnavailable"), r.MaxUnavailable)
			if zero(r.MaxUnavailable) {
				e.invalid(at.Child("maxUnavailable"), words(r.MaxUnavailable), "cannot be 0")
			}
		}
	default:
		e.invalid(p, s.Type, fmt.Sprintf("must be '%s' or '%s'", appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))
	}
}

// StatefulSetStatusUpdate judges the counts.
func StatefulSetStatusUpdate(sts, old *appsv1.StatefulSet) field.ErrorList {
	e := metaUpdate(&sts.ObjectMeta, &old.ObjectMeta)
	st := &sts.Status
	e.notNegative(statusPath.Child("observedGeneration"), st.ObservedGeneration)
	e.countsAs("status.readyReplicas", st.Replicas, st.ReadyReplicas, st.AvailableReplicas, count{"currentReplicas", st.CurrentReplicas}, count{"updatedReplicas", st.UpdatedReplicas})
	e.collisions(st.CollisionCount, old.Status.CollisionCount)
	return e.list
}

package why

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"

	"knarr.dev/knarr/internal/kinds"
)

// at applies the rule of an object's kind; nil: nothing is the matter with it.
func (l *look) at(k *kinds.Kind, o kinds.Object) *finding {
	if ns, ok := o.(*corev1.Namespace); ok {
		return l.namespace(ns)
	}
	if p, ok := o.(*corev1.Pod); ok {
		return l.pod(p)
	}
	if o.GetDeletionTimestamp() != nil {
		return l.ending(k, o)
	}
	switch o := o.(type) {
	case *appsv1.Deployment:
		return l.deployment(o)
	case *appsv1.ReplicaSet:
		return l.replicas(setOf(o))
	case *corev1.ReplicationController:
		return l.replicas(controllerOf(o))
	case *appsv1.StatefulSet:
		return l.statefulSet(o)
	case *appsv1.DaemonSet:
		return l.daemonSet(o)
	case *batchv1.Job:
		return l.job(o)
	case *batchv1.CronJob:
		return l.cronJob(o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		return l.autoscaler(o)
	case *corev1.Service:
		return l.service(o)
	case *corev1.PersistentVolumeClaim:
		return l.claim(o)
	case *corev1.PersistentVolume:
		return l.volume(o)
	case *corev1.Node:
		return l.node(o)
	case *policyv1.PodDisruptionBudget:
		return l.budget(o)
	case *networkingv1.NetworkPolicy:
		return unheeded(k, o)
	case *networkingv1.Ingress:
		if len(o.Status.LoadBalancer.Ingress) == 0 {
			return unheeded(k, o)
		}
	}
	return conditions(k, o)
}

// unheeded: an object of a kind that is kept, but that knarr does not act on.
func unheeded(k *kinds.Kind, o kinds.Object) *finding {
	if k.Warnings == nil {
		return nil
	}
	for _, w := range k.Warnings(o, nil) {
		return about(k, o, "%s", w).help("run a controller in the cluster that does")
	}
	return nil
}

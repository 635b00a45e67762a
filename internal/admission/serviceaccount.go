package admission

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	defaultServiceAccount = "default"
	tokenMount            = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolumePrefix     = "kube-api-access-"
	// tokenSeconds is an hour and a little, so that a token that is refreshed
	// at 80 % of its life is never close to its end; upstream's figure.
	tokenSeconds    = 3607
	rootCAConfigMap = "kube-root-ca.crt"
)

// serviceAccount gives each pod a service account and mounts its token.
type serviceAccount struct{ view *view.View }

func (serviceAccount) Name() string { return "ServiceAccount" }

func (p serviceAccount) Mutate(_ context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || r.Operation != Create || r.Ref.Sub != "" {
		return nil
	}
	if pod.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		return p.mirror(r, pod)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	sa := view.Get[*corev1.ServiceAccount](p.view.Snapshot(), kinds.ServiceAccount, r.Ref.Namespace, pod.Spec.ServiceAccountName)
	if sa == nil {
		return apierrors.NewForbidden(kinds.Pod.GroupResource(), r.Ref.Name,
			fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found", r.Ref.Namespace, pod.Spec.ServiceAccountName, pod.Spec.ServiceAccountName))
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append([]corev1.LocalObjectReference(nil), sa.ImagePullSecrets...)
	}
	if wantsToken(sa, pod) {
		mountToken(pod)
	}
	return nil
}

// mirror pods show what runs on a node; they never get credentials.
func (serviceAccount) mirror(r *Request, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return apierrors.NewForbidden(kinds.Pod.GroupResource(), r.Ref.Name, fmt.Errorf("a mirror pod may not reference service accounts"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return apierrors.NewForbidden(kinds.Pod.GroupResource(), r.Ref.Name, fmt.Errorf("a mirror pod may not use ServiceAccountToken volume projections"))
			}
		}
	}
	return nil
}

func (serviceAccount) Validate(context.Context, *Request) error { return nil }

func wantsToken(sa *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case sa.AutomountServiceAccountToken != nil:
		return *sa.AutomountServiceAccountToken
	}
	return true
}

// mountToken adds one volume and mounts it where a container has nothing there.
func mountToken(pod *corev1.Pod) {
	name := ""
	for _, v := range pod.Spec.Volumes {
		if len(v.Name) > len(tokenVolumePrefix) && v.Name[:len(tokenVolumePrefix)] == tokenVolumePrefix {
			name = v.Name
		}
	}
	have := name != ""
	if !have {
		b := make([]byte, 3)
		_, _ = rand.Read(b) // never fails, crypto/rand
		name = tokenVolumePrefix + hex.EncodeToString(b)[:5]
	}
	used := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			used = mountInto(&list[i], name) || used
		}
	}
	if used && !have {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

func mountInto(c *corev1.Container, name string) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == tokenMount {
			return false
		}
	}
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMount})
	return true
}

func tokenVolume(name string) corev1.Volume {
	seconds, mode := int64(tokenSeconds), corev1.ProjectedVolumeSourceDefaultMode
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
		},
	}}}
}

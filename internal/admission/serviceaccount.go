package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/auth/podrefs"
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
	// enforceSecrets on an account limits its pods to the secrets that the
	// account lists. Deprecated, but still honoured upstream.
	enforceSecrets = "kubernetes.io/enforce-mountable-secrets"
)

var (
	errMirrorAccount = errors.New("a mirror pod may not reference service accounts")
	errMirrorSecrets = errors.New("a mirror pod may not reference secrets")
	errMirrorToken   = errors.New("a mirror pod may not use ServiceAccountToken volume projections")
)

// serviceAccount gives each pod a service account and mounts its token.
type serviceAccount struct{ c *Config }

func (serviceAccount) Name() string { return "ServiceAccount" }

func (p serviceAccount) Mutate(ctx context.Context, r *Request) error {
	pod, ok := created[*corev1.Pod](r, kinds.Pod)
	if !ok {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return checkMirror(r, pod) // nothing is added: a node writes it as it runs
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	sa, err := p.account(ctx, r, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(sa.ImagePullSecrets)
	}
	if wantsToken(sa, pod) {
		mountToken(pod, p.c.Suffix)
	}
	return nil
}

// Validate runs on what all plugins made of the pod. Ephemeral containers come
// with an update of their own, and name secrets like any other container
// (CVE-2023-2728, CVE-2024-3177).
func (p serviceAccount) Validate(ctx context.Context, r *Request) error {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || r.Ref.Kind != kinds.Pod || !(r.Operation == Create && r.Ref.Sub == "" || r.Operation == Update && r.Ref.Sub == "ephemeralcontainers") {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return checkMirror(r, pod)
	}
	sa, err := p.account(ctx, r, pod.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if sa.Annotations[enforceSecrets] != "true" {
		return nil
	}
	for i, s := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(sa.ImagePullSecrets, s) {
			return forbid(r, fmt.Errorf(`imagePullSecrets[%d].name="%s" is not allowed because service account %s does not reference that imagePullSecret`, i, s.Name, sa.Name))
		}
	}
	others := *pod // a secret for images may not be mounted for that
	others.Spec.ImagePullSecrets = nil
	for k, name := range podrefs.All(&others) {
		if k == kinds.Secret && !slices.ContainsFunc(sa.Secrets, func(s corev1.ObjectReference) bool { return s.Name == name }) {
			return forbid(r, fmt.Errorf(`a reference to secret.secretName="%s" is not allowed because service account %s does not reference that secret`, name, sa.Name))
		}
	}
	return nil
}

// account looks the account up. Only the default one is waited for: a
// controller makes it right after the namespace.
func (p serviceAccount) account(ctx context.Context, r *Request, name string) (*corev1.ServiceAccount, error) {
	sa, err := find[*corev1.ServiceAccount](ctx, p.c, kinds.ServiceAccount, r.Ref.Namespace, name)
	if err != nil {
		return nil, err
	}
	if sa == nil && name == defaultServiceAccount && p.c.AccountPatience > 0 {
		sa = p.await(ctx, r.Ref.Namespace, name)
	}
	if sa == nil {
		refusal := forbid(r, fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found", r.Ref.Namespace, name, name))
		refusal.ErrStatus.Details.RetryAfterSeconds = 1
		return nil, refusal
	}
	return sa, nil
}

func (p serviceAccount) await(ctx context.Context, namespace, name string) *corev1.ServiceAccount {
	ctx, cancel := context.WithTimeout(ctx, p.c.AccountPatience)
	defer cancel()
	for {
		moved := p.c.View.Moved()
		if sa := view.Now[*corev1.ServiceAccount](p.c.View, kinds.ServiceAccount, namespace, name); sa != nil {
			return sa
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil
		}
	}
}

// checkMirror: a mirror pod shows what runs on a node; it gets no credentials.
func checkMirror(r *Request, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return forbid(r, errMirrorAccount)
	}
	for k := range podrefs.All(pod) {
		if k == kinds.Secret {
			return forbid(r, errMirrorSecrets)
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			return forbid(r, errMirrorToken)
		}
	}
	return nil
}

// wantsToken: the pod's word counts before the account's.
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
func mountToken(pod *corev1.Pod, suffix func() string) {
	have := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && strings.HasPrefix(v.Name, tokenVolumePrefix)
	})
	var name string
	if have >= 0 {
		name = pod.Spec.Volumes[have].Name
	} else {
		name = freeVolumeName(pod, suffix)
	}
	used := false
	for _, list := range [...][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			used = mountInto(&list[i], name) || used
		}
	}
	if used && have < 0 {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

// freeVolumeName avoids the names that the pod has; validation refuses it in
// the end should all tries be taken.
func freeVolumeName(pod *corev1.Pod, suffix func() string) (name string) {
	for range 8 {
		name = tokenVolumePrefix + suffix()
		if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name }) {
			break
		}
	}
	return name
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

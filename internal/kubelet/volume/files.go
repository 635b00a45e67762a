package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/knarr/internal/kubelet/spec"
)

const (
	defaultMode = 0o644
	// tokenSeconds is the default life of a projected token.
	tokenSeconds = 3600
)

// files of a volume that comes from the API; secret tells that they must not
// reach a disk.
func (p *Pods) files(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (map[string]File, bool, error) {
	out := map[string]File{}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return out, false, p.configMap(ctx, pod, s.Name, s.Items, mode(s.DefaultMode), isTrue(s.Optional), out)
	case v.Secret != nil:
		s := v.Secret
		return out, true, p.secret(ctx, pod, s.SecretName, s.Items, mode(s.DefaultMode), isTrue(s.Optional), out)
	case v.DownwardAPI != nil:
		return out, false, p.downward(pod, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode), out)
	case v.Projected != nil:
		return out, true, p.projected(ctx, pod, v.Name, v.Projected, out)
	}
	return nil, false, fmt.Errorf("volume type is not supported by this node")
}

func (p *Pods) projected(ctx context.Context, pod *corev1.Pod, volume string, v *corev1.ProjectedVolumeSource, out map[string]File) error {
	m := mode(v.DefaultMode)
	for i, s := range v.Sources {
		var err error
		switch {
		case s.ConfigMap != nil:
			err = p.configMap(ctx, pod, s.ConfigMap.Name, s.ConfigMap.Items, m, isTrue(s.ConfigMap.Optional), out)
		case s.Secret != nil:
			err = p.secret(ctx, pod, s.Secret.Name, s.Secret.Items, m, isTrue(s.Secret.Optional), out)
		case s.DownwardAPI != nil:
			err = p.downward(pod, s.DownwardAPI.Items, m, out)
		case s.ServiceAccountToken != nil:
			err = p.token(ctx, pod, s.ServiceAccountToken, m, out)
		case s.ClusterTrustBundle != nil:
			var anchors []byte
			if anchors, err = p.Source.TrustAnchors(ctx, s.ClusterTrustBundle); err == nil {
				out[s.ClusterTrustBundle.Path] = private(pod, anchors, m)
			}
		case s.PodCertificate != nil:
			err = p.certificate(ctx, pod, volume, i, s.PodCertificate, m, out)
		default:
			err = fmt.Errorf("a projected source is not supported by this node")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Pods) token(ctx context.Context, pod *corev1.Pod, t *corev1.ServiceAccountTokenProjection, m os.FileMode, out map[string]File) error {
	seconds := int64(tokenSeconds)
	if t.ExpirationSeconds != nil {
		seconds = *t.ExpirationSeconds
	}
	token, err := p.Source.Token(ctx, pod, t.Audience, seconds)
	if err != nil {
		return fmt.Errorf("cannot get a token: %w", err)
	}
	out[t.Path] = private(pod, []byte(token), m)
	return nil
}

// private is a file that only its owner may read; with a group, the group; if
// all of the pod's containers are one user, that user.
func private(pod *corev1.Pod, data []byte, m os.FileMode) File {
	f := File{Data: data, Mode: m}
	if user := onlyUser(pod); user != nil {
		f.User, f.Mode = user, 0o600
	}
	if fsGroup(pod) != nil {
		f.Mode = 0o600
	}
	return f
}

func (p *Pods) certificate(ctx context.Context, pod *corev1.Pod, volume string, i int, c *corev1.PodCertificateProjection, m os.FileMode, out map[string]File) error {
	key, chain, err := p.Source.Certificate(ctx, pod, volume, i, c)
	if err != nil {
		return err
	}
	for path, data := range map[string][]byte{c.CredentialBundlePath: slices.Concat(key, chain), c.KeyPath: key, c.CertificateChainPath: chain} {
		if path != "" {
			out[path] = private(pod, data, m)
		}
	}
	return nil
}

// onlyUser is the user that all containers run as, if the spec says so.
func onlyUser(pod *corev1.Pod) *int64 {
	var user *int64
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			u := spec.RunAsUser(pod, &list[i])
			if u == nil || user != nil && *user != *u {
				return nil
			}
			user = u
		}
	}
	return user
}

func (p *Pods) configMap(ctx context.Context, pod *corev1.Pod, name string, items []corev1.KeyToPath, m os.FileMode, optional bool, out map[string]File) error {
	cm, err := p.Source.ConfigMap(ctx, pod.Namespace, name)
	if apierrors.IsNotFound(err) && optional {
		return nil
	}
	if err != nil {
		return err
	}
	all := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		all[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		all[k] = v
	}
	return pick("configmap", all, items, m, optional, out)
}

func (p *Pods) secret(ctx context.Context, pod *corev1.Pod, name string, items []corev1.KeyToPath, m os.FileMode, optional bool, out map[string]File) error {
	s, err := p.Source.Secret(ctx, pod.Namespace, name)
	if apierrors.IsNotFound(err) && optional {
		return nil
	}
	if err != nil {
		return err
	}
	return pick("secret", s.Data, items, m, optional, out)
}

func pick(kind string, all map[string][]byte, items []corev1.KeyToPath, m os.FileMode, optional bool, out map[string]File) error {
	if items == nil {
		for k, v := range all {
			out[k] = File{Data: v, Mode: m}
		}
		return nil
	}
	for _, it := range items {
		v, ok := all[it.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s references non-existent key: %s", kind, it.Key)
		}
		f := File{Data: v, Mode: m}
		if it.Mode != nil {
			f.Mode = os.FileMode(*it.Mode)
		}
		out[filepath.Clean(it.Path)] = f
	}
	return nil
}

func (p *Pods) downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, m os.FileMode, out map[string]File) error {
	for _, it := range items {
		f := File{Mode: m}
		if it.Mode != nil {
			f.Mode = os.FileMode(*it.Mode)
		}
		var text string
		var err error
		switch {
		case it.FieldRef != nil:
			text, err = spec.Field(pod, it.FieldRef.FieldPath)
		case it.ResourceFieldRef != nil:
			text, err = spec.Resource(pod, it.ResourceFieldRef.ContainerName, it.ResourceFieldRef, p.Allocatable())
		}
		if err != nil {
			return err
		}
		f.Data = []byte(text)
		out[filepath.Clean(it.Path)] = f
	}
	return nil
}

func mode(m *int32) os.FileMode {
	if m == nil {
		return defaultMode
	}
	return os.FileMode(*m)
}

func isTrue(b *bool) bool { return b != nil && *b }

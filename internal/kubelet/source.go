package kubelet

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// source of volumes: objects by reference, and tokens that are asked for anew
// when a fifth of their life is left, or after a day.
type source struct {
	cfg Config

	mu           sync.Mutex
	tokens       map[tokenKey]heldToken
	certificates map[certificateKey]*certificate
}

type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type heldToken struct {
	token string
	until time.Time // when to replace it
}

func newSource(c Config) *source {
	return &source{cfg: c, tokens: map[tokenKey]heldToken{}, certificates: map[certificateKey]*certificate{}}
}

func (s *source) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	o, err := s.cfg.Objects.Get(ctx, kinds.ConfigMap, namespace, name)
	if err != nil {
		return nil, err
	}
	return o.(*corev1.ConfigMap), nil
}

func (s *source) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	o, err := s.cfg.Objects.Get(ctx, kinds.Secret, namespace, name)
	if err != nil {
		return nil, err
	}
	return o.(*corev1.Secret), nil
}

func (s *source) Token(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (string, error) {
	key, now := tokenKey{pod.UID, audience, seconds}, s.cfg.Now()
	s.mu.Lock()
	for k, t := range s.tokens { // of pods that are gone
		if now.After(t.until.Add(24 * time.Hour)) {
			delete(s.tokens, k)
		}
	}
	held, ok := s.tokens[key]
	s.mu.Unlock()
	if ok && now.Before(held.until) {
		return held.token, nil
	}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		req.Spec.Audiences = []string{audience}
	}
	out, err := s.cfg.Client.Create(ctx, kinds.Ref{Kind: kinds.ServiceAccount, Namespace: pod.Namespace, Name: pod.Spec.ServiceAccountName, Sub: "token"}, req)
	if err != nil {
		if ok { // the old one may still be good for a while
			return held.token, nil
		}
		return "", fmt.Errorf("failed to fetch token: %w", err)
	}
	got, is := out.(*authenticationv1.TokenRequest)
	if !is || got.Status.Token == "" {
		return "", fmt.Errorf("failed to fetch token: the answer is a %T without one", out)
	}
	life := got.Status.ExpirationTimestamp.Sub(now)
	if got.Status.ExpirationTimestamp == (metav1.Time{}) {
		life = time.Duration(seconds) * time.Second
	}
	s.mu.Lock()
	s.tokens[key] = heldToken{got.Status.Token, now.Add(min(life*4/5, 24*time.Hour))}
	s.mu.Unlock()
	return got.Status.Token, nil
}

// watchObjects wakes the worker when a secret or config map that the pod
// refers to changes.
func (w *worker) watchObjects(pod *corev1.Pod) {
	for ref := range references(pod) {
		key := ref.Kind.Resource + "/" + ref.Name
		w.mu.Lock()
		_, have := w.watched[key]
		w.mu.Unlock()
		if have {
			continue
		}
		stop := w.k.cfg.Objects.Watch(ref.Kind, pod.Namespace, ref.Name, w.soil)
		w.mu.Lock()
		w.watched[key] = stop
		w.mu.Unlock()
	}
}

// soil says that what volumes show has changed.
func (w *worker) soil() {
	w.mu.Lock()
	w.dirty = true
	w.mu.Unlock()
	kick(w.wake)
}

// references of a pod to secrets and config maps, but not those for pulls.
func references(pod *corev1.Pod) map[kinds.Ref]bool {
	out := map[kinds.Ref]bool{}
	add := func(k *kinds.Kind, name string) {
		if name != "" {
			out[kinds.Ref{Kind: k, Name: name}] = true
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.ConfigMap != nil {
			add(kinds.ConfigMap, v.ConfigMap.Name)
		}
		if v.Secret != nil {
			add(kinds.Secret, v.Secret.SecretName)
		}
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add(kinds.ConfigMap, s.ConfigMap.Name)
				}
				if s.Secret != nil {
					add(kinds.Secret, s.Secret.Name)
				}
			}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, e := range list[i].EnvFrom {
				if e.ConfigMapRef != nil {
					add(kinds.ConfigMap, e.ConfigMapRef.Name)
				}
				if e.SecretRef != nil {
					add(kinds.Secret, e.SecretRef.Name)
				}
			}
			for _, e := range list[i].Env {
				if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
					add(kinds.ConfigMap, e.ValueFrom.ConfigMapKeyRef.Name)
				}
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					add(kinds.Secret, e.ValueFrom.SecretKeyRef.Name)
				}
			}
		}
	}
	return out
}

package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// world is a view that tests fill, and the plugins over it.
type world struct {
	*view.View
	rev     int64
	plugins []Plugin
}

func newWorld(t testing.TB, objects ...kinds.Object) *world {
	t.Helper()
	return newWorldWith(t, Config{AccountPatience: -1, Suffix: func() string { return "abcde" }}, objects...)
}

func newWorldWith(t testing.TB, c Config, objects ...kinds.Object) *world {
	t.Helper()
	var ks []*kinds.Kind
	for _, k := range kinds.Builtin().All() {
		if k.Stored() {
			ks = append(ks, k)
		}
	}
	w := &world{View: view.New(ks, view.Shared()...)}
	for _, o := range objects {
		w.set(o)
	}
	c.View, c.Authz = w.View, authz.New(w.View)
	var err error
	if w.plugins, err = Default(c); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) set(o kinds.Object) {
	for _, k := range w.Kinds() {
		if fmt.Sprintf("%T", k.New()) == fmt.Sprintf("%T", o) {
			w.rev++
			w.Apply(view.Change{Kind: k, New: o, Rev: w.rev})
			return
		}
	}
	panic(fmt.Sprintf("no kind of %T", o))
}

// admit runs all plugins as the apiserver does.
func (w *world) admit(r *Request) error {
	if r.User == nil {
		r.User = &user.DefaultInfo{Name: "jane", Groups: []string{"system:authenticated"}}
	}
	if o, ok := r.Object.(kinds.Object); ok && r.Ref.Sub == "" {
		if r.Ref.Name == "" {
			r.Ref.Name = o.GetName()
		}
		if r.Ref.Kind.Namespaced && r.Ref.Namespace == "" {
			r.Ref.Namespace = o.GetNamespace()
		}
	}
	for _, p := range w.plugins {
		if err := p.Mutate(context.Background(), r); err != nil {
			return err
		}
	}
	for _, p := range w.plugins {
		if err := p.Validate(context.Background(), r); err != nil {
			return err
		}
	}
	return nil
}

func create(k *kinds.Kind, o runtime.Object) *Request {
	return &Request{Operation: Create, Ref: kinds.Ref{Kind: k}, Object: o}
}

// want compares an error with a code and a part of its message; code 0 is no
// error.
func want(t *testing.T, err error, code int32, part string) {
	t.Helper()
	if code == 0 {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	var st *apierrors.StatusError
	if !errors.As(err, &st) || st.ErrStatus.Code != code || !strings.Contains(err.Error(), part) {
		t.Errorf("got %v, want %d with %q", err, code, part)
	}
}

func meta(ns, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID("uid-" + ns + "-" + name)}
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: meta("", name), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
}

func account(ns, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: meta(ns, name)}
}

func simplePod(ns, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta(ns, name), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func TestNeeds(t *testing.T) {
	if _, err := Default(Config{}); err == nil {
		t.Error("no view, no complaint")
	}
	v := view.New([]*kinds.Kind{kinds.Pod})
	if _, err := Default(Config{View: v, Authz: authz.New(v)}); err == nil {
		t.Error("a view without namespaces, no complaint")
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	going := namespace("going")
	going.Status.Phase = corev1.NamespaceTerminating
	marked := namespace("marked")
	marked.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	w := newWorld(t, namespace("a"), going, marked)
	cm := func(ns string) *corev1.ConfigMap { return &corev1.ConfigMap{ObjectMeta: meta(ns, "x")} }
	tests := []struct {
		name string
		r    *Request
		code int32
		part string
	}{
		{"in a namespace", create(kinds.ConfigMap, cm("a")), 0, ""},
		{"in no namespace", create(kinds.ConfigMap, cm("nope")), 404, `namespaces "nope" not found`},
		{"a pod in no namespace", create(kinds.Pod, simplePod("nope", "x")), 404, `namespaces "nope" not found`},
		{"in one that goes", create(kinds.ConfigMap, cm("going")), 403, "unable to create new content in namespace going because it is being terminated"},
		{"in one that is marked", create(kinds.ConfigMap, cm("marked")), 403, "because it is being terminated"},
		{"subresource in one that goes", &Request{Operation: Create, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "going", Name: "x", Sub: "eviction"}}, 403, "being terminated"},
		{"update in one that goes", &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.ConfigMap, Namespace: "going", Name: "x"}, Object: cm("going"), Old: cm("going")}, 0, ""},
		{"delete in one that goes", &Request{Operation: Delete, Ref: kinds.Ref{Kind: kinds.ConfigMap, Namespace: "going", Name: "x"}, Old: cm("going")}, 0, ""},
		{"delete in one that is gone", &Request{Operation: Delete, Ref: kinds.Ref{Kind: kinds.ConfigMap, Namespace: "nope", Name: "x"}, Old: cm("nope")}, 0, ""},
		{"review anywhere", &Request{Operation: Create, Ref: kinds.Ref{Kind: kinds.LocalSubjectAccessReview, Namespace: "nope"}}, 0, ""},
		{"cluster-scoped", create(kinds.Node, &corev1.Node{ObjectMeta: meta("", "n")}), 0, ""},
		{"default stays", &Request{Operation: Delete, Ref: kinds.Ref{Kind: kinds.Namespace, Name: "default"}}, 403, `namespaces "default" is forbidden: this namespace may not be deleted`},
		{"kube-system stays", &Request{Operation: Delete, Ref: kinds.Ref{Kind: kinds.Namespace, Name: "kube-system"}}, 403, "may not be deleted"},
		{"kube-public stays", &Request{Operation: Delete, Ref: kinds.Ref{Kind: kinds.Namespace, Name: "kube-public"}}, 403, "may not be deleted"},
		{"others go", &Request{Operation: Delete, Ref: kinds.Ref{Kind: kinds.Namespace, Name: "a"}}, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { want(t, w.admit(tt.r), tt.code, tt.part) })
	}
	err := w.admit(create(kinds.ConfigMap, cm("going")))
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("no cause for clients in %v", err)
	}
}

// A namespace that was made a moment ago is found although the view lags.
func TestFresh(t *testing.T) {
	var w *world
	calls := 0
	w = newWorldWith(t, Config{AccountPatience: -1, Fresh: func(_ context.Context, k *kinds.Kind) error {
		calls++
		if k == kinds.Namespace {
			w.set(namespace("new"))
		}
		return nil
	}})
	want(t, w.admit(create(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: meta("new", "x")})), 0, "")
	want(t, w.admit(create(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: meta("new", "y")})), 0, "")
	if calls != 1 {
		t.Errorf("asked %d times", calls)
	}
	want(t, w.admit(create(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: meta("nope", "y")})), 404, "nope")
	broken := newWorldWith(t, Config{Fresh: func(context.Context, *kinds.Kind) error { return context.DeadlineExceeded }})
	if err := broken.admit(create(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: meta("new", "x")})); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an unknown state was taken for an answer: %v", err)
	}
}

func TestServiceAccount(t *testing.T) {
	quiet, pull, strict := account("a", "quiet"), account("a", "pull"), account("a", "strict")
	quiet.AutomountServiceAccountToken = ptr.To(false)
	pull.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "p"}}
	strict.Annotations = map[string]string{enforceSecrets: "true"}
	strict.Secrets = []corev1.ObjectReference{{Name: "good"}}
	strict.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "images"}}
	w := newWorld(t, namespace("a"), account("a", "default"), quiet, pull, strict)
	env := func(secret string) []corev1.EnvVar {
		return []corev1.EnvVar{{Name: "E", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}}}
	}
	tests := []struct {
		name   string
		change func(*corev1.Pod)
		code   int32
		part   string
		check  func(*corev1.Pod) bool
	}{
		{"default", func(*corev1.Pod) {}, 0, "", func(p *corev1.Pod) bool {
			v := p.Spec.Volumes
			return p.Spec.ServiceAccountName == "default" && p.Spec.DeprecatedServiceAccount == "default" && len(v) == 1 && v[0].Name == "kube-api-access-abcde" &&
				len(v[0].Projected.Sources) == 3 && *v[0].Projected.Sources[0].ServiceAccountToken.ExpirationSeconds == 3607 &&
				v[0].Projected.Sources[1].ConfigMap.Name == "kube-root-ca.crt" && v[0].Projected.Sources[2].DownwardAPI.Items[0].Path == "namespace" &&
				len(p.Spec.Containers[0].VolumeMounts) == 1 && p.Spec.Containers[0].VolumeMounts[0].String() == (&corev1.VolumeMount{Name: "kube-api-access-abcde", ReadOnly: true, MountPath: tokenMount}).String()
		}},
		{"missing", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "nope" }, 403,
			`pods "x" is forbidden: error looking up service account a/nope: serviceaccount "nope" not found`, nil},
		{"account says no", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" }, 0, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 0 }},
		{"pod says yes", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = "quiet", ptr.To(true)
		}, 0, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 1 }},
		{"pod says no", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr.To(false) }, 0, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 0 }},
		{"pull secrets of the account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "pull" }, 0, "", func(p *corev1.Pod) bool {
			return len(p.Spec.ImagePullSecrets) == 1 && p.Spec.ImagePullSecrets[0].Name == "p"
		}},
		{"pull secrets of the pod", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.ImagePullSecrets = "pull", []corev1.LocalObjectReference{{Name: "own"}}
		}, 0, "", func(p *corev1.Pod) bool {
			return len(p.Spec.ImagePullSecrets) == 1 && p.Spec.ImagePullSecrets[0].Name == "own"
		}},
		{"mount that is there", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: tokenMount}}
			p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
		}, 0, "", func(p *corev1.Pod) bool {
			return p.Spec.Containers[0].VolumeMounts[0].Name == "mine" && p.Spec.InitContainers[0].VolumeMounts[0].Name == "kube-api-access-abcde" && len(p.Spec.Volumes) == 1
		}},
		{"no mount needed, no volume", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: tokenMount}}
		}, 0, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 0 }},
		{"volume that is there", func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{tokenVolume("kube-api-access-zzzzz")} }, 0, "", func(p *corev1.Pod) bool {
			return len(p.Spec.Volumes) == 1 && p.Spec.Containers[0].VolumeMounts[0].Name == "kube-api-access-zzzzz"
		}},
		{"strict, listed", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.Containers[0].Env = "strict", env("good")
		}, 0, "", func(*corev1.Pod) bool { return true }},
		{"strict, not listed", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.Containers[0].Env = "strict", env("bad")
		}, 403, `secret.secretName="bad" is not allowed because service account strict does not reference that secret`, nil},
		{"strict, envFrom", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.InitContainers = []corev1.Container{{Name: "i", EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "bad"}}}}}}
		}, 403, "does not reference that secret", nil},
		{"strict, image secret as env", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.Containers[0].Env = "strict", env("images")
		}, 403, "does not reference that secret", nil},
		{"strict, image secret", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.ImagePullSecrets = "strict", []corev1.LocalObjectReference{{Name: "good"}}
		}, 403, `imagePullSecrets[0].name="good" is not allowed`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := simplePod("a", "x")
			tt.change(p)
			err := w.admit(create(kinds.Pod, p))
			want(t, err, tt.code, tt.part)
			if err == nil && !tt.check(p) {
				t.Errorf("pod became %+v", p.Spec)
			}
			if err == nil { // it may run more than once
				twice := p.DeepCopy()
				want(t, w.admit(create(kinds.Pod, twice)), 0, "")
				if twice.String() != p.String() {
					t.Error("a second run changed it again")
				}
			}
		})
	}
}

// strictAccount is one whose pods may only use the secrets that it names.
func strictAccount() *corev1.ServiceAccount {
	sa := account("a", "strict")
	sa.Annotations = map[string]string{enforceSecrets: "true"}
	sa.Secrets = []corev1.ObjectReference{{Name: "good"}}
	return sa
}

// TestCVE2023_2728: a secret that comes with an ephemeral container.
func TestCVE2023_2728(t *testing.T) {
	w := newWorld(t, namespace("a"), account("a", "default"), strictAccount())
	for secret, code := range map[string]int32{"bad": 403, "good": 0} {
		p := simplePod("a", "x")
		p.Spec.ServiceAccountName = "strict"
		late := p.DeepCopy()
		late.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e",
			Env: []corev1.EnvVar{{Name: "E", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}}}}}}
		r := &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "a", Name: "x", Sub: "ephemeralcontainers"}, Object: late, Old: p}
		want(t, w.admit(r), code, "does not reference that secret")
	}
}

// TestCVE2024_3177: a secret that comes by envFrom, in any sort of container.
func TestCVE2024_3177(t *testing.T) {
	w := newWorld(t, namespace("a"), account("a", "default"), strictAccount())
	for secret, code := range map[string]int32{"bad": 403, "good": 0} {
		from := []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}}
		plain := simplePod("a", "x")
		plain.Spec.ServiceAccountName = "strict"
		first, second, late := plain.DeepCopy(), plain.DeepCopy(), plain.DeepCopy()
		first.Spec.Containers[0].EnvFrom = from
		second.Spec.InitContainers = []corev1.Container{{Name: "i", EnvFrom: from}}
		late.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", EnvFrom: from}}}
		want(t, w.admit(create(kinds.Pod, first)), code, "does not reference that secret")
		want(t, w.admit(create(kinds.Pod, second)), code, "does not reference that secret")
		want(t, w.admit(&Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "a", Name: "x", Sub: "ephemeralcontainers"}, Object: late, Old: plain}), code, "does not reference that secret")
	}
}

func TestDefaultAccountIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldWith(t, Config{}, namespace("a"))
		// The controller that makes it, a second of fake time later.
		time.AfterFunc(time.Second, func() { w.set(account("a", "default")) })
		begin := time.Now()
		want(t, w.admit(create(kinds.Pod, simplePod("a", "x"))), 0, "")
		if took := time.Since(begin); took != time.Second {
			t.Errorf("waited %s", took)
		}
		begin = time.Now()
		p := simplePod("a", "y")
		p.Spec.ServiceAccountName = "other"
		want(t, w.admit(create(kinds.Pod, p)), 403, "not found")
		w.set(namespace("b"))
		if took := time.Since(begin); took != 0 {
			t.Errorf("another account was waited for, %s", took)
		}
		want(t, w.admit(create(kinds.Pod, simplePod("b", "x"))), 403, `serviceaccount "default" not found`)
		if took := time.Since(begin); took != accountPatience {
			t.Errorf("waited %s", took)
		}
	})
}

func TestPriority(t *testing.T) {
	class := func(name string, value int32, global bool) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: meta("", name), Value: value, GlobalDefault: global}
	}
	never := class("never", 7, false)
	never.PreemptionPolicy = ptr.To(corev1.PreemptNever)
	base := []kinds.Object{namespace("a"), account("a", "default"), class("high", 1000, false), never}
	none := newWorld(t, base...)
	some := newWorld(t, append(base, class("usual", 5, true), class("twice", 6, true))...)
	tests := []struct {
		name   string
		w      *world
		change func(*corev1.Pod)
		code   int32
		part   string
		value  int32
		policy corev1.PreemptionPolicy
		class  string
	}{
		{"none", none, func(*corev1.Pod) {}, 0, "", 0, corev1.PreemptLowerPriority, ""},
		{"global default", some, func(*corev1.Pod) {}, 0, "", 5, corev1.PreemptLowerPriority, "usual"},
		{"named", some, func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }, 0, "", 1000, corev1.PreemptLowerPriority, "high"},
		{"policy of the class", some, func(p *corev1.Pod) { p.Spec.PriorityClassName = "never" }, 0, "", 7, corev1.PreemptNever, "never"},
		{"unknown", none, func(p *corev1.Pod) { p.Spec.PriorityClassName = "nope" }, 403, "no PriorityClass with name nope was found", 0, "", ""},
		{"number by hand", none, func(p *corev1.Pod) { p.Spec.Priority = ptr.To[int32](9) }, 403, "the integer value of priority (9) must not be provided in pod spec", 0, "", ""},
		{"right number by hand", none, func(p *corev1.Pod) { p.Spec.PriorityClassName, p.Spec.Priority = "high", ptr.To[int32](1000) }, 0, "", 1000, corev1.PreemptLowerPriority, "high"},
		{"policy by hand", none, func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }, 403, "the string value of PreemptionPolicy (Never)", 0, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := simplePod("a", "x")
			tt.change(p)
			err := tt.w.admit(create(kinds.Pod, p))
			want(t, err, tt.code, tt.part)
			if err == nil && (*p.Spec.Priority != tt.value || *p.Spec.PreemptionPolicy != tt.policy || p.Spec.PriorityClassName != tt.class) {
				t.Errorf("got %d %s %q", *p.Spec.Priority, *p.Spec.PreemptionPolicy, p.Spec.PriorityClassName)
			}
		})
	}
	want(t, none.admit(create(kinds.PriorityClass, class("first", 1, true))), 0, "")
	want(t, some.admit(create(kinds.PriorityClass, class("third", 1, true))), 403, "PriorityClass usual is already marked as globalDefault")
	want(t, some.admit(create(kinds.PriorityClass, class("plain", 1, false))), 0, "")
	was := class("usual", 5, true)
	want(t, some.admit(&Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.PriorityClass, Name: "usual"}, Object: was, Old: was}), 0, "")
}

func TestTolerationsAndTaints(t *testing.T) {
	w := newWorld(t, namespace("a"), account("a", "default"))
	p := simplePod("a", "x")
	p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1)}}
	want(t, w.admit(create(kinds.Pod, p)), 0, "")
	if n := len(p.Spec.Tolerations); n != 2 || p.Spec.Tolerations[1].Key != corev1.TaintNodeUnreachable || *p.Spec.Tolerations[1].TolerationSeconds != 300 || *p.Spec.Tolerations[0].TolerationSeconds != 1 {
		t.Errorf("tolerations %+v", p.Spec.Tolerations)
	}
	p = simplePod("a", "y")
	p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	want(t, w.admit(create(kinds.Pod, p)), 0, "")
	if len(p.Spec.Tolerations) != 1 {
		t.Errorf("tolerations %+v", p.Spec.Tolerations)
	}
	n := &corev1.Node{ObjectMeta: meta("", "n")}
	want(t, w.admit(create(kinds.Node, n)), 0, "")
	want(t, w.admit(create(kinds.Node, n)), 0, "")
	if len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != "node.kubernetes.io/not-ready" || n.Spec.Taints[0].Effect != corev1.TaintEffectNoSchedule {
		t.Errorf("taints %+v", n.Spec.Taints)
	}
}

// TestCVE2020_8554: nobody takes over an address outside of the cluster.
func TestCVE2020_8554(t *testing.T) {
	w := newWorld(t, namespace("a"))
	svc := func(ips ...string) *corev1.Service {
		return &corev1.Service{ObjectMeta: meta("a", "s"), Spec: corev1.ServiceSpec{ExternalIPs: ips}}
	}
	update := func(old, now *corev1.Service) *Request {
		return &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Service, Namespace: "a", Name: "s"}, Object: now, Old: old}
	}
	denied := "Use of external IPs is denied by admission control."
	want(t, w.admit(create(kinds.Service, svc())), 0, "")
	want(t, w.admit(create(kinds.Service, svc("203.0.113.7"))), 403, denied)
	want(t, w.admit(update(svc(), svc("203.0.113.7"))), 403, denied)
	want(t, w.admit(update(svc("203.0.113.7", "203.0.113.8"), svc("203.0.113.8"))), 0, "")
	want(t, w.admit(update(svc("203.0.113.7"), svc("203.0.113.7", "203.0.113.9"))), 403, denied)
}

func TestLimitRanger(t *testing.T) {
	q := func(pairs ...string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		return l
	}
	lr := func(ns string, items ...corev1.LimitRangeItem) *corev1.LimitRange {
		o := &corev1.LimitRange{ObjectMeta: meta(ns, "limits"), Spec: corev1.LimitRangeSpec{Limits: items}}
		kinds.LimitRange.Default(o)
		return o
	}
	w := newWorld(t, namespace("free"), namespace("defaults"), namespace("bounds"), namespace("sum"),
		account("free", "default"), account("defaults", "default"), account("bounds", "default"), account("sum", "default"),
		lr("defaults", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: q("cpu", "500m", "memory", "1Gi"), DefaultRequest: q("cpu", "100m")}),
		lr("bounds", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Min: q("cpu", "100m"), Max: q("cpu", "2"), Default: q("cpu", "1"), DefaultRequest: q("cpu", "1"), MaxLimitRequestRatio: q("cpu", "2")},
			corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: q("storage", "1Gi"), Max: q("storage", "10Gi")}),
		lr("sum", corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: q("memory", "1Gi")}))
	tests := []struct {
		name, ns         string
		requests, limits corev1.ResourceList
		code             int32
		part             string
		after            string
	}{
		{"nothing to say", "free", nil, nil, 0, "", ""},
		{"defaults", "defaults", nil, nil, 0, "", "100m/500m 1Gi/1Gi"},
		{"own values stay", "defaults", q("cpu", "50m"), q("cpu", "60m", "memory", "2Gi"), 0, "", "50m/60m 2Gi/2Gi"},
		{"within", "bounds", q("cpu", "1"), q("cpu", "2"), 0, "", "1/2 0/0"},
		{"too little", "bounds", q("cpu", "50m"), q("cpu", "100m"), 403, "minimum cpu usage per Container is 100m, but request is 50m", ""},
		{"too much", "bounds", q("cpu", "2"), q("cpu", "3"), 403, "maximum cpu usage per Container is 2, but limit is 3", ""},
		{"ratio", "bounds", q("cpu", "500m"), q("cpu", "2"), 403, "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000", ""},
		{"sum", "sum", q("memory", "1Gi"), q("memory", "2Gi"), 403, "maximum memory usage per Pod is 1Gi, but limit is 2Gi", ""},
		{"sum without limit", "sum", nil, nil, 403, "maximum memory usage per Pod is 1Gi.  No limit is specified", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := simplePod(tt.ns, "x")
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: tt.requests, Limits: tt.limits}
			kinds.Pod.Default(p)
			err := w.admit(create(kinds.Pod, p))
			want(t, err, tt.code, tt.part)
			if tt.after != "" {
				c := p.Spec.Containers[0].Resources
				got := fmt.Sprintf("%s/%s %s/%s", c.Requests.Cpu(), c.Limits.Cpu(), c.Requests.Memory(), c.Limits.Memory())
				if got != tt.after {
					t.Errorf("resources %s", got)
				}
			}
		})
	}
	p := simplePod("defaults", "x")
	want(t, w.admit(create(kinds.Pod, p)), 0, "")
	if kinds.Pod.PrepareCreate(p); p.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("class %s is from before the defaults", p.Status.QOSClass)
	}
	if got := p.Annotations[limitNote]; got != "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c" {
		t.Errorf("note %q", got)
	}
	claim := func(size string) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: meta("bounds", "c")}
		c.Spec.Resources.Requests = q("storage", size)
		return c
	}
	want(t, w.admit(create(kinds.PersistentVolumeClaim, claim("5Gi"))), 0, "")
	want(t, w.admit(create(kinds.PersistentVolumeClaim, claim("5Mi"))), 403, "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Mi")
	want(t, w.admit(create(kinds.PersistentVolumeClaim, claim("50Gi"))), 403, "maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 50Gi")
	status := claim("50Gi")
	want(t, w.admit(&Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.PersistentVolumeClaim, Namespace: "bounds", Name: "c", Sub: "status"}, Object: status, Old: status}), 0, "")
}

func TestNamesAreUpstreams(t *testing.T) {
	w := newWorld(t)
	var got []string
	for _, p := range w.plugins {
		got = append(got, p.Name())
	}
	order := []string{"NamespaceLifecycle", "LimitRanger", "ServiceAccount", "NodeRestriction", "TaintNodesByCondition", "PodSecurity", "Priority", "DefaultTolerationSeconds",
		"DefaultStorageClass", "StorageObjectInUseProtection", "RBACEscalation", "PersistentVolumeClaimResize", "RuntimeClass", "CertificateApproval", "CertificateSigning",
		"CertificateSubjectRestriction", "ClusterTrustBundleAttest", "PodCertificateRequestSigning", "DefaultIngressClass", "DenyServiceExternalIPs", "PodTopologyLabels",
		"NodeDeclaredFeatureValidator", "PodResizeValidator", "ResourceClaimAuthorization"}
	if !slices.Equal(got, order) {
		t.Errorf("order %v", got)
	}
}

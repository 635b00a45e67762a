package serviceaccounttoken

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func secret(change func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s", UID: "s-1", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}},
		Type: corev1.SecretTypeServiceAccountToken}
	if change != nil {
		change(s)
	}
	return s
}

func full(s *corev1.Secret) {
	s.Annotations[corev1.ServiceAccountUIDKey] = "sa-1"
	s.Data = map[string][]byte{"token": []byte("T"), "ca.crt": []byte("CA"), "namespace": []byte("a")}
}

func TestPlan(t *testing.T) {
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "robot", UID: "sa-1"}}
	for _, tt := range []struct {
		name string
		o    Observed
		want plan.Verb
		data string // token, certificate and namespace
	}{
		{"new", Observed{secret(nil), sa, []byte("CA"), "T"}, plan.Update, "T CA a"},
		{"full", Observed{secret(full), sa, []byte("CA"), ""}, "", ""},
		{"no certificate yet", Observed{secret(full), sa, nil, ""}, "", ""},
		{"another authority", Observed{secret(full), sa, []byte("NEW"), ""}, plan.Update, "T NEW a"},
		{"token taken out", Observed{secret(func(s *corev1.Secret) { full(s); delete(s.Data, "token") }), sa, []byte("CA"), "T2"}, plan.Update, "T2 CA a"},
		{"account gone", Observed{secret(full), nil, []byte("CA"), ""}, plan.Delete, ""},
		{"account gone, secret going", Observed{secret(func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{} }), nil, nil, ""}, "", ""},
		{"another type", Observed{secret(func(s *corev1.Secret) { s.Type = "Opaque" }), nil, []byte("CA"), "T"}, "", ""},
	} {
		before := tt.o.Secret.DeepCopy()
		as := Plan(tt.o).Actions
		if tt.o.Secret.String() != before.String() {
			t.Errorf("%s: the secret was changed", tt.name)
		}
		if tt.want == "" {
			if len(as) > 0 {
				t.Errorf("%s: %+v, want nothing", tt.name, as)
			}
			continue
		}
		if len(as) != 1 || as[0].Verb != tt.want {
			t.Errorf("%s: %+v, want %s", tt.name, as, tt.want)
			continue
		}
		if tt.want == plan.Delete {
			if l := as[0].Live; as[0].UID != "s-1" || len(l) != 1 || l[0].Want != plan.Absent || l[0].Ref.Name != "robot" || l[0].UID != "sa-1" {
				t.Errorf("%s: %+v", tt.name, as[0])
			}
			continue
		}
		s := as[0].Object.(*corev1.Secret)
		if got := string(s.Data["token"]) + " " + string(s.Data["ca.crt"]) + " " + string(s.Data["namespace"]); got != tt.data || s.Annotations[corev1.ServiceAccountUIDKey] != "sa-1" {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.data)
		}
	}
}

// A secret waits for its account, is filled once, and goes with the account.
func TestLife(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Secret, kinds.ServiceAccount})
	made := 0
	c := Controller(Config{Bundle: func() []byte { return []byte("CA") }, Token: func(*corev1.ServiceAccount, string) (string, error) {
		made++
		return "T", nil
	}})
	w.Put(kinds.ServiceAccount, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "robot"}})
	w.Put(kinds.Secret, secret(nil))
	w.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "other"}, Type: "Opaque"})
	if _, err := w.Drive(1, 20, 0, c); err != nil {
		t.Fatal(err)
	}
	s, _ := w.Object(kinds.Secret, "a", "s").(*corev1.Secret)
	if s == nil || string(s.Data["token"]) != "T" || made != 1 {
		t.Fatalf("%v after %d tokens", s, made)
	}
	w.Remove(kinds.ServiceAccount, "a", "robot")
	if _, err := w.Drive(2, 20, 0, c); err != nil {
		t.Fatal(err)
	}
	if left := w.Objects(kinds.Secret); len(left) != 1 || left[0].GetName() != "other" {
		t.Errorf("left: %v", left)
	}
}

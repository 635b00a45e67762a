package legacytoken

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func TestPlan(t *testing.T) {
	secret := func(labels ...string) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s", UID: "u", CreationTimestamp: metav1.NewTime(now.AddDate(-3, 0, 0)), Labels: map[string]string{}},
			Type: corev1.SecretTypeServiceAccountToken}
		for i := 0; i < len(labels); i += 2 {
			s.Labels[labels[i]] = labels[i+1]
		}
		return s
	}
	const long = "2024-01-01"
	good := func(s *corev1.Secret, change func(*Observed)) Observed {
		o := Observed{Secret: s, Since: long, Made: true, Now: now}
		if change != nil {
			change(&o)
		}
		return o
	}
	for _, tt := range []struct {
		name string
		o    Observed
		want plan.Verb
	}{
		{"never used", good(secret(), nil), plan.Patch},
		{"used long ago", good(secret(lastUsed, "2025-05-31"), nil), plan.Patch},
		{"used within the year", good(secret(lastUsed, "2025-06-02"), nil), ""},
		{"use cannot be read", good(secret(lastUsed, "x"), nil), ""},
		{"marked lately", good(secret(invalidSince, "2025-12-01"), nil), ""},
		{"marked long ago", good(secret(invalidSince, "2025-05-01"), nil), plan.Delete},
		{"marked with nonsense", good(secret(invalidSince, "x"), nil), plan.Patch},
		{"used after it was marked", good(secret(invalidSince, "2025-05-01", lastUsed, "2026-05-01"), nil), ""},
		{"somebody made it himself", good(secret(), func(o *Observed) { o.Made = false }), ""},
		{"a pod has it", good(secret(), func(o *Observed) { o.Mounted = true }), ""},
		{"not noted for long enough", good(secret(), func(o *Observed) { o.Since = "2025-06-01" }), ""},
		{"not noted at all", good(secret(), func(o *Observed) { o.Since = "" }), ""},
		{"new", good(secret(), func(o *Observed) { o.Secret.CreationTimestamp = metav1.NewTime(now) }), ""},
		{"going", good(secret(), func(o *Observed) { o.Secret.DeletionTimestamp = &metav1.Time{Time: now} }), ""},
		{"no token", good(secret(), func(o *Observed) { o.Secret.Type = "Opaque" }), ""},
	} {
		as := Plan(tt.o).Actions
		if tt.want == "" && len(as) > 0 || tt.want != "" && (len(as) != 1 || as[0].Verb != tt.want || as[0].UID != "u") {
			t.Errorf("%s: %+v, want %q", tt.name, as, tt.want)
		}
	}
}

// A token is marked at the end of its year and removed at the end of the next.
func TestYears(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Secret, kinds.ServiceAccount, kinds.Pod, kinds.ConfigMap})
	cs := Controllers(Config{Mounts: func(p *corev1.Pod, secret string) bool { return p.Name == secret }})
	w.Now = now
	w.Put(kinds.ServiceAccount, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "sa"}, Secrets: []corev1.ObjectReference{{Name: "old"}, {Name: "mounted"}}})
	for _, name := range []string{"old", "mounted", "own"} {
		w.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "sa"}}, Type: corev1.SecretTypeServiceAccountToken})
	}
	w.Put(kinds.Pod, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "mounted"}})
	look := func(years int) (marked, left int) {
		t.Helper()
		w.Now = now.AddDate(years, 0, 2*years)
		if _, err := w.Drive(uint64(years), 100, 0, cs...); err != nil {
			t.Fatal(err)
		}
		for _, o := range w.Objects(kinds.Secret) {
			left++
			if o.GetLabels()[invalidSince] != "" {
				marked++
			}
		}
		return marked, left
	}
	for years, want := range [][2]int{{0, 3}, {1, 3}, {0, 2}} {
		if marked, left := look(years); marked != want[0] || left != want[1] {
			t.Errorf("after %d years %d are marked, %d left, want %v", years, marked, left, want)
		}
	}
	cm := w.Object(kinds.ConfigMap, "kube-system", Map).(*corev1.ConfigMap)
	if cm.Data[Since] != "2026-06-01" {
		t.Errorf("noted since %v", cm.Data)
	}
	cm = cm.DeepCopy()
	cm.Data = nil
	w.Put(kinds.ConfigMap, cm)
	look(3)
	if cm := w.Object(kinds.ConfigMap, "kube-system", Map).(*corev1.ConfigMap); cm.Data[Since] == "" {
		t.Error("what was taken out of the map does not come back")
	}
}

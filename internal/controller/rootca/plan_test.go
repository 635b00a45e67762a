package rootca

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func TestPlan(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}
	cm := func(data map[string]string, binary map[string][]byte) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: Name, Labels: map[string]string{"kept": "yes"}}, Data: data, BinaryData: binary}
	}
	for _, tt := range []struct {
		name string
		o    Observed
		want plan.Verb
	}{
		{"missing", Observed{ns, nil, "PEM"}, plan.Create},
		{"right", Observed{ns, cm(map[string]string{Key: "PEM"}, nil), "PEM"}, ""},
		{"old bundle", Observed{ns, cm(map[string]string{Key: "OLD"}, nil), "PEM"}, plan.Update},
		{"something added", Observed{ns, cm(map[string]string{Key: "PEM", "x": "y"}, nil), "PEM"}, plan.Update},
		{"something binary added", Observed{ns, cm(map[string]string{Key: "PEM"}, map[string][]byte{"x": nil}), "PEM"}, plan.Update},
		{"no bundle yet", Observed{ns, nil, ""}, ""},
		{"namespace ends", Observed{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", DeletionTimestamp: &metav1.Time{}}}, nil, "PEM"}, ""},
	} {
		as := Plan(tt.o).Actions
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
		got := as[0].Object.(*corev1.ConfigMap)
		if len(got.Data) != 1 || got.Data[Key] != "PEM" || len(got.BinaryData) > 0 || tt.want == plan.Update && got.Labels["kept"] != "yes" {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// A rotated authority reaches every namespace without anything else happening.
func TestRotation(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Namespace, kinds.ConfigMap})
	w.Put(kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	begin := w.Now
	c := Controller(Config{Bundle: func() []byte {
		if w.Now.Sub(begin) < resync {
			return []byte("ONE")
		}
		return []byte("TWO")
	}})
	if _, err := w.Drive(1, 20, 0, c); err != nil {
		t.Fatal(err)
	}
	if got := w.Object(kinds.ConfigMap, "a", Name).(*corev1.ConfigMap).Data[Key]; got != "ONE" {
		t.Fatal(got)
	}
	if _, err := w.Drive(1, 20, 2*resync, c); err != nil {
		t.Fatal(err)
	}
	if got := w.Object(kinds.ConfigMap, "a", Name).(*corev1.ConfigMap).Data[Key]; got != "TWO" {
		t.Error(got)
	}
}

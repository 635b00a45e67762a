package serviceaccount

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func TestPlan(t *testing.T) {
	active := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}
	ending := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", DeletionTimestamp: &metav1.Time{}}}
	terminating := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}
	have := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: Name}}
	for _, tt := range []struct {
		name string
		o    Observed
		want int
	}{
		{"missing", Observed{active, nil}, 1},
		{"there", Observed{active, have}, 0},
		{"namespace is being deleted", Observed{ending, nil}, 0},
		{"namespace is terminating", Observed{terminating, nil}, 0},
	} {
		if got := Plan(tt.o).Actions; len(got) != tt.want {
			t.Errorf("%s: %d actions, want %d", tt.name, len(got), tt.want)
		}
	}
}

func TestComesBack(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Namespace, kinds.ServiceAccount})
	w.Put(kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	w.Put(kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	for range 2 {
		if _, err := w.Drive(1, 20, 0, Controller()); err != nil {
			t.Fatal(err)
		}
		if n := len(w.Objects(kinds.ServiceAccount)); n != 2 {
			t.Fatalf("%d accounts, want 2", n)
		}
		w.Remove(kinds.ServiceAccount, "a", Name)
	}
}

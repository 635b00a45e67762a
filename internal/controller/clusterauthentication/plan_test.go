package clusterauthentication

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// It is made, and comes back whole whatever somebody does to it.
func TestComesBack(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.ConfigMap})
	want := map[string]string{"client-ca-file": "PEM", "requestheader-allowed-names": `["front"]`}
	c := Controller(func() map[string]string { return maps.Clone(want) })
	settle := func(seed uint64) *corev1.ConfigMap {
		t.Helper()
		if _, err := w.Drive(seed, 20, 0, c); err != nil {
			t.Fatal(err)
		}
		cm, _ := w.Object(kinds.ConfigMap, "kube-system", Name).(*corev1.ConfigMap)
		if cm == nil {
			t.Fatal("there is none")
		}
		return cm
	}
	if got := settle(1); !maps.Equal(got.Data, want) {
		t.Errorf("%v", got.Data)
	}
	w.Put(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: Name}, Data: map[string]string{"client-ca-file": "OTHER", "own": "x"}})
	if got := settle(2).Data; got["client-ca-file"] != "PEM" || got["requestheader-allowed-names"] == "" || got["own"] != "x" {
		t.Errorf("%v", got)
	}
	w.Remove(kinds.ConfigMap, "kube-system", Name)
	if got := settle(3); !maps.Equal(got.Data, want) {
		t.Errorf("%v", got.Data)
	}
	want["client-ca-file"] = "ROTATED"
	if r := Plan(settle(4), want); len(r.Actions) > 0 {
		t.Errorf("settled, but %+v", r)
	}
}

package podcertificate

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func TestPlan(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	aged := func(age time.Duration) *certificatesv1.PodCertificateRequest {
		return &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "r", UID: "u", CreationTimestamp: metav1.NewTime(now.Add(-age))}}
	}
	if res := Plan(nil, now); len(res.Actions) > 0 || res.After > 0 {
		t.Errorf("%+v", res)
	}
	if res := Plan(aged(14*time.Minute), now); len(res.Actions) > 0 || res.After != time.Minute {
		t.Errorf("%+v", res)
	}
	old := aged(15 * time.Minute)
	if res := Plan(old, now); len(res.Actions) != 1 || res.Actions[0].Verb != plan.Delete || res.Actions[0].UID != "u" {
		t.Errorf("%+v", res)
	}
	old.DeletionTimestamp = &metav1.Time{Time: now}
	if res := Plan(old, now); len(res.Actions) > 0 {
		t.Errorf("%+v", res)
	}
}

func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.PodCertificateRequest})
	for _, name := range []string{"a", "b"} {
		w.Put(kinds.PodCertificateRequest, &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name}})
	}
	if _, err := w.Drive(1, 20, 10*time.Minute, Controller()); err != nil || len(w.Objects(kinds.PodCertificateRequest)) != 2 {
		t.Fatalf("%v, %d left", err, len(w.Objects(kinds.PodCertificateRequest)))
	}
	if _, err := w.Drive(1, 20, 20*time.Minute, Controller()); err != nil || len(w.Objects(kinds.PodCertificateRequest)) != 0 {
		t.Fatalf("%v, %d left", err, len(w.Objects(kinds.PodCertificateRequest)))
	}
}

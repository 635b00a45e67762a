package vacprotection

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func class(name string, leaving bool, finalizers ...string) *storagev1.VolumeAttributesClass {
	c := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", Finalizers: finalizers}}
	if leaving {
		c.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	}
	return c
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Observed
		want string
	}{
		{"lives", Observed{Class: class("c", false, Finalizer)}, ""},
		{"lives unprotected", Observed{Class: class("c", false)}, `{"metadata":{"finalizers":["` + Finalizer + `"]}}`},
		{"goes, used", Observed{Class: class("c", true, Finalizer), Used: true}, ""},
		{"goes, unused", Observed{Class: class("c", true, Finalizer, "x")}, `{"metadata":{"finalizers":["x"]}}`},
	} {
		res, got := Plan(tt.o), ""
		if len(res.Actions) == 1 {
			got = string(res.Actions[0].Data)
		}
		if got != tt.want || len(res.Actions) > 1 {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.VolumeAttributesClass, kinds.PersistentVolume, kinds.PersistentVolumeClaim})
	drive := func() {
		t.Helper()
		if _, err := w.Drive(1, 50, time.Minute, Controller()); err != nil {
			t.Fatal(err)
		}
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "c"}}
	claim.Status.ModifyVolumeStatus = &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "gold"}
	w.Put(kinds.PersistentVolumeClaim, claim)
	w.Put(kinds.PersistentVolume, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: ptr.To("silver")}})
	for _, name := range []string{"gold", "silver", "free"} {
		w.Put(kinds.VolumeAttributesClass, class(name, true, Finalizer))
	}
	drive()
	left := func() (out string) {
		for _, o := range w.Objects(kinds.VolumeAttributesClass) {
			out += " " + o.GetName()
		}
		return out
	}
	if got := left(); got != " gold silver" {
		t.Errorf("left are%s", got)
	}
	w.Remove(kinds.PersistentVolume, "", "v")
	drive()
	if got := left(); got != " gold" {
		t.Errorf("left are%s", got)
	}
	now := w.Object(kinds.PersistentVolumeClaim, "a", "c").DeepCopyObject().(*corev1.PersistentVolumeClaim)
	now.Status.ModifyVolumeStatus = nil
	w.Put(kinds.PersistentVolumeClaim, now)
	drive()
	if got := left(); got != "" {
		t.Errorf("left are%s", got)
	}
}

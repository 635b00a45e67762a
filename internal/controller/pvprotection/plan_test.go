package pvprotection

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func volume(name string, phase corev1.PersistentVolumePhase, leaving bool, finalizers ...string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", Finalizers: finalizers}, Status: corev1.PersistentVolumeStatus{Phase: phase}}
	if leaving {
		pv.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	}
	return pv
}

func given(pv *corev1.PersistentVolume, to types.UID) *corev1.PersistentVolume {
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "a", Name: "c", UID: to}
	return pv
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name string
		pv   *corev1.PersistentVolume
		want string
	}{
		{"lives", volume("v", corev1.VolumeBound, false, Finalizer), ""},
		{"lives unprotected", volume("v", corev1.VolumeBound, false, "x"), `{"metadata":{"finalizers":["x","` + Finalizer + `"]}}`},
		{"goes, bound", volume("v", corev1.VolumeBound, true, Finalizer), ""},
		{"goes, free", volume("v", corev1.VolumeReleased, true, "x", Finalizer), `{"metadata":{"finalizers":["x"]}}`},
		{"goes, just given to a claim", given(volume("v", corev1.VolumeAvailable, true, Finalizer), "c"), ""},
		{"goes, only meant for a claim", given(volume("v", corev1.VolumeAvailable, true, "x", Finalizer), ""), `{"metadata":{"finalizers":["x"]}}`},
		{"goes, given back", given(volume("v", corev1.VolumeReleased, true, "x", Finalizer), "c"), `{"metadata":{"finalizers":["x"]}}`},
		{"goes unprotected", volume("v", corev1.VolumeReleased, true, "x"), ""},
	} {
		res, got := Plan(tt.pv), ""
		if len(res.Actions) == 1 {
			got = string(res.Actions[0].Data)
		}
		if got != tt.want || len(res.Actions) > 1 {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.PersistentVolume})
	w.Put(kinds.PersistentVolume, volume("old", corev1.VolumeAvailable, false))
	w.Put(kinds.PersistentVolume, volume("used", corev1.VolumeBound, true, Finalizer))
	w.Put(kinds.PersistentVolume, volume("free", corev1.VolumeAvailable, true, Finalizer))
	for range 2 { // the second time there is nothing to do
		if _, err := w.Drive(1, 50, time.Minute, Controller()); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.Writes) != 2 {
		t.Errorf("writes %v", w.Writes)
	}
	if w.Object(kinds.PersistentVolume, "", "free") != nil || w.Object(kinds.PersistentVolume, "", "used") == nil {
		t.Error("the free one goes, the used one stays")
	}
	if f := w.Object(kinds.PersistentVolume, "", "old").GetFinalizers(); !slices.Equal(f, []string{Finalizer}) {
		t.Errorf("finalizers %q", f)
	}
}

package pvcprotection

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type claimOption func(*corev1.PersistentVolumeClaim)

func claim(opts ...claimOption) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p-data", UID: "u-c", ResourceVersion: "5", Finalizers: []string{"other", Finalizer}}}
	for _, o := range opts {
		o(c)
	}
	return c
}

func leaving(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{Time: noon} }
func bare(c *corev1.PersistentVolumeClaim)    { c.Finalizers = nil }
func bound(c *corev1.PersistentVolumeClaim)   { c.Status.Phase = corev1.ClaimBound }
func made(c *corev1.PersistentVolumeClaim) {
	c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u-p", Controller: ptr.To(true)}}
}
func said(s corev1.ConditionStatus) claimOption {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Status.Conditions = append(c.Status.Conditions, corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimUnused, Status: s})
	}
}

func pod(node string, opts ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "u-p"}, Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{
		{Name: "x", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "p-data"}}}}}}
	for _, o := range opts {
		o(p)
	}
	return p
}

func ephemeral(p *corev1.Pod) {
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
}
func succeeded(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
func killed(p *corev1.Pod) {
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: noon}, ptr.To(int64(0))
}

func describe(t *testing.T, res plan.Result) string {
	t.Helper()
	var out []string
	for _, a := range res.Actions {
		if a.UID == "" || a.ResourceVersion == "" || a.Verb != plan.Patch {
			t.Errorf("%+v does not say what it looked at", a)
		}
		var body struct {
			Metadata struct{ Finalizers []string }
			Status   struct {
				Conditions []corev1.PersistentVolumeClaimCondition
			}
		}
		if err := json.Unmarshal(a.Data, &body); err != nil {
			t.Fatal(err)
		}
		if a.Ref.Sub == "status" {
			out = append(out, fmt.Sprintf("unused %s", body.Status.Conditions[0].Status))
		} else {
			out = append(out, strings.Join(append([]string{"finalizers"}, body.Metadata.Finalizers...), " "))
		}
	}
	if res.After > 0 {
		out = append(out, "after "+res.After.String())
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	const release, wait = "finalizers other", "after 100ms"
	protect := "finalizers " + Finalizer
	pods := func(list ...*corev1.Pod) []*corev1.Pod { return list }
	for _, tt := range []struct {
		name  string
		claim *corev1.PersistentVolumeClaim
		pods  []*corev1.Pod
		late  bool
		want  string
	}{
		{"lives", claim(), nil, false, ""},
		{"lives unprotected", claim(bare), nil, false, protect},
		{"goes unprotected", claim(bare, leaving), pods(pod("n")), false, ""},
		{"goes, unused", claim(leaving), nil, false, release},
		{"goes, the view is behind", claim(leaving), nil, true, wait},
		{"goes, a pod has it", claim(leaving), pods(pod("n")), false, ""},
		{"goes, a pod that is not placed names it", claim(leaving), pods(pod("")), false, release},
		{"goes, a pod that has ended has it", claim(leaving), pods(pod("n", succeeded)), false, ""},
		{"goes, made for a pod that runs", claim(leaving, made), pods(pod("n", ephemeral)), false, ""},
		{"goes, a pod that was killed has it", claim(leaving), pods(pod("n", killed)), false, ""},
		{"goes with a pod that was killed", claim(leaving, made), pods(pod("n", killed)), false, release},
		{"goes with a pod that runs", claim(leaving, made), pods(pod("n")), false, ""},
		{"goes, made for a pod that was killed", claim(leaving, made), pods(pod("n", ephemeral, killed)), false, release},
		{"goes, not made for the pod that has its name", claim(leaving), pods(pod("n", ephemeral)), false, release},
		{"bound, unused", claim(bound), nil, false, "unused True"},
		{"bound, unused, the view is behind", claim(bound), nil, true, wait},
		{"bound, in use", claim(bound), pods(pod("")), false, "unused False"},
		{"bound, in use by one that has ended", claim(bound, said(corev1.ConditionFalse)), pods(pod("n", succeeded)), false, "unused True"},
		{"bound, said already", claim(bound, said(corev1.ConditionTrue)), nil, false, ""},
		{"bound, said already to be used", claim(bound, said(corev1.ConditionFalse)), pods(pod("n")), false, ""},
		{"bound and going", claim(bound, leaving), nil, false, release},
	} {
		if got := describe(t, Plan(Observed{Claim: tt.claim, Pods: tt.pods, CaughtUp: !tt.late, Now: noon})); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Pod, kinds.PersistentVolumeClaim}, view.PodsByClaim)
	drive := func() {
		t.Helper()
		w.View.ProgressAll(1000)
		if _, err := w.Drive(1, 100, time.Minute, Controller()); err != nil {
			t.Fatal(err)
		}
	}
	c := claim(bare, bound)
	c.ResourceVersion = ""
	w.Put(kinds.PersistentVolumeClaim, c)
	w.Put(kinds.Pod, pod("n"))
	drive()
	have := w.Object(kinds.PersistentVolumeClaim, "a", "p-data").(*corev1.PersistentVolumeClaim)
	if !slices.Equal(have.Finalizers, []string{Finalizer}) || len(have.Status.Conditions) != 1 || have.Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Errorf("%q, %+v", have.Finalizers, have.Status.Conditions)
	}
	have = have.DeepCopy()
	leaving(have)
	w.Put(kinds.PersistentVolumeClaim, have)
	drive()
	if w.Object(kinds.PersistentVolumeClaim, "a", "p-data") == nil {
		t.Fatal("gone while a pod has it")
	}
	w.Remove(kinds.Pod, "a", "p")
	drive()
	if w.Object(kinds.PersistentVolumeClaim, "a", "p-data") != nil {
		t.Error("it stays though nobody has it")
	}
	writes := len(w.Writes)
	drive()
	if len(w.Writes) != writes {
		t.Errorf("more writes: %v", w.Writes[writes:])
	}
}

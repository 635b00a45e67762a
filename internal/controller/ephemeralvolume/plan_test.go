package ephemeralvolume

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func pod(volumes ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "u-p"}}
	p.Spec.Volumes = []corev1.Volume{{Name: "other", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "x"}}}}
	for _, name := range volumes {
		t := &corev1.PersistentVolumeClaimTemplate{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"l": name}, Annotations: map[string]string{"a": name}}}
		t.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: t}}})
	}
	return p
}

func with(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod {
	change(p)
	return p
}

// claims of that name and owner.
func claims(owners map[string]string) func(string) *corev1.PersistentVolumeClaim {
	return func(name string) *corev1.PersistentVolumeClaim {
		owner, ok := owners[name]
		if !ok {
			return nil
		}
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
		if owner != "" {
			c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u-" + "p"}}, kinds.Pod.GVK)}
			c.OwnerReferences[0].Name = owner
			if owner != "p" {
				c.OwnerReferences[0].UID = "u-other"
			}
		}
		return c
	}
}

func describe(res plan.Result) string {
	var out []string
	for _, a := range res.Actions {
		out = append(out, fmt.Sprintf("%s %s", a.Verb, a.Ref.Name))
	}
	if (res.After > 0) != (len(res.Events) > 0) {
		out = append(out, "after "+res.After.String())
	}
	for _, e := range res.Events {
		out = append(out, e.Reason+" "+e.Message)
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	const conflict = "FailedBinding ephemeral volume d: PVC a/p-d was not created for pod a/p (pod is not owner)"
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		have map[string]string
		want string
	}{
		{"none", pod(), nil, ""},
		{"one", pod("d"), nil, "create p-d"},
		{"two, in order", pod("e", "d"), nil, "create p-e, create p-d"},
		{"there", pod("d"), map[string]string{"p-d": "p"}, ""},
		{"nobody's", pod("d"), map[string]string{"p-d": ""}, conflict},
		{"an earlier pod's", pod("d"), map[string]string{"p-d": "old"}, conflict},
		{"another's, and one that is missing", pod("e", "d", "f"), map[string]string{"p-d": ""}, "create p-e, " + conflict},
		{"the pod goes", with(pod("d"), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), nil, ""},
		{"the pod has ended", with(pod("d"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), nil, ""},
	} {
		if got := describe(Plan(Observed{Pod: tt.pod, Claim: claims(tt.have)})); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestClaim(t *testing.T) {
	a := Plan(Observed{Pod: pod("d"), Claim: claims(nil)}).Actions[0]
	c := a.Object.(*corev1.PersistentVolumeClaim)
	if c.Namespace != "a" || c.Labels["l"] != "d" || c.Annotations["a"] != "d" || len(c.Spec.AccessModes) != 1 || len(c.OwnerReferences) != 1 {
		t.Errorf("%+v", c)
	}
	if r := c.OwnerReferences[0]; r.UID != "u-p" || r.Kind != "Pod" || r.APIVersion != "v1" || !*r.Controller || !*r.BlockOwnerDeletion {
		t.Errorf("%+v", r)
	}
	if f := a.Failed; f.Message != "ephemeral volume d: create PVC p-d: " || f.UID != "u-p" || f.Type != corev1.EventTypeWarning {
		t.Errorf("%+v", f)
	}
}

func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.Pod, kinds.PersistentVolumeClaim}, view.PodsByClaim)
	drive := func() []plan.Event {
		t.Helper()
		events, err := w.Drive(1, 100, time.Second, Controller())
		if err != nil {
			t.Fatal(err)
		}
		return events.All
	}
	w.Put(kinds.Pod, pod("d", "e"))
	drive()
	want := []string{"create persistentvolumeclaims a/p-d", "create persistentvolumeclaims a/p-e"}
	if !slices.Equal(w.Writes, want) {
		t.Fatalf("%q", w.Writes)
	}
	drive()
	w.Remove(kinds.PersistentVolumeClaim, "a", "p-d") // somebody deleted it
	drive()
	if len(w.Writes) != 3 || w.Writes[2] != want[0] {
		t.Fatalf("%q", w.Writes)
	}
	w.Remove(kinds.PersistentVolumeClaim, "a", "p-d")
	w.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error { return errors.New("no") }
	if events := drive(); len(events) == 0 || events[0].Message != "ephemeral volume d: create PVC p-d: no" {
		t.Errorf("%+v", events)
	}
}

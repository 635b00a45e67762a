package kubelet

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// stock of objects, by kind and name.
type stock map[*kinds.Kind]kinds.Object

func (s stock) Get(_ context.Context, k *kinds.Kind, _, name string) (kinds.Object, error) {
	if o := s[k]; o != nil && o.GetName() == name {
		return o, nil
	}
	return nil, apierrors.NewNotFound(k.GroupResource(), name)
}

func (stock) Watch(*kinds.Kind, string, string, func()) func() { return func() {} }

func TestPersistentVolume(t *testing.T) {
	const unable = "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: "
	type world struct {
		pod   *corev1.Pod
		claim *corev1.PersistentVolumeClaim
		pv    *corev1.PersistentVolume
	}
	own := func(w *world) {
		w.pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
		w.claim.Name = "p-data"
	}
	at := func(zone string) func(*world) {
		return func(w *world) {
			w.pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}}}}}}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*world)
		want   string
	}{
		{"bound", func(*world) {}, ""},
		{"no claim", func(w *world) { w.claim.Name = "x" }, unable + `error processing PVC a/c: failed to fetch PVC from API server: persistentvolumeclaims "c" not found`},
		{"unbound", func(w *world) { w.claim.Status.Phase = corev1.ClaimPending }, unable + "error processing PVC a/c: PVC is not bound"},
		{"bound to nothing", func(w *world) { w.claim.Spec.VolumeName = "" }, unable + "error processing PVC a/c: PVC has empty pvc.Spec.VolumeName"},
		{"going, but held", func(w *world) {
			w.claim.DeletionTimestamp, w.claim.Finalizers = &metav1.Time{}, []string{claimFinalizer}
		}, ""},
		{"going", func(w *world) { w.claim.DeletionTimestamp = &metav1.Time{} }, unable + "error processing PVC a/c: PVC is being deleted"},
		{"no volume", func(w *world) { w.pv.Name = "x" }, unable + `error processing PVC a/c: failed to fetch PV pv from API server: persistentvolumes "pv" not found`},
		{"the volume is free", func(w *world) { w.pv.Spec.ClaimRef = nil }, unable + "error processing PVC a/c: found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"},
		{"the volume is another's", func(w *world) { w.pv.Spec.ClaimRef.UID = "u-other" }, unable + "error processing PVC a/c: found PV object pv but its pv.Spec.ClaimRef.UID u-other does not point to claim.UID u-c"},
		{"a device", func(w *world) {
			block := corev1.PersistentVolumeBlock
			w.pv.Spec.VolumeMode = &block
		}, unable + "volume data has volumeMode Block, but is specified in volumeMounts"},
		{"made for the pod", func(w *world) {
			own(w)
			w.claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(w.pod, kinds.Pod.GVK)}
		}, ""},
		{"made for another pod", own, unable + "PVC a/p-data was not created for pod a/p (pod is not owner)"},
		{"here", at("west"), ""},
		{"elsewhere", at("east"), `MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
	} {
		w := &world{
			pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "u-p"}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "data"}}}},
				Volumes:    []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}}},
			claim: &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "c", UID: "u-c"},
				Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}},
			pv: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: "u-c"}}},
		}
		tt.change(w)
		v := view.New([]*kinds.Kind{kinds.Node})
		v.Apply(view.Change{Kind: kinds.Node, New: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"zone": "west"}}}, Rev: 1})
		s := newSource(Config{NodeName: "n", View: v, Objects: stock{kinds.PersistentVolumeClaim: w.claim, kinds.PersistentVolume: w.pv}})
		pv, err := s.PersistentVolume(t.Context(), w.pod, &w.pod.Spec.Volumes[0])
		switch {
		case tt.want == "" && (err != nil || pv != w.pv):
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || err.Error() != tt.want):
			t.Errorf("%s: %v\nwant %s", tt.name, err, strings.TrimSpace(tt.want))
		}
	}
}

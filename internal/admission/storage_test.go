package admission

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
)

func storageClass(name string, age int, isDefault, grows bool) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: meta("", name), AllowVolumeExpansion: &grows}
	c.CreationTimestamp = metav1.NewTime(time.Unix(int64(1000-age), 0))
	if isDefault {
		c.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	}
	return c
}

func volumeClaim(size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: meta("a", "c"), Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}}
}

func TestDefaultStorageClass(t *testing.T) {
	w := newWorld(t, namespace("a"), storageClass("other", 0, false, false))
	claim := volumeClaim("1Gi")
	want(t, w.admit(create(kinds.PersistentVolumeClaim, claim)), 0, "")
	if claim.Spec.StorageClassName != nil {
		t.Errorf("class %q without a default", *claim.Spec.StorageClassName)
	}
	for _, c := range []*storagev1.StorageClass{storageClass("old", 9, true, false), storageClass("b", 1, true, false), storageClass("a", 1, true, false)} {
		w.set(c)
	}
	claim = volumeClaim("1Gi")
	want(t, w.admit(create(kinds.PersistentVolumeClaim, claim)), 0, "")
	if got := ptr.Deref(claim.Spec.StorageClassName, ""); got != "a" {
		t.Errorf("class %q, want the youngest and first", got)
	}
	none := volumeClaim("1Gi")
	none.Spec.StorageClassName = ptr.To("")
	want(t, w.admit(create(kinds.PersistentVolumeClaim, none)), 0, "")
	if *none.Spec.StorageClassName != "" {
		t.Error("who wants no class gets one")
	}
}

func TestDefaultIngressClass(t *testing.T) {
	class := &networkingv1.IngressClass{ObjectMeta: meta("", "main")}
	class.Annotations = map[string]string{"ingressclass.kubernetes.io/is-default-class": "true"}
	w := newWorld(t, namespace("a"), class)
	ingress, old := &networkingv1.Ingress{ObjectMeta: meta("a", "i")}, &networkingv1.Ingress{ObjectMeta: meta("a", "o")}
	old.Annotations = map[string]string{"kubernetes.io/ingress.class": "x"}
	want(t, w.admit(create(kinds.Ingress, ingress)), 0, "")
	want(t, w.admit(create(kinds.Ingress, old)), 0, "")
	if got := ptr.Deref(ingress.Spec.IngressClassName, ""); got != "main" || old.Spec.IngressClassName != nil {
		t.Errorf("classes %q and %v", got, old.Spec.IngressClassName)
	}
}

func TestStorageInUse(t *testing.T) {
	w := newWorld(t, namespace("a"))
	for k, finalizer := range map[*kinds.Kind]string{kinds.PersistentVolumeClaim: "kubernetes.io/pvc-protection", kinds.PersistentVolume: "kubernetes.io/pv-protection",
		kinds.VolumeAttributesClass: "kubernetes.io/vac-protection", kinds.StorageClass: ""} {
		o := k.New()
		o.SetName("x")
		o.SetFinalizers([]string{"mine"})
		if k.Namespaced {
			o.SetNamespace("a")
		}
		for range 2 { // the plugins may run twice
			want(t, w.admit(create(k, o)), 0, "")
		}
		expect := []string{"mine"}
		if finalizer != "" {
			expect = append(expect, finalizer)
		}
		if !slices.Equal(o.GetFinalizers(), expect) {
			t.Errorf("%s: %q", k, o.GetFinalizers())
		}
	}
}

func TestClaimResize(t *testing.T) {
	w := newWorld(t, namespace("a"), storageClass("grows", 0, false, true), storageClass("fixed", 0, false, false))
	for _, tt := range []struct {
		class, from, to string
		phase           corev1.PersistentVolumeClaimPhase
		code            int32
		part            string
	}{
		{"grows", "1Gi", "2Gi", corev1.ClaimBound, 0, ""},
		{"grows", "1Gi", "2Gi", corev1.ClaimPending, 403, "Only bound persistent volume claims can be expanded"},
		{"fixed", "1Gi", "2Gi", corev1.ClaimBound, 403, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"},
		{"", "1Gi", "2Gi", corev1.ClaimBound, 403, "only dynamically provisioned"},
		{"absent", "1Gi", "2Gi", corev1.ClaimBound, 403, "only dynamically provisioned"},
		{"fixed", "1Gi", "1024Mi", corev1.ClaimBound, 0, ""},
	} {
		old, now := volumeClaim(tt.from), volumeClaim(tt.to)
		old.Status.Phase = tt.phase
		old.Spec.StorageClassName, now.Spec.StorageClassName = &tt.class, &tt.class
		want(t, w.admit(&Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.PersistentVolumeClaim}, Object: now, Old: old}), tt.code, tt.part)
	}
}

func TestLimitsOfWhatGoes(t *testing.T) {
	lr := &corev1.LimitRange{ObjectMeta: meta("a", "l"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypePersistentVolumeClaim, Max: amount("storage", "1Gi")}}}}
	w := newWorld(t, namespace("a"), lr)
	old := volumeClaim("2Gi")
	r := func() *Request {
		return &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.PersistentVolumeClaim}, Object: volumeClaim("2Gi"), Old: old}
	}
	want(t, w.admit(r()), 403, "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi")
	old.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	want(t, w.admit(r()), 0, "")
}

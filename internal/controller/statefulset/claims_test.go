package statefulset

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

const (
	retain = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
)

// claiming sets have one claim per pod, data.
func claiming(s *appsv1.StatefulSet) {
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"mine": "too"}}}}
}

func keeping(deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType) setOption {
	return func(s *appsv1.StatefulSet) {
		claiming(s)
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: deleted, WhenScaled: scaled}
	}
}

func claim(name string, owners ...metav1.OwnerReference) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "c", OwnerReferences: owners}}
}

func leavingClaim(name string) *corev1.PersistentVolumeClaim {
	c := claim(name)
	c.DeletionTimestamp = &metav1.Time{Time: now}
	return c
}

func mounting(p *corev1.Pod) {
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-" + p.Name}}}}
}

func TestClaims(t *testing.T) {
	r1 := revision("v1", 1)
	toSet := *metav1.NewControllerRef(set(0), kinds.StatefulSet.GVK)
	to := func(n int) metav1.OwnerReference { return *metav1.NewControllerRef(pod(n), kinds.Pod.GVK) }
	earlier := func(r metav1.OwnerReference) metav1.OwnerReference { r.UID = "earlier"; return r }
	loose := toSet
	loose.Controller = nil
	someone := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}
	controller := someone
	yes := true
	controller.Controller = &yes
	both := []any{pod(0, mounting), pod(1, mounting), r1}
	in := func(s *appsv1.StatefulSet, things ...any) Observed {
		return observed(s, append(slices.Clone(both), things...)...)
	}
	for _, tt := range []struct {
		name string
		in   Observed
		want []string
	}{
		{"a claim, then the pod", observed(set(2, claiming), r1), []string{"create claim data-web-0 ", "create web-0 v1"}},
		{"the claim is there", observed(set(2, claiming), r1, claim("data-web-0")), []string{"create web-0 v1"}},
		{"the claim goes away", observed(set(2, claiming), r1, leavingClaim("data-web-0")), nil},
		{"all at once", observed(set(2, claiming, parallel), r1), []string{"create claim data-web-0 ", "create claim data-web-1 ", "create web-0 v1", "create web-1 v1"}},
		{"a pending pod's claim is lost", observed(set(1, claiming), r1, pod(0, mounting, pending)), []string{"create claim data-web-0 "}},
		{"a running pod's claim is lost", observed(set(1, claiming), r1, pod(0, mounting)), nil},
		{"an adopted pod without the volume", observed(set(1, claiming), r1, pod(0), claim("data-web-0")), []string{"update web-0 v1"}},
		{"a claim that goes with the set", observed(set(1, keeping(remove, retain)), r1), []string{"create claim data-web-0 StatefulSet:web", "create web-0 v1"}},
		{"a claim that goes with an earlier pod", observed(set(1, keeping(retain, remove)), r1, claim("data-web-0", earlier(to(0)))), nil},
		{"which does not matter to one that is kept", observed(set(1, claiming), r1, claim("data-web-0", earlier(to(0)))), []string{"create web-0 v1"}},

		{"kept", in(set(2, keeping(retain, retain)), claim("data-web-0"), claim("data-web-1")), nil},
		{"kept from now on", in(set(2, keeping(retain, retain)), claim("data-web-0", someone, toSet)), []string{"update claim data-web-0 ConfigMap:x"}},
		{"deleted with the set", in(set(2, keeping(remove, retain)), claim("data-web-0"), claim("data-web-1", toSet)), []string{"update claim data-web-0 StatefulSet:web"}},
		{"deleted with the set: a loose owner is tied", in(set(2, keeping(remove, retain)), claim("data-web-0", loose)), []string{"update claim data-web-0 StatefulSet:web"}},
		{"deleted with the set, also when scaled away", in(set(1, keeping(remove, retain)), claim("data-web-1")), []string{"update claim data-web-1 StatefulSet:web", "delete web-1"}},
		{"deleted when scaled: not yet", in(set(2, keeping(retain, remove)), claim("data-web-0"), claim("data-web-1", to(1))), []string{"update claim data-web-1 "}},
		{"deleted when scaled", in(set(1, keeping(retain, remove)), claim("data-web-1")), []string{"update claim data-web-1 Pod:web-1", "delete web-1"}},
		{"both: the set's", in(set(2, keeping(remove, remove)), claim("data-web-0"), claim("data-web-1", toSet)), []string{"update claim data-web-0 StatefulSet:web"}},
		{"both: the pod's", in(set(1, keeping(remove, remove)), claim("data-web-1", toSet)), []string{"update claim data-web-1 Pod:web-1", "delete web-1"}},
		{"both: the set's again", in(set(2, keeping(remove, remove)), claim("data-web-1", to(1))), []string{"update claim data-web-1 StatefulSet:web"}},
		{"an earlier set's is left alone", in(set(2, keeping(remove, remove)), claim("data-web-0", earlier(toSet)), claim("data-web-1", earlier(to(1)))), nil},
		{"something else controls it", in(set(2, keeping(remove, retain)), claim("data-web-0", controller)), nil},
		{"something else controls it, too", in(set(2, keeping(remove, retain)), claim("data-web-0", controller, toSet)), []string{"update claim data-web-0 ConfigMap:x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := summary(Plan(tt.in)); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestClaimOfSet(t *testing.T) {
	res := Plan(observed(set(1, claiming), revision("v1", 1)))
	a := res.Actions[len(res.Actions)-2]
	c := a.Object.(*corev1.PersistentVolumeClaim)
	if c.Namespace != "default" || c.Labels["app"] != "web" || c.Labels["mine"] != "too" {
		t.Errorf("claim %+v", c)
	}
	if e := a.Event; e.Reason != "SuccessfulCreate" || e.Message != "Create Claim data-web-0 Pod web-0 in StatefulSet web success" {
		t.Errorf("event %+v", e)
	}
	if e := a.Failed; e.Reason != "FailedCreate" || e.Message != "Create Claim data-web-0 for Pod web-0 in StatefulSet web failed error: " {
		t.Errorf("event %+v", e)
	}
	last := res.Actions[len(res.Actions)-1]
	if last.Parallel {
		t.Error("the pod does not wait for its claim")
	}
	v := last.Object.(*corev1.Pod).Spec.Volumes
	if len(v) != 2 || v[0].Name != "data" || v[0].PersistentVolumeClaim.ClaimName != "data-web-0" || v[1].Name != "tmp" {
		t.Errorf("volumes %+v", v)
	}
	res = Plan(observed(set(1, claiming), revision("v1", 1), leavingClaim("data-web-0")))
	if len(res.Events) != 1 || res.Events[0].Message != "Create Pod web-0 in StatefulSet web failed error: pvc data-web-0 is being deleted" {
		t.Errorf("events %+v", res.Events)
	}
}
